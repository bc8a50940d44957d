"""Multi-scale averaging: resample the maps of one image at several scales to one grid and average them.

The grid is that of the largest scale, because a coarser grid could not represent its narrow peaks; the maps of the
other scales are only enlarged. Method: Cao et al., CVPR 2017, section 3.1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from evaluation.inference.flip import Floats
from evaluation.inference.letterbox import Letterbox, crop_maps
from pipeline.maps import Maps


def average_scales(maps: Sequence[Maps], letterboxes: Sequence[Letterbox]) -> tuple[Maps, Letterbox]:
    """Return the mean of an image's maps over all scales.

    Args:
        maps: maps of the whole canvas, one for each scale.
        letterboxes: letterbox of the image at each scale.

    Returns:
        Maps on the grid of the largest scale, cropped to the image, and the letterbox of that scale.
    """
    largest = max(range(len(letterboxes)), key=lambda i: letterboxes[i].scaled_size)
    letterbox, finest = letterboxes[largest], crop_maps(maps[largest], letterboxes[largest])
    if len(maps) == 1:
        return finest, letterbox
    heatmaps, pafs = finest.heatmaps.copy(), finest.pafs.copy()
    for i, coarser in enumerate(maps):
        if i == largest:
            continue
        ratios = np.divide(letterboxes[i].scaled_size, letterbox.scaled_size).tolist()
        rows, columns = (
            cubic_weights(source, target, ratio)
            for source, target, ratio in zip(coarser.grid, finest.grid, ratios, strict=True)
        )
        heatmaps += rows @ (coarser.heatmaps @ columns.T)
        pafs += rows @ (coarser.pafs @ columns.T)
    return Maps(heatmaps / len(maps), pafs / len(maps), finest.stride), letterbox


def cubic_weights(source: int, target: int, ratio: float) -> Floats:
    """Return the (target, source) float32 matrix that resamples one axis by cubic convolution.

    Target cell j lies at source coordinate ratio * (j + 0.5) - 0.5, because both grids start at the edge of the image.
    The kernel is that of Keys (1981) with a = -0.5, which is exact for quadratic functions. The first and the last cell
    are repeated beyond the ends of the axis.

    Args:
        source: number of cells of the source axis.
        target: number of cells of the target axis.
        ratio: source cells per target cell.
    """
    centres = ratio * (np.arange(target) + 0.5) - 0.5  # (target,)
    taps = np.floor(centres)[:, None] + np.arange(-1, 3)  # (target, 4)
    weights = np.zeros((target, source))
    rows = np.arange(target)[:, None].repeat(4, axis=1)
    columns = taps.clip(0, source - 1).astype(np.intp)
    np.add.at(weights, (rows, columns), _keys_kernel(centres[:, None] - taps))
    return weights.astype(np.float32)


def _keys_kernel(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return Keys's kernel at distances of up to 2 cells."""
    x = np.abs(distance)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x <= 1, near, far)
