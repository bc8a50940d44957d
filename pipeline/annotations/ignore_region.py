"""Parse COCO segmentations and render the ignore region of an image: crowds and people that are not trainable.

Polygons are filled by OpenCV and not by pycocotools. OpenCV clips polygons to the image, whereas pycocotools allocates
memory in proportion to the coordinates, which a file can choose freely. The two differ by at most one pixel at the
boundary of a polygon, which does not matter after the dilation by 16 px.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError

DILATION = 16
"""Dilation of the region in px, with a square kernel, as in the reference implementation (MindSpore ModelZoo)."""

_FRACTION_BITS = 4
"""Fractional bits of the fixed-point coordinates that are passed to OpenCV."""


@dataclass(frozen=True)
class Region:
    """A checked COCO segmentation: either polygons or a run-length mask.

    Attributes:
        polygons: arrays of shape (N, 2), float32 x, y in px.
        runs: column-major run lengths of the mask, starting with a run of zeros; None for polygons.
    """

    polygons: tuple[NDArray[np.float32], ...] = ()
    runs: NDArray[np.uint32] | None = None

    def area(self) -> float:
        """Return the area in px: the sum of those of the polygons, as COCO's tools compute it, or of the mask."""
        if self.runs is not None:
            return float(self.runs[1::2].sum(dtype=np.int64))
        return float(sum(map(_polygon_area, self.polygons)))

    def box(self, height: int) -> list[float] | None:
        """Return x, y, width and height in px of the bounding box in an image of `height`; None if it is empty."""
        if self.runs is not None:
            return _runs_box(self.runs, height)
        points = np.concatenate(self.polygons).astype(np.float64)
        low, high = points.min(axis=0), points.max(axis=0)
        return [float(side) for side in (*low, *(high - low))]


def _polygon_area(points: NDArray[np.float32]) -> float:
    x, y = points.astype(np.float64).T
    return abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2


def _runs_box(runs: NDArray[np.uint32], height: int) -> list[float] | None:
    ends = np.cumsum(runs, dtype=np.int64)
    first, last = ends[0:-1:2], ends[1::2] - 1  # column-major positions of the first and the last pixel of each run
    filled = last >= first
    if not filled.any():
        return None
    first, last = first[filled], last[filled]
    left, right = int(first[0]) // height, int(last[-1]) // height
    spans = first // height != last // height  # a run over the end of a column touches the top and the bottom
    top = 0 if spans.any() else int((first % height).min())
    bottom = height - 1 if spans.any() else int((last % height).max())
    return [left, top, right - left + 1, bottom - top + 1]


def are_numbers(values: list[Any], limit: float) -> bool:
    """Return True if all values are int or float, none is NaN, and no magnitude is larger than `limit`."""
    return (  # the sum is NaN if any value is NaN
        set(map(type, values)) <= {int, float}
        and -limit <= min(values, default=0)
        and max(values, default=0) <= limit
        and not math.isnan(sum(values))
    )


def parse_region(
    segmentation: Any, height: int, width: int, limit: float, *, keep: bool = True
) -> tuple[Region | None, bool]:
    """Parse a COCO segmentation. Parts that cannot be used are left out, because every person has a box, too.

    Args:
        segmentation: polygons, or a run-length mask whose counts are a list or a compressed string of pycocotools.
        height: height of the image in px.
        width: width of the image in px.
        limit: largest allowed magnitude of a polygon's coordinates, in px.
        keep: False checks the segmentation without keeping it.

    Returns:
        The region, or None if there is no usable segmentation or `keep` is False; and True if parts were left out:
        polygons of fewer than three points or with values that are not numbers, and masks that do not fit the image.
    """
    if not segmentation:
        return None, False
    if isinstance(segmentation, dict):
        runs = _parse_runs(segmentation, height, width)
        return (Region(runs=np.array(runs, dtype=np.uint32)) if runs is not None and keep else None), runs is None
    if not isinstance(segmentation, list):
        return None, True
    polygons = segmentation
    if not isinstance(segmentation[0], list):
        polygons = [segmentation]  # one polygon that is not in a list
    good = [polygon for polygon in polygons if _is_polygon(polygon, limit)]
    region = Region(polygons=tuple(map(_points, good))) if good and keep else None
    return region, len(good) < sum(polygon != [] for polygon in polygons)


