"""Batches of augmented samples from a set of shards, and its records for evaluation.

The only module that uses mindspore.dataset, and as a reader of raw rows in an order of our own: threads of ours decode
each row and warp it straight into its place of the batch. That leaves nothing between decoder and batch to be copied,
and makes the order independent of threads and ranks.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.augment import Augmentation, AugmentConfig, Size, affine, draw, fit, move_keypoints
from pipeline.cores import default_threads
from pipeline.errors import InputError
from pipeline.manifest import Manifest
from pipeline.maps import NUM_HEATMAPS, NUM_PAFS, STRIDE
from pipeline.pictures import decode
from pipeline.records import EVAL_COLUMNS, TRAIN_COLUMNS, raw_bytes, unpack, unpack_ignore, unpack_keypoints
from pipeline.sample import Annotation, Sample
from pipeline.skeleton import NUM_KEYPOINTS
from pipeline.targets import TargetConfig, encode_maps

Batch = dict[str, NDArray[Any]]
"""Arrays by name, see `Batches`; B samples, M people at most, input H×W, grid h×w = H/8 × W/8."""

Row = dict[str, NDArray[Any]]


class _Chance(threading.local):
    """One generator a thread, set to a sample's key before each use: five times as quick as making one."""

    def __init__(self) -> None:
        self.bits = np.random.Philox(0)
        self.rng = np.random.Generator(self.bits)
        self.start = self.bits.state


_chance = _Chance()


def sample_rng(seed: int, epoch: int, image_id: int) -> np.random.Generator:
    """The chance of one sample: a function of these three numbers and of nothing else.

    The generator is the calling thread's, valid until its next call. A key of 128 bits and a counter are all the state
    of Philox (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011), so no two samples share chances.
    """
    key = np.array((image_id & 0xFFFF_FFFF_FFFF_FFFF, seed << 32 | epoch), dtype=np.uint64)
    zeros = np.zeros(4, dtype=np.uint64)
    _chance.bits.state = {**_chance.start, "state": {"counter": zeros, "key": key}, "buffer": zeros, "buffer_pos": 4}
    return _chance.rng


def epoch_order(records: int, *, batch_size: int, seed: int, epoch: int, rank: int, ranks: int) -> NDArray[np.int64]:
    """Which records a rank takes in which order.

    A step of all ranks takes batch_size * ranks records that follow each other in one permutation of all records, and
    its ranks take them in turn: the order of the whole does not depend on the number of ranks. The tail that does not
    fill a step is left out.

    Returns:
        (batches, batch_size) int64 record indices.
    """
    step = batch_size * ranks
    batches = records // step
    order = np.random.default_rng((seed, epoch)).permutation(records)[: batches * step]
    return order.reshape(batches, batch_size, ranks)[:, :, rank]


def read_rows(folder: Path, manifest: Manifest, columns: Sequence[str], indices: Sequence[int]) -> Generator[Row]:
    """Read records of a set as MindDataset gives them.

    Args:
        folder: the set.
        manifest: of the set.
        columns: which columns to read.
        indices: of the records, counted through the shards in the manifest's order.

    Raises:
        InputError: MindRecord cannot read a shard.
    """
    import mindspore.dataset as ds

    if not len(indices):
        return
    files = [str(path) for path in manifest.files(folder)]
    try:
        # one reader gives 5,000 rows a second, and each further one only takes a core from the decoder
        dataset = ds.MindDataset(files, list(columns), sampler=ds.SubsetSampler(list(indices)), num_parallel_workers=1)
        rows = dataset.create_dict_iterator(num_epochs=1, output_numpy=True)
    except RuntimeError as error:
        raise InputError(f"{folder}: {_first_line(error)}: run make shards again") from error
    try:
        yield from rows
    except RuntimeError as error:
        raise InputError(f"{folder}: {_first_line(error)}: run make shards again") from error
    finally:
        rows.stop()


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def unpack_sample(row: Row) -> Sample:
    """Decode the columns `TRAIN_COLUMNS` of a row; raises InputError for a bad picture or damaged columns."""
    height, width = int(row["height"]), int(row["width"])
    return Sample(
        image_id=int(row["image_id"]),
        image=_decode_picture(row),
        keypoints=unpack_keypoints(row["keypoints"], int(row["people"])),
        ignore=unpack_ignore(row["ignore"], height, width),
    )


