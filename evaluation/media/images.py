"""Read image files for prediction: upright, damaged ones as far as possible, very large ones at reduced size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evaluation.decoder.person import Person
from pipeline.errors import InputError
from pipeline.images.decode import decode_image, decode_reduced, read_header
from pipeline.sample import Size

LARGE_PIXELS = 25_000_000
"""Number of pixels above which an image is decoded at 1/2, 1/4 or 1/8 of its size, if the network needs no more."""


@dataclass(frozen=True)
class ReadImage:
    """An image that was read.

    Attributes:
        pixels: (H, W, 3) uint8 BGR, turned as its EXIF orientation says.
        size: (height, width) in px of the whole image; larger than that of `pixels` if it was decoded smaller.
        problem: description of the damage if a part of the image is missing; None otherwise.
    """

    pixels: NDArray[np.uint8]
    size: Size
    problem: str | None = None


def scale_people(people: Sequence[Person], size: Size, new_size: Size) -> list[Person]:
    """Convert people from pixels of an image of `size` to pixels of the same image at `new_size`, (height, width)."""
    if size == new_size:
        return list(people)
    scale = np.array(new_size[::-1]) / size[::-1]
    scaled = []
    for person in people:
        keypoints = person.keypoints.copy()
        keypoints[person.found, :2] = (keypoints[person.found, :2] + 0.5) * scale - 0.5
        scaled.append(Person(keypoints, person.score))
    return scaled


def read_image(path: Path, min_side: int) -> ReadImage:
    """Read an image file.

    Args:
        path: image file.
        min_side: px; an image with more than `LARGE_PIXELS` pixels is decoded with a shorter side of at least this.

    Raises:
        InputError: the file cannot be read, is no supported image, or so damaged that nothing can be decoded.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}") from error
    height, width = read_header(data).size
    if height * width > LARGE_PIXELS:
        return ReadImage(*decode_reduced(data, min_side))
    problem = None
    try:
        pixels = decode_image(data, strict=True)
    except InputError as error:
        pixels, problem = decode_image(data), str(error)
    return ReadImage(pixels, (pixels.shape[0], pixels.shape[1]), problem)
