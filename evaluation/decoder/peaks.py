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

MAX_RISE = float(np.exp(GAUSSIAN_CURVATURE / 4))
"""Maximum ratio, 1.39, of a peak's height to the value of its cell: that of a Gaussian centred on a cell's corner."""

_NEIGHBOURS = np.array([(row, column) for row in (-1, 0, 1) for column in (-1, 0, 1)])
"""(9, 2) row and column of the cells of a 3x3 neighbourhood, relative to the peak."""


_NOISE_STEP = 6
"""Every sixth row and column is used to estimate the noise: two thousand cells suffice for 3 %."""

_MEDIAN_TO_STDDEV = 1 / 0.6745
"""Standard deviation of normally distributed values, divided by the median of their absolute values."""


@dataclass(frozen=True)
class Peaks:
    """N candidate keypoints, sorted by keypoint kind.

    Attributes:
        kind: (N,) intp keypoint kind (OpenPose-18 index), ascending.
        position: (N, 2) float32 x, y in grid cells, with sub-cell accuracy.
        score: (N,) float32 height of the interpolated peak: the value of its cell or slightly more.
        strong: (N,) True for candidates that may be a person of their own; the others may only join one by a limb.
        count: (K,) intp number of candidates of each kind.
    """

    kind: NDArray[np.intp]
    position: NDArray[np.float32]
    score: NDArray[np.float32]
    strong: NDArray[np.bool_]
    count: NDArray[np.intp]


def find_peaks(heatmaps: NDArray[np.float32], strong: float, weak: float, max_peaks: int) -> Peaks:
    """Find the local maxima whose interpolated height is above a threshold, the lower one of two.

    The height counts, not the value of the cell: the cell of a peak between four cells has .72 of its height. A
    threshold on cells would reject such a peak and accept an equally high one in the centre of a cell.

    If neighbouring cells have exactly the same value, the first in row-major order is the peak.

    Args:
        heatmaps: (K, h, w) float32, finite.
        strong: height that a strong peak must exceed.
        weak: height that a weak peak must exceed.
        max_peaks: maximum number of candidates of one keypoint kind; the highest are kept.
    """
    kinds, height, width = heatmaps.shape
    row = width + 2
    padded = np.full((kinds, height + 2, row), -np.inf, dtype=np.float32)
    padded[:, 1:-1, 1:-1] = heatmaps
    flat = padded.reshape(-1)
    lowest = min(strong, weak)
    # all cells against their left and right neighbours, then what is left against the other three pairs
    middle = flat[1:-1]
    cells = np.flatnonzero((middle > flat[:-2]) & (middle >= flat[2:]) & (middle > lowest / MAX_RISE)) + 1
    for earlier in (-row, -row - 1, -row + 1):
        value = flat.take(cells)
        cells = cells[(value > flat.take(cells + earlier)) & (value >= flat.take(cells - earlier))]
    offset, score = _refine(flat.take(cells + (_NEIGHBOURS @ (row, 1))[:, None]))
    high = np.flatnonzero(score > lowest)
    kind = cells[high] // (row * (height + 2))
    if len(high) > max_peaks:
        kept = _highest_of_each_kind(kind, score[high], max_peaks)
        high, kind = high[kept], kind[kept]
    y, x = np.divmod(cells[high] % (row * (height + 2)), row)
    position = np.stack([x - 1 + offset[0, high], y - 1 + offset[1, high]], axis=1).astype(np.float32)
    score = score[high]
    return Peaks(kind, position, score, score > strong, np.bincount(kind, minlength=kinds))