def _decode_picture(row: Row) -> NDArray[np.uint8]:
    image = decode(raw_bytes(row["image"]), strict=True)
    size = (int(row["height"]), int(row["width"]))
    if image.shape[:2] != size:
        found, expected = (f"{width}x{height}" for height, width in (image.shape[:2], size))
        raise InputError(f"its picture has {found} px, its annotations expect {expected}")
    return image


@dataclass(frozen=True)
class Batches(Iterable[Batch]):
    """The batches of one epoch of one rank; made by `create_batches`. Each iteration starts at the first of them.

    Every batch holds

        image_id: (B,) int64.
        image: (B, H, W, 3) uint8 BGR.
        keypoints: (B, M, K, 3) float32 x, y in px of the image and visibility; rows without a person are 0.
        mask: (B, h, w) uint8, 1 where the loss counts.
        heatmaps, pafs: (B, K + 1, h, w) and (B, 2L, h, w) float32, where targets were asked for.
    """

    folder: Path
    manifest: Manifest
    indices: NDArray[np.int64]
    size: Size
    max_people: int
    seed: int
    epoch: int
    threads: int
    augment: AugmentConfig | None
    targets: TargetConfig | None

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[Batch]:
        import cv2

        from pipeline.prefetch import fill_ahead

        cv2.setNumThreads(0)  # the threads are here; OpenCV's own would compete with them
        order = self.indices.ravel().tolist()
        batches, batch_size = self.indices.shape
        return fill_ahead(
            self._indexed_rows(order),
            self._allocate,
            self._fill,
            batches=batches,
            batch_size=batch_size,
            threads=self.threads,
            ahead=2 + -(-2 * self.threads // batch_size),
        )

    def _indexed_rows(self, order: list[int]) -> Generator[tuple[int, Row]]:
        rows = read_rows(self.folder, self.manifest, TRAIN_COLUMNS, order)
        try:
            yield from zip(order, rows, strict=True)
        finally:
            rows.close()

    def _allocate(self) -> Batch:
        batch_size = self.indices.shape[1]
        height, width = self.size
        grid = (height // STRIDE, width // STRIDE)
        batch: Batch = {
            "image_id": np.empty(batch_size, dtype=np.int64),
            "image": np.empty((batch_size, height, width, 3), dtype=np.uint8),
            "keypoints": np.zeros((batch_size, self.max_people, NUM_KEYPOINTS, 3), dtype=np.float32),
            "mask": np.empty((batch_size, *grid), dtype=np.uint8),
        }
        if self.targets is not None:
            batch["heatmaps"] = np.empty((batch_size, NUM_HEATMAPS, *grid), dtype=np.float32)
            batch["pafs"] = np.empty((batch_size, NUM_PAFS, *grid), dtype=np.float32)
        return batch

    def _fill(self, indexed: tuple[int, Row], batch: Batch, place: int) -> None:
        index, row = indexed
        try:
            self._fill_place(row, batch, place)
        except InputError as error:
            file = self.folder / self._shard_of(index)
            raise InputError(f"{file}: image {int(row['image_id'])}: {error}: run make shards again") from error

    def _shard_of(self, index: int) -> str:
        ends = np.cumsum([shard.records for shard in self.manifest.shards])
        return self.manifest.shards[int(np.searchsorted(ends, index, side="right"))].file

    def _fill_place(self, row: Row, batch: Batch, place: int) -> None:
        from pipeline.warp import jitter_colour, loss_mask, warp_picture

        image_id = int(row["image_id"])
        image_size = (int(row["height"]), int(row["width"]))
        keypoints = unpack_keypoints(row["keypoints"], int(row["people"]))
        augmentation = self._augmentation(image_id, keypoints, image_size)
        matrix = affine(augmentation, self.size)
        picture = warp_picture(_decode_picture(row), matrix, self.size, out=batch["image"][place])
        jitter_colour(picture, augmentation)
        keypoints = move_keypoints(keypoints, augmentation, matrix, self.size)
        ignore = unpack_ignore(row["ignore"], *image_size) if row["ignore"].dtype.itemsize > 1 else None
        batch["image_id"][place] = image_id
        batch["keypoints"][place, : len(keypoints)] = keypoints
        batch["mask"][place] = loss_mask(ignore, matrix, self.size)
        if self.targets is not None:
            maps = encode_maps(keypoints, self.size, self.targets)
            batch["heatmaps"][place] = maps.heatmaps
            batch["pafs"][place] = maps.pafs

    def _augmentation(self, image_id: int, keypoints: NDArray[np.float32], image_size: Size) -> Augmentation:
        if self.augment is None:
            return fit(image_size, self.size)
        return draw(sample_rng(self.seed, self.epoch, image_id), keypoints, image_size, self.augment)


def _check_request(folder: Path, manifest: Manifest, size: Size, max_people: int, batch_size: int, ranks: int) -> None:
    """Raise InputError if a set cannot be batched as asked."""
    height, width = size
    if height < STRIDE or width < STRIDE or height % STRIDE or width % STRIDE:
        raise InputError(f"size {height}x{width}: expected height and width in multiples of {STRIDE} px")
    if max_people < manifest.max_people:
        raise InputError(f"{folder}: max_people is {max_people}, but a picture has {manifest.max_people} people")
    step = batch_size * ranks
    if manifest.records < step:
        raise InputError(
            f"{folder}: {manifest.records} records, but a step takes {step}: batch size {batch_size} on {ranks} ranks"
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
    ranks: int = 1,
    threads: int | None = None,
    augment: AugmentConfig | None,
    targets: TargetConfig | None = None,
    start: int = 0,
) -> Batches:
    """Prepare the batches of one epoch for one rank; the same arguments give the same bytes.

    Args:
        folder: a set of shards.
        size: px of the network's input, (height, width) or the side of a square; multiples of 8.
        batch_size: samples a batch and rank.
        max_people: M; at least as many as any record has.
        seed: decides, with the epoch, the order and, with the image id, each sample's augmentation.
        epoch: counted from 0.
        rank: which of the processes this is.
        ranks: how many there are.
        threads: that decode and augment; the cores shared out among the ranks by default. Does not change the batches.
        augment: distribution of augmentations; None fits the whole picture into the input instead.
        targets: also draw heatmaps and part affinity fields.
        start: batches of the epoch to leave out, for resuming within an epoch.

    Raises:
        InputError: the set is missing or damaged, holds too few records or has more people on a picture than
            max_people, or the size is not on the grid; while iterating, a picture that cannot be decoded.
    """
    height, width = (size, size) if isinstance(size, int) else size
    manifest = Manifest.load(folder)
    _check_request(folder, manifest, (height, width), max_people, batch_size, ranks)
    order = epoch_order(manifest.records, batch_size=batch_size, seed=seed, epoch=epoch, rank=rank, ranks=ranks)
    return Batches(
        folder=folder,
        manifest=manifest,
        indices=order[start:],
        size=(height, width),
        max_people=max_people,
        seed=seed,
        epoch=epoch,
        threads=threads or default_threads(ranks),
        augment=augment,
        targets=targets,
    )


def read_records(folder: Path, *, rank: int = 0, ranks: int = 1) -> Iterator[tuple[Annotation, NDArray[np.uint8]]]:
    """Read a set for evaluation: over all ranks every record exactly once, in the order of the shards.

    Args:
        folder: a set of shards.
        rank: which of the processes this is; it reads records rank, rank + ranks, …
        ranks: how many there are.

    Yields:
        The annotation with its truth, and the picture file's bytes as (N,) uint8.

    Raises:
        InputError: the set is missing or damaged.
    """
    manifest = Manifest.load(folder)
    rows = read_rows(folder, manifest, EVAL_COLUMNS, range(rank, manifest.records, ranks))
    try:
        for row in rows:
            yield unpack(row)
    finally:
        rows.close()
