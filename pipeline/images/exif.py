"""EXIF orientation: how a picture must be turned to be upright, as viewers and annotation tools show it.

Source: CIPA DC-008 (Exif 3.0), tag 0x0112. Cameras store the pixels as the sensor reads them, and the orientation in
this tag.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.sample import Size

UPRIGHT = 1
"""Orientation of a picture that is shown as it is stored."""

ExifRule = Literal["apply", "ignore"]
"""apply: pictures are turned as their tag says, and annotations refer to the turned picture; ignore: no picture is
turned, and annotations refer to the stored picture."""

_TAG = 0x0112
_SWAPS_SIDES = (5, 6, 7, 8)


def read_orientation(exif: bytes) -> int:
    """Return the orientation, 1..8, in a block of EXIF data, which has the structure of a TIFF file.

    A block without the tag, or one that is damaged, means upright, as in other programs.
    """
    exif = exif.removeprefix(b"Exif\0\0")
    order: Literal["little", "big"] = "little" if exif[:2] == b"II" else "big"
    if exif[:4] not in (b"II*\0", b"MM\0*"):
        return UPRIGHT
    at = int.from_bytes(exif[4:8], order)
    entries = int.from_bytes(exif[at : at + 2], order)
    for start in range(at + 2, min(at + 2 + 12 * entries, len(exif) - 11), 12):
        if int.from_bytes(exif[start : start + 2], order) == _TAG:
            value = int.from_bytes(exif[start + 8 : start + 10], order)
            return value if UPRIGHT <= value <= 8 else UPRIGHT
    return UPRIGHT


def turned_size(size: Size, orientation: int) -> Size:
    """Return (height, width) of a picture after it was turned."""
    return (size[1], size[0]) if orientation in _SWAPS_SIDES else size


def choose_orientation(stored: Size, orientation: int, annotated: Size, rule: ExifRule) -> int | None:
    """Return how a picture is turned so that it fits its annotations.

    Args:
        stored: (height, width) in px of the stored picture.
        orientation: orientation of its EXIF data, 1..8.
        annotated: (height, width) in px according to the annotations.
        rule: what the orientation means. With "apply", annotations that fit only the stored picture refer to it.

    Returns:
        The orientation to apply; None if the annotations fit neither the stored nor the turned picture.
    """
    if rule == "apply" and turned_size(stored, orientation) == annotated:
        return orientation
    return UPRIGHT if stored == annotated else None


def is_ambiguous(stored: Size, orientation: int) -> bool:
    """Return whether the sizes cannot show to which picture annotations refer, the turned or the stored one."""
    return orientation != UPRIGHT and turned_size(stored, orientation) == stored


def turn(image: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Turn a picture (H, W, C) upright; the result is contiguous."""
    if orientation == UPRIGHT:
        return image
    if orientation in _SWAPS_SIDES:
        image = image.swapaxes(0, 1)
    # after the swap, 5 is upright, 6 needs a horizontal flip, 7 both, 8 a vertical flip
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return np.ascontiguousarray(image)
