"""What the network should answer: heatmaps and part affinity fields drawn from keypoints, in NumPy.

The form is that of Cao et al., "Realtime Multi-Person 2D Pose Estimation using Part Affinity Fields", CVPR 2017, with
the limb region of CMU's training code: a band around the limb's line, cut off by the limb's widened bounding box.
Only the cells that a keypoint or limb reaches are visited, those of all people at once: four people take .22 ms on a
grid of 46x46, and 32 take .88, where passes over whole maps, person by person, took .79 and 4.0.
`training.loss.targets` draws the same on the device; a test holds the two together.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pipeline.config_base import StrictModel
from pipeline.maps import NUM_HEATMAPS, NUM_PAFS, STRIDE, Maps, grid_to_pixel
from pipeline.skeleton import LIMB_INDICES, NUM_KEYPOINTS, NUM_LIMBS

Floats = NDArray[np.float32]

NEGLIGIBLE = 1e-6
"""A Gaussian is drawn as far as it exceeds this."""


class TargetConfig(StrictModel):
    """How targets are drawn; distances in px of the network's input."""

    sigma: float = Field(default=7.0, gt=0, le=64, description="px; standard deviation of a keypoint's Gaussian")
    limb_width: float = Field(default=8.0, gt=0, le=64, description="px; half-width of a limb's part affinity field")


