"""Render training targets, heatmaps and part affinity fields, from keypoints in NumPy.

The targets follow Cao et al., "Realtime Multi-Person 2D Pose Estimation using Part Affinity Fields", CVPR 2017. The
limb region is that of CMU's training code: a band around the limb's line, clipped to the limb's widened bounding box.
Only the cells that a keypoint or limb reaches are computed, for all people at once: on a grid of 46x46, four people
take 0.22 ms and 32 people 0.88 ms, while passes over whole maps, person by person, took 0.79 and 4.0 ms.
`training.loss.targets` renders the same targets on the device; a test compares the two.
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
"""Gaussians are rendered where they exceed this value."""


class TargetConfig(StrictModel):
    """Settings of the training targets; distances in px of the network's input."""

    sigma: float = Field(default=7.0, gt=0, le=64, description="px; standard deviation of a keypoint's Gaussian")
    limb_width: float = Field(default=8.0, gt=0, le=64, description="px; half-width of a limb's part affinity field")


def cell_centres(length: int, stride: int = STRIDE) -> Floats:
    """Return the pixel coordinates, (length // stride,) float32, of the cell centres along one side of the image."""
    return grid_to_pixel(np.arange(length // stride, dtype=np.float32), stride).astype(np.float32)


def render_heatmaps(keypoints: Floats, xs: Floats, ys: Floats, sigma: float, out: Floats) -> None:
    """Render heatmaps: per keypoint the maximum over people of a Gaussian; background = 1 - maximum of all.

    Args:
        keypoints: (P, K, 3) float32 x, y in px and visibility; keypoints of visibility 0 are skipped.
        xs: (w,) float32 x of the cell centres in px.
        ys: (h,) float32 y of the cell centres in px.
        sigma: standard deviation of the Gaussians in px.
        out: (K + 1, h, w) float32, contiguous; overwritten with values in 0..1.
    """
    out[:-1] = 0
    person, channel = np.nonzero(keypoints[..., 2] > 0)  # N labelled keypoints
    rows, y_factors = _gaussians_1d(keypoints[person, channel, 1], ys, sigma)
    columns, x_factors = _gaussians_1d(keypoints[person, channel, 0], xs, sigma)
    # A 2-D Gaussian is the product of two 1-D ones, so exp() is evaluated for rows + columns values only.
    gaussians = y_factors[:, :, None] * x_factors[:, None, :]  # (N, rows, columns)
    cells = ((channel[:, None] * len(ys) + rows) * len(xs))[:, :, None] + columns[:, None, :]
    np.maximum.at(out.reshape(-1), cells.ravel(), gaussians.ravel())
    np.subtract(1, out[:-1].max(axis=0), out=out[-1])


def _gaussians_1d(positions: Floats, centres: Floats, sigma: float) -> tuple[NDArray[np.intp], Floats]:
    """Evaluate 1-D Gaussians at (N,) positions: the indices and the values, (N, n) each, of the cells they reach."""
    reach = sigma * math.sqrt(-2 * math.log(NEGLIGIBLE))
    count = min(int(2 * reach / STRIDE) + 1, len(centres))
    first = np.ceil((positions - reach - centres[0]) / STRIDE)
    cells = np.clip(first, 0, len(centres) - count).astype(np.intp)[:, None] + np.arange(count)
    return cells, np.exp(np.float32(-0.5 / sigma**2) * (centres[cells] - positions[:, None]) ** 2)


def render_pafs(keypoints: Floats, xs: Floats, ys: Floats, limb_width: float, out: Floats) -> None:
    """Render part affinity fields: unit vectors along each limb, averaged where people overlap.

    A cell belongs to a limb if its centre is within `limb_width` of the limb's line and of its bounding box.

    Args:
        keypoints: (P, K, 3) float32 x, y in px and visibility; limbs with an end of visibility 0 are skipped.
        xs: (w,) float32 x of the cell centres in px.
        ys: (h,) float32 y of the cell centres in px.
        limb_width: half-width of a limb in px.
        out: (2L, h, w) float32, contiguous; overwritten with values in -1..1.
    """
    out[...] = 0
    starts, stops = np.moveaxis(keypoints[:, LIMB_INDICES], 2, 0)  # (P, L, 3) each
    lengths = np.hypot(stops[..., 0] - starts[..., 0], stops[..., 1] - starts[..., 1])
    person, limb = np.nonzero((starts[..., 2] > 0) & (stops[..., 2] > 0) & (lengths > 0))  # N limbs to render
    starts, stops = starts[person, limb, :2], stops[person, limb, :2]
    units = (stops - starts) / lengths[person, limb, None]  # (N, 2)
    box, row, column = _cells_in_boxes(np.minimum(starts, stops), np.maximum(starts, stops), xs, ys, limb_width)
    start, unit = starts[box], units[box]
    distance = unit[:, 0] * (ys[row] - start[:, 1]) - unit[:, 1] * (xs[column] - start[:, 0])
    near = np.abs(distance) <= limb_width
    limbs = limb[box[near]]
    cells = row[near] * len(xs) + column[near]
    grid = len(ys) * len(xs)
    overlaps = np.bincount(limbs * grid + cells, minlength=NUM_LIMBS * grid)[limbs * grid + cells]  # people per cell
    vectors = unit[near] / overlaps.astype(np.float32)[:, None]
    fields, x_indices = out.reshape(-1), limbs * (2 * grid) + cells
    np.add.at(fields, x_indices, vectors[:, 0])
    np.add.at(fields, x_indices + grid, vectors[:, 1])


def _cells_in_boxes(
    low: Floats, high: Floats, xs: Floats, ys: Floats, margin: float
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Find the cells whose centres lie in N boxes.

    Args:
        low: (N, 2) x, y in px of the upper left corners.
        high: (N, 2) x, y in px of the lower right corners.
        xs: (w,) x of the cell centres in px.
        ys: (h,) y of the cell centres in px.
        margin: distance in px by which boxes are widened on every side.

    Returns:
        Index of the box, row and column of each cell, ordered by box.
    """
    reach = np.float32(margin)
    left, top = np.searchsorted(xs, low[:, 0] - reach), np.searchsorted(ys, low[:, 1] - reach)
    width = np.searchsorted(xs, high[:, 0] + reach, side="right") - left
    height = np.searchsorted(ys, high[:, 1] + reach, side="right") - top
    count = width * height
    box = np.repeat(np.arange(len(count)), count)
    index_in_box = np.arange(len(box)) - np.repeat(np.cumsum(count) - count, count)
    row, column = np.divmod(index_in_box, width[box])
    return box, row + top[box], column + left[box]


def encode_maps(
    keypoints: Floats, size: tuple[int, int], config: TargetConfig | None = None, out: Maps | None = None
) -> Maps:
    """Render the training targets of one image.

    Args:
        keypoints: (P, K, 3) float32 x, y in px of the image and visibility 0/1/2, OpenPose-18 order; P may be 0.
        size: (height, width) px of the image, multiples of the stride.
        config: widths; those of the reference recipe by default.
        out: maps to overwrite, contiguous; new ones by default.

    Returns:
        Maps with a grid of size / stride.

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
