"""Peak detection in heatmaps with sub-pixel accuracy. The peaks are the candidate keypoints.

A peak is a grid cell whose value is not exceeded by any cell of its 3x3 neighbourhood. The targets are Gaussians, and
the logarithm of a Gaussian is a parabola. Three neighbouring cells along an axis therefore give the centre of an
undisturbed Gaussian exactly, for any width and height.

This module needs NumPy only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MIN_RELATIVE_VALUE = 1e-3
"""Lower limit of a cell's value relative to its peak: noise can make cells zero or negative, without a logarithm."""

MIN_CURVATURE = 1e-3
"""Lower limit of the logarithm's curvature, per cell squared, which avoids a division by zero on plateaus."""

GAUSSIAN_CURVATURE = (8 / 7) ** 2
"""Curvature, per cell squared, of the targets' Gaussian (sigma 7 px, cells of 8 px). It is assumed in the corners of
the grid, and it is the upper limit of the curvature from which the height of a peak between cells is computed."""

PERPENDICULAR_WEIGHTS = np.array([0.5, 1.0, 0.5], dtype=np.float32)
"""Weights of the three rows that are summed to locate a peak along x, and of the three columns along y."""


@dataclass(frozen=True)
class Peaks:
    """N candidate keypoints, sorted by keypoint kind.

    Attributes:
        kind: (N,) intp keypoint kind (OpenPose-18 index), ascending.
        position: (N, 2) float32 x, y in grid cells, with sub-cell accuracy.
        score: (N,) float32 height of the interpolated peak: the value of its cell or slightly more.
        count: (K,) intp number of candidates of each kind.
    """

    kind: NDArray[np.intp]
    position: NDArray[np.float32]
    score: NDArray[np.float32]
    count: NDArray[np.intp]


def find_peaks(heatmaps: NDArray[np.float32], threshold: float, max_peaks: int) -> Peaks:
    """Find the local maxima above a threshold.

    If neighbouring cells have exactly the same value, the first in row-major order is the peak.

    Args:
        heatmaps: (K, h, w) float32, finite.
        threshold: value that a peak must exceed.
        max_peaks: maximum number of candidates of one keypoint kind; the highest are kept.
    """
    kinds, height, width = heatmaps.shape
    padded = np.full((kinds, height + 2, width + 2), -np.inf, dtype=np.float32)
    padded[:, 1:-1, 1:-1] = heatmaps
    flat = padded.reshape(-1)
    cells = np.flatnonzero(flat > threshold)
    row = width + 2
    for earlier in (-1, -row, -row - 1, -row + 1):
        value = flat[cells]
        cells = cells[(value > flat[cells + earlier]) & (value >= flat[cells - earlier])]
    kind = cells // (row * (height + 2))
    if len(cells) > max_peaks:
        kept = _highest_of_each_kind(kind, flat[cells], max_peaks)
        cells, kind = cells[kept], kind[kept]
    y, x = np.divmod(cells % (row * (height + 2)), row)
    offset, score = _refine(flat, cells, row)
    position = (np.stack([x - 1, y - 1], axis=1) + offset).astype(np.float32)
    return Peaks(kind, position, score, np.bincount(kind, minlength=kinds))


def _highest_of_each_kind(kind: NDArray[np.intp], score: NDArray[np.float32], max_peaks: int) -> NDArray[np.intp]:
    """Return the ascending indices of the `max_peaks` highest scores of each kind; `kind` is ascending."""
    order = np.lexsort((-score, kind))
    group_start = np.searchsorted(kind, kind)
    rank = np.arange(len(kind)) - group_start
    return np.sort(order[rank < max_peaks])


def _refine(
    flat: NDArray[np.float32], cells: NDArray[np.intp], row: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Fit a Gaussian to the 3x3 neighbourhood of each peak.

    Each axis is fitted separately, to sums over the other axis with weights 1, 2, 1. Sums of a Gaussian are the same
    Gaussian, and noise in single cells has less influence. At the edge of the grid one neighbour is missing; there the
    curvature of the other axis is used, because the Gaussian is equally wide along both axes.

    Args:
        flat: all heatmaps, padded by one cell of -inf on each side, as one row.
        cells: (N,) indices of the peaks in `flat`.
        row: number of cells from one row of a padded heatmap to the next.

    Returns:
        (N, 2) float32 x, y of the centre relative to the cell, within half a cell; (N,) float32 height.
    """
    neighbours = flat[cells[:, None] + np.array([-row - 1, -row, -row + 1, -1, 0, 1, row - 1, row, row + 1])]
    peak = np.maximum(flat[cells], np.finfo(np.float32).tiny)
    inside = np.isfinite(neighbours)
    cross = inside[:, [3, 5, 1, 7]].reshape(-1, 2, 2)  # (N, axis, side): left, right; up, down
    window = np.where(inside, neighbours / peak[:, None], 0).reshape(-1, 3, 3)  # (N, y, x)
    sums = np.stack([PERPENDICULAR_WEIGHTS @ window, window @ PERPENDICULAR_WEIGHTS], axis=1)  # (N, axis, 3)
    logs = np.log(np.maximum(sums, MIN_RELATIVE_VALUE))
    drop = logs[:, :, 1:2] - logs[:, :, ::2]  # (N, axis, side): difference between the middle and each neighbour
    curvature = np.where(cross.all(axis=2), drop.sum(axis=2), np.nan)  # (N, axis)
    curvature = np.where(np.isnan(curvature), curvature[:, ::-1], curvature)
    curvature = np.where(np.isnan(curvature), GAUSSIAN_CURVATURE, curvature)
    curvature = np.maximum(curvature, MIN_CURVATURE)
    drop = np.where(cross, drop, curvature[..., None] - drop[..., ::-1])
    drop = np.where(cross.any(axis=2, keepdims=True), drop, 0)
    offset = np.clip((drop[..., 0] - drop[..., 1]) / (2 * curvature), -0.5, 0.5)
    rise = np.minimum(curvature, GAUSSIAN_CURVATURE) * offset**2 / 2
    return offset.astype(np.float32), (flat[cells] * np.exp(rise.sum(axis=1))).astype(np.float32)
