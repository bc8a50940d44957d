"""Load batches of augmented samples from a set of shards.

MindDataset only reads raw rows, in an order that this module chooses, so the order of the samples does not depend on
the number of threads or ranks. Threads of this package write each row straight into its batch
(`pipeline.loading.collate`), without a copy between the decoder and the batch.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.loading.augment import Augmentation, AugmentConfig
from pipeline.loading.collate import Batch, Collator
from pipeline.loading.prefetch import Task, prefetch_batches
from pipeline.loading.targets import TargetConfig
from pipeline.maps import NUM_HEATMAPS, NUM_PAFS, STRIDE
from pipeline.sample import Size
from pipeline.skeleton import NUM_KEYPOINTS
from pipeline.storage.manifest import Manifest
from pipeline.storage.mindrecord_reader import Row, read_rows
from pipeline.storage.records import TRAIN_COLUMNS
from pipeline.system.buffers import BufferPool
from pipeline.system.cpu import default_threads


def epoch_order(
    records: int, *, batch_size: int, seed: int, epoch: int, rank: int, world_size: int
) -> NDArray[np.int64]:
    """Return the record indices of one rank for one epoch, in the order in which the rank reads them.

    All ranks share one random permutation of the records. A step takes the next batch_size * world_size records of it
    and deals them out to the ranks in turn, so the global order does not depend on the number of ranks. The last
    records, which do not fill a step, are dropped.

    Returns:
        (batches, batch_size) int64 record indices.
    """
    step = batch_size * world_size
    batches = records // step
    order = np.random.default_rng((seed, epoch)).permutation(records)[: batches * step]
    return order.reshape(batches, batch_size, world_size)[:, :, rank]


@dataclass(frozen=True)
class Batches(Iterable[Batch]):
    """Batches of one epoch of one rank, see `create_batches`. Each iteration starts at the first batch.

    A batch is a dictionary of arrays:

        image_id: (B,) int64.
        image: (B, H, W, 3) uint8 BGR.
        keypoints: (B, M, K, 3) float32 x, y in px of the image and visibility; rows without a person are 0.
        mask: (B, h, w) uint8, 1 where the loss counts.
        heatmaps, pafs: (B, K + 1, h, w) and (B, 2L, h, w) float32, only if targets are rendered.
    """

    folder: Path
    manifest: Manifest
    indices: NDArray[np.int64]
    max_people: int
    threads: int
    collator: Collator

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[Batch]:
        import cv2

        cv2.setNumThreads(0)  # OpenCV's own threads would compete with the threads of prefetch_batches
        order = self.indices.ravel().tolist()
        batches, batch_size = self.indices.shape
        return prefetch_batches(
            self._indexed_rows(order),
            partial(self._prepare, BufferPool()),
            batches=batches,
            batch_size=batch_size,
            threads=self.threads,
            max_pending=2 + -(-2 * self.threads // batch_size),
        )

    def _indexed_rows(self, order: list[int]) -> Generator[tuple[int, Row]]:
        rows = read_rows(self.folder, self.manifest, TRAIN_COLUMNS, order)
        try:
            yield from zip(order, rows, strict=True)
        finally:
            rows.close()

    def _allocate(self, buffers: BufferPool) -> Batch:
        batch_size = self.indices.shape[1]
        height, width = self.collator.size
        grid = (height // STRIDE, width // STRIDE)
        batch: Batch = {
            "image_id": np.empty(batch_size, dtype=np.int64),
            "image": buffers.array((batch_size, height, width, 3), np.uint8),
            "keypoints": np.zeros((batch_size, self.max_people, NUM_KEYPOINTS, 3), dtype=np.float32),
            "mask": np.empty((batch_size, *grid), dtype=np.uint8),
        }
        if self.collator.targets is not None:
            batch["heatmaps"] = buffers.array((batch_size, NUM_HEATMAPS, *grid), np.float32)
            batch["pafs"] = buffers.array((batch_size, NUM_PAFS, *grid), np.float32)
        return batch

    def _prepare(self, buffers: BufferPool, rows: list[tuple[int, Row]]) -> tuple[Batch, list[Task]]:
        """Return a batch that is complete except for its images, and one task per image that writes it."""
        batch = self._allocate(buffers)
        tasks: list[Task] = []
        for index, (record, row) in enumerate(rows):
            try:
                augmentation = self.collator.write_labels(row, batch, index)
            except InputError as error:
                raise self._record_error(error, record, row) from error
            tasks.append(partial(self._write_image, record, row, augmentation, batch, index))
        return batch, tasks

    def _write_image(self, record: int, row: Row, augmentation: Augmentation, batch: Batch, index: int) -> None:
        try:
            self.collator.write_image(row, augmentation, batch, index)
        except InputError as error:
            raise self._record_error(error, record, row) from error

    def _record_error(self, error: InputError, record: int, row: Row) -> InputError:
        """Add the shard file, the image id and the remedy to an error in a record."""
        file = self.folder / self._shard_file(record)
        return InputError(f"{file}: image {int(row['image_id'])}: {error}: run make shards again")

    def _shard_file(self, record: int) -> str:
        ends = np.cumsum([shard.records for shard in self.manifest.shards])
        return self.manifest.shards[int(np.searchsorted(ends, record, side="right"))].file


def _check_request(
    folder: Path, manifest: Manifest, size: Size, max_people: int, batch_size: int, world_size: int
) -> None:
    """Raise InputError if the size, max_people or batch size does not suit the set."""
    height, width = size
    if height < STRIDE or width < STRIDE or height % STRIDE or width % STRIDE:
        raise InputError(f"size {height}x{width}: expected height and width in multiples of {STRIDE} px")
    if max_people < manifest.max_people:
        raise InputError(f"{folder}: max_people is {max_people}, but an image has {manifest.max_people} people")
    step = batch_size * world_size
    if manifest.records < step:
        raise InputError(
            f"{folder}: {manifest.records} records, but a step takes {step}: "
            f"batch size {batch_size} on {world_size} ranks"
        )


def create_batches(
    folder: Path,
    *,
    size: int | Size,
    batch_size: int,
    max_people: int,
    seed: int,
    epoch: int,
    rank: int = 0,
    world_size: int = 1,
    threads: int | None = None,
    augment: AugmentConfig | None,
    targets: TargetConfig | None = None,
    start: int = 0,
    stop: int | None = None,
) -> Batches:
    """Create the batches of one epoch for one rank. The same arguments give the same bytes.

    Args:
        folder: folder of a set of shards.
        size: px of the network's input, (height, width) or the side of a square; multiples of 8.
        batch_size: samples per batch on each rank.
        max_people: M, at least the largest number of people in a record.
        seed: random seed. With the epoch it determines the order; with the epoch and the image id, an augmentation.
        epoch: counted from 0.
        rank: rank of this process.
        world_size: number of ranks.
        threads: number of threads that decode and augment; by default this rank's share of the cores. The batches do
            not depend on it.
        augment: distribution of the augmentations; None fits the whole image into the input instead.
        targets: settings of the heatmaps and part affinity fields to render; None renders none.
        start: index of the first batch, to resume within an epoch.
        stop: index after the last batch; None for the end of the epoch.

    Raises:
        InputError: the set is missing, damaged or has fewer records than a step takes; an image has more than
            max_people people; the size is not a multiple of 8; during iteration, an image cannot be decoded.
    """
    height, width = (size, size) if isinstance(size, int) else size
    manifest = Manifest.load(folder)
    _check_request(folder, manifest, (height, width), max_people, batch_size, world_size)
    order = epoch_order(
        manifest.records, batch_size=batch_size, seed=seed, epoch=epoch, rank=rank, world_size=world_size
    )
    return Batches(
        folder=folder,
        manifest=manifest,
        indices=order[start:stop],
        max_people=max_people,
        threads=threads or default_threads(world_size),
        collator=Collator((height, width), seed, epoch, augment, targets, manifest.exif),
    )
