"""Image files with ground truth and detections side by side: selection and writing."""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation.decoder.person import Person
from evaluation.media.overlay import draw_comparison
from evaluation.scoring.ground_truth import annotated_keypoints
from pipeline.errors import InputError

CROWDED = 4
"""Images with at least this number of people form one group."""

_JPEG_QUALITY = 90
_FILE_NAME = re.compile(r"found-\d{12,}\.jpg")


def choose_images(people: Sequence[int], number: int) -> list[int]:
    """Choose images with various numbers of annotated people, independently of the detections.

    The groups are images with 1, 2, 3 and at least CROWDED people, and images without people. One image of each group
    is chosen in turn. The order within a group is random, with a fixed seed.

    Args:
        people: number of annotated people in each image.
        number: maximum number of images to choose.

    Returns:
        Indices into `people`, in ascending order.
    """
    order = np.random.default_rng(0).permutation(len(people)).tolist()
    groups = [deque(i for i in order if min(people[i], CROWDED) == group) for group in (*range(1, CROWDED + 1), 0)]
    chosen: list[int] = []
    while len(chosen) < number and any(groups):
        chosen += [group.popleft() for group in groups if group]
    return sorted(chosen[:number])


def write_pictures(
    folder: Path,
    images: Mapping[int, NDArray[np.uint8]],
    ground_truth: Mapping[int, Sequence[Mapping[str, Any]]],
    people: Mapping[int, Sequence[Person]],
) -> list[Path]:
    """Write `found-IMAGE_ID.jpg` for each image, ground truth on the left and detections on the right.

    Such files of an earlier evaluation are removed.

    Args:
        folder: created if it does not exist; files with other names are kept.
        images: (H, W, 3) uint8 BGR by image id.
        ground_truth: COCO person annotations by image id.
        people: detected people, in image pixels, by image id.

    Raises:
        InputError: a file cannot be written.
    """
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for image_id, image in images.items():
            path = folder / f"found-{image_id:012d}.jpg"
            drawn = draw_comparison(image, people[image_id], annotated_keypoints(ground_truth[image_id]))
            _write_jpeg(path, drawn)
            written.append(path)
        for path in folder.iterdir():
            if _FILE_NAME.fullmatch(path.name) and path not in written:
                path.unlink()
    except OSError as error:
        raise InputError(f"{folder}: pictures cannot be written: {error.strerror}") from error
    return written


def _write_jpeg(path: Path, image: NDArray[np.uint8]) -> None:
    """Write a temporary file in the same folder and rename it, so that a reader never sees an incomplete image."""
    import simplejpeg

    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    data = simplejpeg.encode_jpeg(np.ascontiguousarray(image), quality=_JPEG_QUALITY, colorspace="BGR")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