def cell_centres(length: int, stride: int = STRIDE) -> Floats:
    """Pixel coordinates, (length // stride,) float32, of the cell centres along one side of the picture."""
    return grid_to_pixel(np.arange(length // stride, dtype=np.float32), stride).astype(np.float32)


def render_heatmaps(keypoints: Floats, xs: Floats, ys: Floats, sigma: float, out: Floats) -> None:
    """Heatmaps of all people: the maximum over people of one Gaussian a keypoint; background = 1 - maximum of all.

    Args:
        keypoints: (P, K, 3) float32 x, y in px and visibility; visibility 0 draws nothing.
        xs: (w,) float32 px, the cell centres' columns.
        ys: (h,) float32 px, the cell centres' rows.
        sigma: px.
        out: (K + 1, h, w) float32, contiguous; every value is written, 0..1.
    """
    out[:-1] = 0
    person, kind = np.nonzero(keypoints[..., 2] > 0)  # N labelled keypoints
    rows, down = _gaussians(keypoints[person, kind, 1], ys, sigma)
    columns, across = _gaussians(keypoints[person, kind, 0], xs, sigma)
    # a Gaussian is the product of its sides, so exp() runs over their sum of lengths
    gaussians = down[:, :, None] * across[:, None, :]  # (N, rows, columns)
    cells = ((kind[:, None] * len(ys) + rows) * len(xs))[:, :, None] + columns[:, None, :]
    np.maximum.at(out.reshape(-1), cells.ravel(), gaussians.ravel())
    np.subtract(1, out[:-1].max(axis=0), out=out[-1])


def _gaussians(positions: Floats, centres: Floats, sigma: float) -> tuple[NDArray[np.intp], Floats]:
    """One side of Gaussians at (N,) positions: the cells, (N, n), in which they count, and their values there."""
    reach = sigma * math.sqrt(-2 * math.log(NEGLIGIBLE))
    number = min(int(2 * reach / STRIDE) + 1, len(centres))
    first = np.ceil((positions - reach - centres[0]) / STRIDE)
    cells = np.clip(first, 0, len(centres) - number).astype(np.intp)[:, None] + np.arange(number)
    return cells, np.exp(np.float32(-0.5 / sigma**2) * (centres[cells] - positions[:, None]) ** 2)


def render_pafs(keypoints: Floats, xs: Floats, ys: Floats, limb_width: float, out: Floats) -> None:
    """Part affinity fields of all people: unit vectors along each limb, averaged where people overlap.

    A cell belongs to a limb if it is within `limb_width` of the limb's line and of its bounding box.

    Args:
        keypoints: (P, K, 3) float32 x, y in px and visibility; a limb with an end of visibility 0 draws nothing.
        xs: (w,) float32 px, the cell centres' columns.
        ys: (h,) float32 px, the cell centres' rows.
        limb_width: px.
        out: (2L, h, w) float32, contiguous; every value is written, -1..1.
    """
    out[...] = 0
    starts, stops = np.moveaxis(keypoints[:, LIMB_INDICES], 2, 0)  # (P, L, 3) each
    lengths = np.hypot(stops[..., 0] - starts[..., 0], stops[..., 1] - starts[..., 1])
    person, kind = np.nonzero((starts[..., 2] > 0) & (stops[..., 2] > 0) & (lengths > 0))  # N limbs to draw
    starts, stops = starts[person, kind, :2], stops[person, kind, :2]
    units = (stops - starts) / lengths[person, kind, None]  # (N, 2)
    limb, row, column = _cells_in_boxes(np.minimum(starts, stops), np.maximum(starts, stops), xs, ys, limb_width)
    origin, unit = starts[limb], units[limb]
    distance = unit[:, 0] * (ys[row] - origin[:, 1]) - unit[:, 1] * (xs[column] - origin[:, 0])
    near = np.abs(distance) <= limb_width
    kinds = kind[limb[near]]
    cells = row[near] * len(xs) + column[near]
    grid = len(ys) * len(xs)
    people = np.bincount(kinds * grid + cells, minlength=NUM_LIMBS * grid)[kinds * grid + cells]
    vectors = unit[near] / people.astype(np.float32)[:, None]
    fields, at = out.reshape(-1), kinds * (2 * grid) + cells
    np.add.at(fields, at, vectors[:, 0])
    np.add.at(fields, at + grid, vectors[:, 1])


def _cells_in_boxes(
    low: Floats, high: Floats, xs: Floats, ys: Floats, margin: float
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Every cell whose centre lies in one of N boxes: the box's index, the cell's row and column, box by box.

    Args:
        low: (N, 2) x, y in px of the boxes' upper left corners.
        high: (N, 2) of their lower right ones.
        xs: (w,) px, the cell centres' columns.
        ys: (h,) px, the cell centres' rows.
        margin: px by which boxes are widened on every side.
    """
    reach = np.float32(margin)
    left, top = np.searchsorted(xs, low[:, 0] - reach), np.searchsorted(ys, low[:, 1] - reach)
    width = np.searchsorted(xs, high[:, 0] + reach, side="right") - left
    number = width * (np.searchsorted(ys, high[:, 1] + reach, side="right") - top)
    box = np.repeat(np.arange(len(number)), number)
    within = np.arange(len(box)) - np.repeat(np.cumsum(number) - number, number)
    row, column = np.divmod(within, width[box])
    return box, row + top[box], column + left[box]


def encode_maps(
    keypoints: Floats, size: tuple[int, int], config: TargetConfig | None = None, out: Maps | None = None
) -> Maps:
    """Draw the targets of one picture.

    Args:
        keypoints: (P, K, 3) float32 x, y in px of the picture and visibility 0/1/2, OpenPose-18 order; P may be 0.
        size: (height, width) px of the picture, multiples of the stride.
        config: widths; the reference recipe by default.
        out: maps to draw into, contiguous, whatever they hold; new ones by default.

    Returns:
        Maps on a grid of size / stride.

    Raises:
        ValueError: the size is not a multiple of the stride, or keypoints are not (P, K, 3).
    """
    config = config or TargetConfig()
    height, width = size
    if height % STRIDE or width % STRIDE:
        raise ValueError(f"size {size}: expected multiples of the stride, {STRIDE} px")
    if keypoints.ndim != 3 or keypoints.shape[1:] != (NUM_KEYPOINTS, 3):
        raise ValueError(f"keypoints: shape {keypoints.shape}, expected (P, {NUM_KEYPOINTS}, 3)")
    keypoints = np.asarray(keypoints, dtype=np.float32)
    xs, ys = cell_centres(width), cell_centres(height)
    grid = (len(ys), len(xs))
    maps = out or Maps(np.empty((NUM_HEATMAPS, *grid), np.float32), np.empty((NUM_PAFS, *grid), np.float32), STRIDE)
    render_heatmaps(keypoints, xs, ys, config.sigma, maps.heatmaps)
    render_pafs(keypoints, xs, ys, config.limb_width, maps.pafs)
    return maps
