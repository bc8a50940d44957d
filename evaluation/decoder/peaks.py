"""Peaks of heatmaps: where keypoints may be, to a fraction of a grid cell.

A peak is a cell that no cell of its 3x3 neighbourhood exceeds. Heatmaps are drawn as Gaussians, whose logarithm is a
parabola: three neighbouring cells on an axis give the centre of an undisturbed Gaussian exactly, whatever its width
and height.

This module needs NumPy only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FLOOR = 1e-3
"""Cells count as at least this fraction of their peak: noise can be zero or negative, its logarithm cannot."""

FLATTEST = 1e-3
"""Least curvature of the logarithm, per cell squared, from which a peak's offset is computed; below it, a plateau."""

GAUSSIAN_CURVATURE = (8 / 7) ** 2
"""Curvature, per cell squared, of the targets' Gaussian (sigma 7 px on cells of 8 px): for peaks in grid corners, and
the most from which a peak's height between cells is computed."""

ACROSS = np.array([0.5, 1.0, 0.5], dtype=np.float32)
"""Weights of the three rows that are summed to locate a peak along x, and of the columns along y."""


@dataclass(frozen=True)
class Peaks:
    """Candidates for keypoints, ordered by kind, N in all.

    Attributes:
        kind: (N,) intp OpenPose-18 index, ascending.
        position: (N, 2) float32 x, y in fractional grid cells.
        score: (N,) float32 height of the peak between the cells, which is that of its cell or a little more.
        count: (K,) intp number of candidates of each kind.
    """

    kind: NDArray[np.intp]
    position: NDArray[np.float32]
    score: NDArray[np.float32]
    count: NDArray[np.intp]


def find_peaks(heatmaps: NDArray[np.float32], threshold: float, limit: int) -> Peaks:
    """All local maxima above a threshold, the highest `limit` of each kind.

    Of neighbouring cells that are exactly equal, the first in reading order is the peak.

    Args:
        heatmaps: (K, h, w) float32, finite.
        threshold: height that a peak must exceed.
        limit: most candidates of one kind; the highest are kept.
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
    if len(cells) > limit:
        kept = _highest_of_each_kind(kind, flat[cells], limit)
        cells, kind = cells[kept], kind[kept]
    y, x = np.divmod(cells % (row * (height + 2)), row)
    offset, score = _locate(flat, cells, row)
    position = (np.stack([x - 1, y - 1], axis=1) + offset).astype(np.float32)
    return Peaks(kind, position, score, np.bincount(kind, minlength=kinds))


def _highest_of_each_kind(kind: NDArray[np.intp], score: NDArray[np.float32], limit: int) -> NDArray[np.intp]:
    """Indices, ascending, of the `limit` highest scores of each kind; `kind` is ascending."""
    order = np.lexsort((-score, kind))
    first = np.searchsorted(kind, kind)
    rank = np.arange(len(kind)) - first
    return np.sort(order[rank < limit])


def _locate(
    flat: NDArray[np.float32], cells: NDArray[np.intp], row: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Centre and height of the Gaussian that fits each peak's neighbourhood.

    Each axis is fitted on its own, on sums across it weighted 1, 2, 1: of a Gaussian these are the same Gaussian, and
    noise in single cells counts less. On the grid's edge one neighbour is unknown; the Gaussian is as wide along the
    other axis, so that axis's curvature stands in.

    Returns:
        (N, 2) float32 x, y of the centre relative to the cell, within half a cell; (N,) float32 height.
    """
    around = flat[cells[:, None] + np.array([-row - 1, -row, -row + 1, -1, 0, 1, row - 1, row, row + 1])]
    peak = np.maximum(flat[cells], np.finfo(np.float32).tiny)
    inside = np.isfinite(around)
    cross = inside[:, [3, 5, 1, 7]].reshape(-1, 2, 2)  # (N, axis, side): left, right; up, down
    window = np.where(inside, around / peak[:, None], 0).reshape(-1, 3, 3)  # (N, y, x)
    sums = np.stack([ACROSS @ window, window @ ACROSS], axis=1)  # (N, axis, 3)
    logs = np.log(np.maximum(sums, FLOOR))
    drop = logs[:, :, 1:2] - logs[:, :, ::2]  # (N, axis, side): how far each neighbour is below the middle
    curvature = np.where(cross.all(axis=2), drop.sum(axis=2), np.nan)  # (N, axis)
    curvature = np.where(np.isnan(curvature), curvature[:, ::-1], curvature)
    curvature = np.where(np.isnan(curvature), GAUSSIAN_CURVATURE, curvature)
    curvature = np.maximum(curvature, FLATTEST)
    drop = np.where(cross, drop, curvature[..., None] - drop[..., ::-1])
    drop = np.where(cross.any(axis=2, keepdims=True), drop, 0)
    offset = np.clip((drop[..., 0] - drop[..., 1]) / (2 * curvature), -0.5, 0.5)
    rise = np.minimum(curvature, GAUSSIAN_CURVATURE) * offset**2 / 2
    return offset.astype(np.float32), (flat[cells] * np.exp(rise.sum(axis=1))).astype(np.float32)
