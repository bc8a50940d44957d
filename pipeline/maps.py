"""Maps: the network's output and the targets' form, and the one place that relates grid cells to pixels.

This module needs NumPy only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.skeleton import NUM_KEYPOINTS, NUM_LIMBS

STRIDE = 8
"""Pixels of network input per grid cell of its output: VGG19's first ten layers halve the picture three times."""

NUM_HEATMAPS = NUM_KEYPOINTS + 1
"""K keypoint heatmaps and, last, the background."""

NUM_PAFS = 2 * NUM_LIMBS
"""x and y of each limb's part affinity field, interleaved: x0, y0, x1, y1, …"""

InferenceFunction = Callable[[NDArray[np.uint8]], tuple[NDArray[np.float32], NDArray[np.float32]]]
"""A network as a function: images (B, H, W, 3) uint8 BGR to part affinity fields (B, 2L, h, w) and heatmaps
(B, K + 1, h, w), both float32."""

Coordinate = TypeVar("Coordinate", float, NDArray[np.float32])


def grid_to_pixel(cell: Coordinate, stride: int) -> Coordinate:
    """Pixel coordinate of the centre of a (fractional) grid cell: stride * cell + (stride - 1) / 2."""
    return cell * stride + (stride - 1) / 2


def pixel_to_grid(pixel: Coordinate, stride: int) -> Coordinate:
    """Inverse of `grid_to_pixel`: the fractional grid coordinate of a pixel coordinate."""
    return (pixel - (stride - 1) / 2) / stride


@dataclass(frozen=True)
class Maps:
    """Heatmaps and part affinity fields of one picture.

    Attributes:
        heatmaps: (K + 1, h, w) float32 in 0..1; the last channel is the background.
        pafs: (2L, h, w) float32 in -1..1; channel 2i is the x, 2i + 1 the y component of limb i.
        stride: pixels of the network's input per grid cell.
    """

    heatmaps: NDArray[np.float32]
    pafs: NDArray[np.float32]
    stride: int = STRIDE

    def __post_init__(self) -> None:
        grid = self.heatmaps.shape[1:]
        for name, array, channels in (("heatmaps", self.heatmaps, NUM_HEATMAPS), ("pafs", self.pafs, NUM_PAFS)):
            if array.shape != (channels, *grid) or len(grid) != 2:
                raise ValueError(f"Maps.{name}: shape {array.shape}, expected ({channels}, h, w) on one grid")

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w) in cells."""
        height, width = self.heatmaps.shape[1:]
        return height, width