def noise_level(heatmaps: NDArray[np.float32]) -> float:
    """Estimate the standard deviation of white noise in heatmaps.

    The difference between a cell and the mean of its left and right neighbour is near 0 in smooth maps, whatever their
    background, and has sqrt(1.5) times the deviation of white noise. The median leaves out the peaks (Donoho and
    Johnstone, Biometrika 1994, estimate noise in this way from the finest wavelet coefficients).

    Args:
        heatmaps: (K, h, w) float32, finite.

    Returns:
        The standard deviation; 0 for grids of fewer than 3 columns or 2 rows.
    """
    rows = heatmaps[:, 1::_NOISE_STEP]
    left, middle, right = (rows[:, :, i : i - 2 or None : _NOISE_STEP] for i in range(3))
    difference = np.abs(middle - (left + right) / 2).ravel()
    if not difference.size:
        return 0.0
    median = np.partition(difference, difference.size // 2)[difference.size // 2]
    return float(median) * _MEDIAN_TO_STDDEV / 1.5**0.5


def _highest_of_each_kind(kind: NDArray[np.intp], score: NDArray[np.float32], max_peaks: int) -> NDArray[np.intp]:
    """Return the ascending indices of the `max_peaks` highest scores of each kind; `kind` is ascending."""
    order = np.lexsort((-score, kind))
    group_start = np.searchsorted(kind, kind)
    rank = np.arange(len(kind)) - group_start
    return np.sort(order[rank < max_peaks])


def _refine(neighbourhood: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Fit a Gaussian to the 3x3 neighbourhood of each peak.

    Each axis is fitted separately, to sums over the other axis with weights 1, 2, 1. Sums of a Gaussian are the same
    Gaussian, and noise in single cells has less influence.

    Args:
        neighbourhood: (9, N) values of the cells around each peak in the order of _NEIGHBOURS; -inf outside the grid.

    Returns:
        (2, N) float32 x, y of the centre relative to the cell, within half a cell; (N,) float32 height.
    """
    peak = neighbourhood[4]
    window = neighbourhood / np.maximum(peak, np.finfo(np.float32).tiny)
    window[np.isneginf(window)] = 0
    window = window.reshape(3, 3, -1)  # (y, x, N)
    sums = np.stack([window[0] + 2 * window[1] + window[2], window[:, 0] + 2 * window[:, 1] + window[:, 2]])
    logs = np.log(np.maximum(sums, 2 * MIN_RELATIVE_VALUE))  # (axis, 3, N)
    drop = logs[:, 1:2] - logs[:, ::2]  # (axis, side, N): difference between the middle and each neighbour
    curvature = drop[:, 0] + drop[:, 1]  # (axis, N)
    inside = np.isfinite(neighbourhood[[[3, 5], [1, 7]]])  # (axis, side, N): left, right; up, down
    if not inside.all():
        drop, curvature = _extrapolate(drop, curvature, inside)
    curvature = np.maximum(curvature, MIN_CURVATURE)
    offset = np.clip((drop[:, 0] - drop[:, 1]) / (2 * curvature), -0.5, 0.5)
    rise = np.minimum(curvature, GAUSSIAN_CURVATURE) * offset * offset
    return offset, peak * np.exp((rise[0] + rise[1]) / 2)


def _extrapolate(
    drop: NDArray[np.float32], curvature: NDArray[np.float32], inside: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Replace the values of neighbours outside the grid.

    The curvature of the other axis is used, because the Gaussian is equally wide along both axes; in a corner, that of
    the targets.

    Args:
        drop: (axis, side, N) difference between the logarithms of the peak and of the neighbour on each side.
        curvature: (axis, N) sum of the two.
        inside: (axis, side, N) False for neighbours outside the grid.

    Returns:
        The same two arrays.
    """
    curvature = np.where(inside.all(axis=1), curvature, np.nan)
    curvature = np.where(np.isnan(curvature), curvature[::-1], curvature)
    curvature = np.where(np.isnan(curvature), np.float32(GAUSSIAN_CURVATURE), curvature)
    limited = np.maximum(curvature, MIN_CURVATURE)
    drop = np.where(inside, drop, limited[:, None] - drop[:, ::-1])
    return np.where(inside.any(axis=1, keepdims=True), drop, 0), curvature
