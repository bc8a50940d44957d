"""The loss: masked mean squared error of the maps of every stage.

Source: Cao et al., CVPR 2017, equations 5 and 6, with a mean over cells and channels instead of a sum, so that the
learning rate does not depend on the image size or the batch size.

Shape letters: B batch, M places for people, K keypoints, L limbs, h w grid, T loss terms.
"""

from __future__ import annotations

import mindspore as ms
from mindspore import nn, ops

from training.loss.targets import RenderTargets
from training.network.openpose import OpenPose


def term_names(pafs: int, heatmaps: int) -> tuple[str, ...]:
    """Return the names of the loss terms in the order of StageLoss, given the number of stages of each kind."""
    return (*(f"pafs_{i + 1}" for i in range(pafs)), *(f"heatmaps_{i + 1}" for i in range(heatmaps)))


class StageLoss(nn.Cell):
    """Masked mean squared error of each stage and kind of map; the sum of these terms is the loss.

    Inputs of `construct`:
        pafs: tuple of (B, 2L, h, w), one per stage.
        heatmaps: tuple of (B, K + 1, h, w), one per stage.
        target_pafs: (B, 2L, h, w) float32.
        target_heatmaps: (B, K + 1, h, w) float32.
        mask: (B, h, w), 1 where a cell counts, 0 in the ignore region.

    Returns (T,) float32, one term per stage and kind, named by `term_names`.
    """

    def construct(
        self,
        pafs: tuple[ms.Tensor, ...],
        heatmaps: tuple[ms.Tensor, ...],
        target_pafs: ms.Tensor,
        target_heatmaps: ms.Tensor,
        mask: ms.Tensor,
    ) -> ms.Tensor:
        weight = ops.expand_dims(mask.astype(ms.float32), 1)  # (B, 1, h, w)
        terms: tuple[ms.Tensor, ...] = ()
        for paf in pafs:
            terms += (self._error(paf, target_pafs, weight),)
        for heatmap in heatmaps:
            terms += (self._error(heatmap, target_heatmaps, weight),)
        return ops.stack(terms)

    def _error(self, maps: ms.Tensor, targets: ms.Tensor, weight: ms.Tensor) -> ms.Tensor:
        error = (maps.astype(ms.float32) - targets) * weight
        return ops.mean(error * error)


class LossFromMaps(nn.Cell):
    """Loss terms (T,) of a batch whose targets were rendered on the host.

    Inputs: image (B, H, W, 3) uint8 BGR, mask (B, h, w), heatmaps (B, K + 1, h, w) and pafs (B, 2L, h, w).
    """

    def __init__(self, network: OpenPose) -> None:
        super().__init__(auto_prefix=False)
        self.network = network
        self.loss = StageLoss()

    def construct(self, image: ms.Tensor, mask: ms.Tensor, heatmaps: ms.Tensor, pafs: ms.Tensor) -> ms.Tensor:
        stage_pafs, stage_heatmaps = self.network(image)
        return self.loss(stage_pafs, stage_heatmaps, pafs, heatmaps, mask)


class LossFromKeypoints(nn.Cell):
    """Loss terms (T,) of a batch whose targets are rendered on the device.

    Inputs: image (B, H, W, 3) uint8 BGR, mask (B, h, w) and keypoints (B, M, K, 3) float32.
    """

    def __init__(self, network: OpenPose, render: RenderTargets) -> None:
        super().__init__(auto_prefix=False)
        self.network = network
        self.render = render
        self.loss = StageLoss()

    def construct(self, image: ms.Tensor, mask: ms.Tensor, keypoints: ms.Tensor) -> ms.Tensor:
        heatmaps, pafs = self.render(keypoints)
        stage_pafs, stage_heatmaps = self.network(image)
        return self.loss(stage_pafs, stage_heatmaps, pafs, heatmaps, mask)
