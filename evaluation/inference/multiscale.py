"""Maps of one picture at several scales, brought to one grid and averaged (Cao et al., CVPR 2017, section 3.1).

The grid is that of the largest scale: there the narrowest peaks keep their shape, where a coarser grid would have to
drop some of it, and all others are only enlarged.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from evaluation.inference.flip import Floats
from evaluation.inference.letterbox import Fit, cut
from pipeline.maps import Maps


def average_scales(maps: Sequence[Maps], fits: Sequence[Fit]) -> tuple[Maps, Fit]:
    """The mean of a picture's maps over its scales.

    Args:
        maps: of the whole canvas of each scale.
        fits: where the picture lies on each canvas.

    Returns:
        Maps on the part of the largest scale's grid that the picture covers, and that scale's fit.
    """
    largest = max(range(len(fits)), key=lambda i: fits[i].scaled)
    fit, finest = fits[largest], cut(maps[largest], fits[largest])
    if len(maps) == 1:
        return finest, fit
    heatmaps, pafs = finest.heatmaps.copy(), finest.pafs.copy()
    for i, one in enumerate(maps):
        if i != largest:
            rows, columns = (
                cubic_weights(there, here, before / after)
                for there, here, before, after in zip(one.grid, finest.grid, fits[i].scaled, fit.scaled, strict=True)
            )
            heatmaps += rows @ (one.heatmaps @ columns.T)
            pafs += rows @ (one.pafs @ columns.T)
    return Maps(heatmaps / len(maps), pafs / len(maps), finest.stride), fit


def cubic_weights(source: int, target: int, ratio: float) -> Floats:
    """(target, source) float32 weights that interpolate cells of one axis at the centres of another grid's cells.

    Cell j of the target is at ratio * (j + 0.5) - 0.5 in cells of the source, for both grids start at the picture's
    edge. Cubic convolution with a = -0.5 (Keys, 1981), exact for parabolas; beyond its ends an axis goes on as it ends.

    Args:
        source: cells of the axis that is read.
        target: cells wanted.
        ratio: cells of the source per cell of the target.
    """
    places = ratio * (np.arange(target) + 0.5) - 0.5  # (target,)
    taps = np.floor(places)[:, None] + np.arange(-1, 3)  # (target, 4)
    weights = np.zeros((target, source))
    rows = np.arange(target)[:, None].repeat(4, axis=1)
    columns = taps.clip(0, source - 1).astype(np.intp)
    np.add.at(weights, (rows, columns), _keys(places[:, None] - taps))
    return weights.astype(np.float32)


def _keys(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys's kernel at distances of up to 2 cells."""
    x = np.abs(distance)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x <= 1, near, far)