def _parse_runs(segmentation: dict[str, Any], height: int, width: int) -> list[int] | None:
    """Return the run lengths of a mask of the size of the image, or None if it is none."""
    counts = segmentation.get("counts")
    if isinstance(counts, str):
        text = counts[2:-1] if counts[:2] in ("b'", 'b"') else counts  # bytes that a program wrote with str()
        try:
            counts = decode_counts(text)
        except InputError:
            return None
    if segmentation.get("size") != [height, width] or not isinstance(counts, list):
        return None
    valid = set(map(type, counts)) <= {int} and min(counts, default=0) >= 0 and sum(counts) == height * width
    return counts if valid else None


def _is_polygon(item: Any, limit: float) -> bool:
    return isinstance(item, list) and len(item) >= 6 and len(item) % 2 == 0 and are_numbers(item, limit)


def _points(polygon: list[float]) -> NDArray[np.float32]:
    return np.array(polygon, dtype=np.float32).reshape(-1, 2)


def decode_counts(text: str) -> list[int]:
    """Decode the compressed run lengths of pycocotools (cocoapi, maskApi.c, `rleFrString`).

    Each number is written in base 32, least significant digit first, with '0' as digit zero. From the fourth number on,
    the number is the difference to the run length two places earlier. Strings from a file are decoded here because
    `rleFrString` reads past the end of a truncated string.

    Raises:
        InputError: the string is not valid or is truncated.
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
        raise InputError("segmentation: counts are truncated")
    return counts


def ignore_mask(people: Sequence[tuple[Region | None, Sequence[float]]], height: int, width: int) -> NDArray[np.uint8]:
    """Render an ignore region.

    Args:
        people: for each ignored person, the region and the box (x, y, width, height in px). The box is used if the
            region is None.
        height: height of the image in px.
        width: width of the image in px.

    Returns:
        (H, W) uint8, 1 in the ignore region and 0 elsewhere.
    """
    mask = np.zeros((height, width), dtype=np.uint8)
    for region, box in people:
        if region is None:
            _fill_box(mask, box)
        elif region.runs is not None:
            _fill_runs(mask, region.runs)
        else:
            _fill_polygons(mask, region.polygons)
    return _dilate(mask)


def _fill_box(mask: NDArray[np.uint8], box: Sequence[float]) -> None:
    x, y, width, height = box
    left, top, right, bottom = np.clip([x, y, x + width, y + height], 0, 2**16)
    mask[int(top) : int(np.ceil(bottom)), int(left) : int(np.ceil(right))] = 1


def _fill_runs(mask: NDArray[np.uint8], runs: NDArray[np.uint32]) -> None:
    values = np.zeros(len(runs), dtype=np.uint8)
    values[1::2] = 1
    mask |= np.repeat(values, runs).reshape(mask.shape[::-1]).T


def _fill_polygons(mask: NDArray[np.uint8], polygons: Sequence[NDArray[np.float32]]) -> None:
    import cv2

    for polygon in polygons:
        # the centre of pixel (0, 0) is (0.5, 0.5) in COCO polygons and (0, 0) in OpenCV
        points = np.round((polygon.astype(np.float64) - 0.5) * 2**_FRACTION_BITS).astype(np.int32)
        cv2.fillPoly(mask, [points], (1,), cv2.LINE_8, _FRACTION_BITS)


def _dilate(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    import cv2

    left, top, width, height = cv2.boundingRect(mask)
    if not width:
        return mask
    rows = slice(max(top - DILATION, 0), top + height + DILATION)
    columns = slice(max(left - DILATION, 0), left + width + DILATION)
    kernel = np.ones((2 * DILATION + 1, 2 * DILATION + 1), np.uint8)
    mask[rows, columns] = cv2.dilate(mask[rows, columns], kernel)
    return mask
