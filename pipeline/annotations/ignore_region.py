"""The ignore region of a picture: crowds and people that do not train, drawn and grown by 16 px.

Polygons are filled by OpenCV: it works in the frame whatever the numbers are, where pycocotools allocates by them,
and the boundary pixel in which the two differ vanishes in the growth.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError

DILATION = 16
"""px by which the region is dilated in every direction (a square, as the reference's dilation)."""

_SHIFT = 4


@dataclass(frozen=True)
class Region:
    """A checked segmentation: polygons, each (N, 2) float32 x, y in px, or column-major run lengths, zeros first."""

    polygons: tuple[NDArray[np.float32], ...] = ()
    runs: NDArray[np.uint32] | None = None


def are_numbers(values: list[Any], limit: float) -> bool:
    """Whether a list holds nothing but ints and floats of at most `limit`; no NaN either, which any sum would show."""
    return (
        set(map(type, values)) <= {int, float}
        and -limit <= min(values, default=0)
        and max(values, default=0) <= limit
        and not math.isnan(sum(values))
    )


def parse_region(segmentation: Any, height: int, width: int, limit: float, *, keep: bool = True) -> Region | None:
    """Check a COCO segmentation.

    Args:
        segmentation: polygons, or a run-length mask with its counts as a list or as pycocotools' string.
        height: px of the picture.
        width: px of the picture.
        limit: largest magnitude of a polygon's coordinates, px.
        keep: without, it is checked only.

    Returns:
        The region; None where there is no segmentation, or it is not to be kept.

    Raises:
        InputError: it is none of these, or does not fit the picture.
    """
    if segmentation is None or segmentation == []:
        return None
    if isinstance(segmentation, list):
        for polygon in segmentation:
            _check_polygon(polygon, limit)
        return Region(polygons=tuple(map(_points, segmentation))) if keep else None
    if not isinstance(segmentation, dict) or segmentation.get("size") != [height, width]:
        raise InputError(
            f"segmentation is neither a list of polygons nor a run-length mask of size [{height}, {width}]"
        )
    counts = segmentation.get("counts")
    if isinstance(counts, str):
        counts = decode_counts(counts)
    if not isinstance(counts, list) or not set(map(type, counts)) <= {int} or min(counts, default=0) < 0:
        raise InputError("segmentation: counts are neither a list of whole numbers nor their compressed string")
    if sum(counts) != height * width:
        raise InputError(f"segmentation: counts cover {reprlib.repr(sum(counts))} px, the picture has {height * width}")
    return Region(runs=np.array(counts, dtype=np.uint32)) if keep else None


def _check_polygon(item: Any, limit: float) -> None:
    if not isinstance(item, list) or len(item) < 6 or len(item) % 2:
        length = f"{len(item)} numbers" if isinstance(item, list) else reprlib.repr(item)
        raise InputError(f"segmentation: a polygon has {length}, expected an even number of at least 6")
    if not are_numbers(item, limit):
        raise InputError(f"segmentation: a polygon holds something that is not a number of at most {limit:.0f}")


def _points(polygon: list[float]) -> NDArray[np.float32]:
    return np.array(polygon, dtype=np.float32).reshape(-1, 2)


def decode_counts(text: str) -> list[int]:
    """Decode pycocotools' compressed run lengths: base 32 from '0', low digits first, each a difference to two before.

    pycocotools itself reads past the end of a string that breaks off (cocoapi, maskApi.c, `rleFrString`), so strings
    from a file are decoded here. Raises InputError where the string is damaged.
    """
    counts: list[int] = []
    value = digits = 0
    for letter in text:
        code = ord(letter) - 48
        if not 0 <= code < 64 or digits > 7:
            raise InputError("segmentation: counts are not a compressed run-length string")
        value |= (code & 31) << 5 * digits
        digits += 1
        if not code & 32:
            if code & 16:
                value -= 1 << 5 * digits
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = digits = 0
    if digits:
        raise InputError("segmentation: counts break off")
    return counts


def ignore_mask(people: Sequence[tuple[Region | None, Sequence[float]]], height: int, width: int) -> NDArray[np.uint8]:
    """Draw an ignore region.

    Args:
        people: each one's region and box (x, y, width, height in px); the box counts where there is no region.
        height: px of the picture.
        width: px of the picture.

    Returns:
        (H, W) uint8, 1 in the region.
    """
    mask = np.zeros((height, width), dtype=np.uint8)
    for region, box in people:
        if region is None:
            _paint_box(mask, box)
        elif region.runs is not None:
            _paint_runs(mask, region.runs)
        else:
            _paint_polygons(mask, region.polygons)
    return _grown(mask)


def _paint_box(mask: NDArray[np.uint8], box: Sequence[float]) -> None:
    x, y, width, height = box
    left, top, right, bottom = np.clip([x, y, x + width, y + height], 0, 2**16)
    mask[int(top) : int(np.ceil(bottom)), int(left) : int(np.ceil(right))] = 1


def _paint_runs(mask: NDArray[np.uint8], runs: NDArray[np.uint32]) -> None:
    values = np.zeros(len(runs), dtype=np.uint8)
    values[1::2] = 1
    mask |= np.repeat(values, runs).reshape(mask.shape[::-1]).T


def _paint_polygons(mask: NDArray[np.uint8], polygons: Sequence[NDArray[np.float32]]) -> None:
    import cv2

    for polygon in polygons:
        # a pixel's centre is at .5 in COCO's polygons and at .0 for OpenCV
        points = np.round((polygon.astype(np.float64) - 0.5) * 2**_SHIFT).astype(np.int32)
        cv2.fillPoly(mask, [points], (1,), cv2.LINE_8, _SHIFT)


def _grown(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    import cv2

    left, top, width, height = cv2.boundingRect(mask)
    if not width:
        return mask
    rows = slice(max(top - DILATION, 0), top + height + DILATION)
    columns = slice(max(left - DILATION, 0), left + width + DILATION)
    kernel = np.ones((2 * DILATION + 1, 2 * DILATION + 1), np.uint8)
    mask[rows, columns] = cv2.dilate(mask[rows, columns], kernel)
    return mask
