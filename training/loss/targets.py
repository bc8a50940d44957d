"""Rendering of the training targets on the device: `pipeline.loading.targets` in MindSpore operators.

The host then transfers 54 numbers per person instead of 57 maps per sample. Coordinates stay float32, because bfloat16
is off by 0.2 px.

Shape letters: B batch, M places for people, K keypoints, L limbs, h w grid.
"""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import nn, ops

from pipeline.loading.targets import TargetConfig, cell_centres
from pipeline.maps import NUM_PAFS
from pipeline.skeleton import LIMB_INDICES, NUM_LIMBS

FAR = 1e9
"""px; a distance beyond any cell. It is finite because not every device supports infinity in arithmetic."""


class RenderTargets(nn.Cell):
    """Render heatmaps and part affinity fields from keypoints.

    (B, M, K, 3) float32 x, y in px and visibility -> heatmaps (B, K + 1, h, w) and part affinity fields (B, 2L, h, w),
    float32. In a place without a person all visibilities are 0.
    """

    def __init__(self, size: tuple[int, int], config: TargetConfig) -> None:
        """`size` is the height and width of the network input in px."""
        super().__init__()
        height, width = size
        self.xs = ms.Tensor(cell_centres(width))  # (w,)
        self.ys = ms.Tensor(cell_centres(height))  # (h,)
        self.grid = (len(self.ys), len(self.xs))
        self.exponent_factor = -0.5 / config.sigma**2
        self.limb_width = config.limb_width
        self.limb_starts = ms.Tensor(LIMB_INDICES[:, 0].astype(np.int32))
        self.limb_ends = ms.Tensor(LIMB_INDICES[:, 1].astype(np.int32))

    def construct(self, keypoints: ms.Tensor) -> tuple[ms.Tensor, ms.Tensor]:
        return self.heatmaps(keypoints), self.pafs(keypoints)

    def heatmaps(self, keypoints: ms.Tensor) -> ms.Tensor:
        x, y, visibility = self._split(keypoints)  # (B, M, K, 1) each
        across = ops.exp(self.exponent_factor * (self.xs - x) * (self.xs - x))  # (B, M, K, w)
        down = ops.exp(self.exponent_factor * (self.ys - y) * (self.ys - y))  # (B, M, K, h)
        down = down * (visibility > 0).astype(ms.float32)
        gaussians = ops.expand_dims(down, -1) * ops.expand_dims(across, -2)  # (B, M, K, h, w)
        people = ops.amax(gaussians, axis=1)  # (B, K, h, w)
        background = 1.0 - ops.amax(people, axis=1, keepdims=True)
        return ops.cat((people, background), axis=1)

    def pafs(self, keypoints: ms.Tensor) -> ms.Tensor:
        ax, ay, a_visible = self._split(ops.gather(keypoints, self.limb_starts, 2))  # (B, M, L, 1) each
        bx, by, b_visible = self._split(ops.gather(keypoints, self.limb_ends, 2))
        length = ops.sqrt((bx - ax) * (bx - ax) + (by - ay) * (by - ay))
        labelled = ops.logical_and(ops.logical_and(a_visible > 0, b_visible > 0), length > 0)
        divisor = ops.maximum(length, ops.ones_like(length) * 1e-6)
        ux, uy = (bx - ax) / divisor, (by - ay) / divisor
        # |down - across| is the distance of a cell from the line; outside the bounding box of the limb it is FAR
        down = ux * (self.ys - ay)  # (B, M, L, h)
        across = uy * (self.xs - ax)  # (B, M, L, w)
        down = down + FAR * (1.0 - self._between(self.ys, ay, by) * labelled.astype(ms.float32))
        across = across - FAR * (1.0 - self._between(self.xs, ax, bx))
        distances = ops.abs(ops.expand_dims(down, -1) - ops.expand_dims(across, -2))  # (B, M, L, h, w)
        inside = (distances <= self.limb_width).astype(ms.float32)
        return self._average(inside, ux, uy)

    def _average(self, inside: ms.Tensor, ux: ms.Tensor, uy: ms.Tensor) -> ms.Tensor:
        """Average the unit vectors of all people whose limb covers a cell: -> (B, 2L, h, w)."""
        h, w = self.grid
        batch, people = inside.shape[:2]
        ones = ops.ones_like(ux)
        weights = ops.transpose(ops.cat((ux, uy, ones), axis=-1), (0, 2, 3, 1))  # (B, L, 3, M)
        cells = ops.reshape(ops.transpose(inside, (0, 2, 1, 3, 4)), (batch, NUM_LIMBS, people, h * w))
        sums = ops.matmul(weights, cells)  # (B, L, 3, h * w): x, y, count
        pafs = sums[:, :, :2] / ops.maximum(sums[:, :, 2:], ops.ones_like(sums[:, :, 2:]))
        return ops.reshape(pafs, (batch, NUM_PAFS, h, w))

    def _between(self, cells: ms.Tensor, a: ms.Tensor, b: ms.Tensor) -> ms.Tensor:
        """Return 1 where a cell coordinate is between a and b, extended by the limb width on both sides, else 0."""
        low, high = ops.minimum(a, b) - self.limb_width, ops.maximum(a, b) + self.limb_width
        return ops.logical_and(cells >= low, cells <= high).astype(ms.float32)

    def _split(self, points: ms.Tensor) -> tuple[ms.Tensor, ms.Tensor, ms.Tensor]:
        """Split (…, 3) into x, y and visibility, (…, 1) each."""
        return points[..., 0:1], points[..., 1:2], points[..., 2:3]
