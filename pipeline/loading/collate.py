"""One row of a shard becomes an augmented sample in its place of a batch, in any thread.

In two steps: the numbers of all rows of a batch, then one picture after the other. A picture's pixels drive everything
else out of the processor's caches: between two pictures the same few calls take three to five times as long.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.loading.augment import (
    Augmentation,
    AugmentConfig,
    affine_matrix,
    fit_whole_image,
    sample_augmentation,
    transform_keypoints,
)
from pipeline.loading.targets import TargetConfig, encode_maps
from pipeline.maps import Maps
from pipeline.sample import Sample, Size
from pipeline.storage.images import decode_image
from pipeline.storage.mindrecord_reader import Row
from pipeline.storage.records import decode_runs, raw_bytes, unpack_ignore, unpack_keypoints
from pipeline.system.buffers import ThreadBuffers

Batch = dict[str, NDArray[Any]]
"""Arrays by name, see `pipeline.loading.batches.Batches`."""


_spare = ThreadBuffers()


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


def unpack_sample(row: Row) -> Sample:
    """Decode a row; raises InputError for a bad picture or damaged columns."""
    size, runs = unpack_ignore(row["ignore"])
    return Sample(
        image_id=int(row["image_id"]),
        image=_decode_picture(row, size),
        keypoints=unpack_keypoints(row["keypoints"]),
        ignore=decode_runs(runs, *size),
    )


def _decode_picture(row: Row, size: Size, spare: ThreadBuffers | None = None) -> NDArray[np.uint8]:
    image = decode_image(raw_bytes(row["image"]), strict=True, buffers=spare)
    if image.shape[:2] != size:
        found, expected = (f"{width}x{height}" for height, width in (image.shape[:2], size))
        raise InputError(f"its picture has {found} px, its annotations expect {expected}")
    return image


@dataclass(frozen=True)
class Collator:
    """What becomes of a row.

    Attributes:
        size: (height, width) px of the network's input.
        seed: decides, with the epoch and the image id, a sample's augmentation.
        epoch: counted from 0.
        augment: distribution of augmentations; None fits the whole picture into the input instead.
        targets: also draw heatmaps and part affinity fields; None draws none.
    """

    size: Size
    seed: int
    epoch: int
    augment: AugmentConfig | None
    targets: TargetConfig | None

    def write_labels(self, row: Row, batch: Batch, place: int) -> Augmentation:
        """Write all but the picture of a row into its place of a batch.

        Returns:
            How the picture has to be moved and coloured.

        Raises:
            InputError: damaged columns.
        """
        from pipeline.loading.warp import loss_mask

        image_id = int(row["image_id"])
        image_size, runs = unpack_ignore(row["ignore"])
        keypoints = unpack_keypoints(row["keypoints"])
        augmentation = self._augmentation(image_id, keypoints, image_size)
        matrix = affine_matrix(augmentation, self.size)
        keypoints = transform_keypoints(keypoints, augmentation, matrix, self.size)
        ignore = decode_runs(runs, *image_size) if runs.size else None
        batch["image_id"][place] = image_id
        batch["keypoints"][place, : len(keypoints)] = keypoints
        batch["mask"][place] = loss_mask(ignore, matrix, self.size)
        if self.targets is not None:
            encode_maps(keypoints, self.size, self.targets, out=Maps(batch["heatmaps"][place], batch["pafs"][place]))
        return augmentation

    def write_image(self, row: Row, augmentation: Augmentation, batch: Batch, place: int) -> None:
        """Write the picture of a row into its place of a batch. Raises InputError for a bad picture."""
        from pipeline.loading.warp import augment_image

        size, _ = unpack_ignore(row["ignore"])
        picture = _decode_picture(row, size, _spare)
        augment_image(picture, augmentation, affine_matrix(augmentation, self.size), out=batch["image"][place])

    def _augmentation(self, image_id: int, keypoints: NDArray[np.float32], image_size: Size) -> Augmentation:
        if self.augment is None:
            return fit_whole_image(image_size, self.size)
        return sample_augmentation(sample_rng(self.seed, self.epoch, image_id), keypoints, image_size, self.augment)
