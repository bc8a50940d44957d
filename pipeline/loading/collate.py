"""Collate: turn one row of a shard into an augmented sample and write it into a batch, from any thread.

A batch is filled in two passes: first the labels of all rows, then the images one by one. The pixels of an image evict
everything else from the processor's caches, so computing labels between two images takes three to five times as long.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.images.decode import decode_image
from pipeline.images.exif import ExifRule
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
from pipeline.storage.mindrecord_reader import Row
from pipeline.storage.records import decode_runs, raw_bytes, unpack_ignore, unpack_keypoints
from pipeline.system.buffers import ThreadBuffers

Batch = dict[str, NDArray[Any]]
"""Arrays by name, see `pipeline.loading.batches.Batches`."""


_buffers = ThreadBuffers()


class _ThreadGenerator(threading.local):
    """One random number generator per thread. Resetting its state is five times as fast as creating a generator."""

    def __init__(self) -> None:
        self.bit_generator = np.random.Philox(0)
        self.generator = np.random.Generator(self.bit_generator)
        self.initial_state = self.bit_generator.state


_thread_generator = _ThreadGenerator()


def sample_rng(seed: int, epoch: int, image_id: int) -> np.random.Generator:
    """Return the random number generator of one sample; its numbers depend on the three arguments alone.

    The generator belongs to the calling thread and is valid until that thread's next call. A key of 128 bits and a
    counter are the whole state of Philox (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011), so
    different samples get independent sequences.
    """
    key = np.array((image_id & 0xFFFF_FFFF_FFFF_FFFF, seed << 32 | epoch), dtype=np.uint64)
    zeros = np.zeros(4, dtype=np.uint64)
    _thread_generator.bit_generator.state = {
        **_thread_generator.initial_state,
        "state": {"counter": zeros, "key": key},
        "buffer": zeros,
        "buffer_pos": 4,
    }
    return _thread_generator.generator


def unpack_sample(row: Row, exif: ExifRule = "apply") -> Sample:
    """Decode a row of a set with this rule. Raises InputError for a damaged image or damaged columns."""
    size, runs = unpack_ignore(row["ignore"])
    return Sample(
        image_id=int(row["image_id"]),
        image=decode_image(raw_bytes(row["image"]), size=size, exif=exif, strict=True),
        keypoints=unpack_keypoints(row["keypoints"]),
        ignore=decode_runs(runs, *size),
    )


@dataclass(frozen=True)
class Collator:
    """Writes rows into batches.

    Attributes:
        size: (height, width) px of the network's input.
        seed: random seed; with the epoch and the image id it determines a sample's augmentation.
        epoch: counted from 0.
        augment: distribution of the augmentations; None fits the whole image into the input instead.
        targets: settings of the heatmaps and part affinity fields to render; None renders none.
        exif: rule of the set for the EXIF orientation of images.
    """

    size: Size
    seed: int
    epoch: int
    augment: AugmentConfig | None
    targets: TargetConfig | None
    exif: ExifRule = "apply"

    def write_labels(self, row: Row, batch: Batch, index: int) -> Augmentation:
        """Write everything but the image of a row into the batch, as sample `index`.

        Returns:
            The augmentation to apply to the image.

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
        batch["image_id"][index] = image_id
        batch["keypoints"][index, : len(keypoints)] = keypoints
        batch["mask"][index] = loss_mask(ignore, matrix, self.size)
        if self.targets is not None:
            encode_maps(keypoints, self.size, self.targets, out=Maps(batch["heatmaps"][index], batch["pafs"][index]))
        return augmentation

    def write_image(self, row: Row, augmentation: Augmentation, batch: Batch, index: int) -> None:
        """Write the augmented image of a row into the batch. Raises InputError if the image cannot be decoded."""
        from pipeline.loading.warp import augment_image

        size, _ = unpack_ignore(row["ignore"])
        image = decode_image(raw_bytes(row["image"]), size=size, exif=self.exif, strict=True, buffers=_buffers)
        augment_image(image, augmentation, affine_matrix(augmentation, self.size), out=batch["image"][index])

    def _augmentation(self, image_id: int, keypoints: NDArray[np.float32], image_size: Size) -> Augmentation:
        if self.augment is None:
            return fit_whole_image(image_size, self.size)
        return sample_augmentation(sample_rng(self.seed, self.epoch, image_id), keypoints, image_size, self.augment)
