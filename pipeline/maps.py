"""Heatmaps and part affinity fields, as output by the network or rendered as targets; grid and pixel coordinates.

This module needs only NumPy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.skeleton import NUM_KEYPOINTS, NUM_LIMBS

STRIDE = 8
"""Pixels of the network's input per cell of its output grid: VGG19's first ten layers halve the size three times."""

NUM_HEATMAPS = NUM_KEYPOINTS + 1
"""Number of heatmaps: one per keypoint, and the background last."""

NUM_PAFS = 2 * NUM_LIMBS
"""Number of part affinity field channels: x and y of each limb, interleaved as x0, y0, x1, y1, …"""

InferenceFunction = Callable[[NDArray[np.uint8]], tuple[NDArray[np.float32], NDArray[np.float32]]]
"""Inference as a function: images (B, H, W, 3) uint8 BGR to part affinity fields (B, 2L, h, w) and heatmaps
(B, K + 1, h, w), both float32."""

Coordinate = TypeVar("Coordinate", float, NDArray[np.float32])


def grid_to_pixel(cell: Coordinate, stride: int) -> Coordinate:
    """Convert a grid coordinate, which may be fractional, to a pixel coordinate: stride * cell + (stride - 1) / 2."""
    return cell * stride + (stride - 1) / 2


def pixel_to_grid(pixel: Coordinate, stride: int) -> Coordinate:
    """Convert a pixel coordinate to a fractional grid coordinate; the inverse of `grid_to_pixel`."""
    return (pixel - (stride - 1) / 2) / stride


@dataclass(frozen=True)
class Maps:
    """Heatmaps and part affinity fields of one image.

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
                raise ValueError(
                    f"Maps.{name}: shape {array.shape}, expected ({channels}, h, w), the same grid for both"
                )

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w) in cells."""
        height, width = self.heatmaps.shape[1:]
        return height, width
