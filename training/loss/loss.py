"""The loss: squared error of every stage's maps where the mask lets the loss look.

Source: Cao et al., CVPR 2017, equations 5 and 6, as a mean over cells and channels instead of a sum, so that the
learning rate does not depend on the picture's size or on the batch.
"""

from __future__ import annotations

import mindspore as ms
from mindspore import nn, ops

from training.loss.targets import RenderTargets
from training.network.openpose import OpenPose


def term_names(pafs: int, heatmaps: int) -> tuple[str, ...]:
    """Names of the loss's terms, in the order in which StageLoss gives them, for so many stages of each branch."""
    return (*(f"pafs_{i + 1}" for i in range(pafs)), *(f"heatmaps_{i + 1}" for i in range(heatmaps)))


class StageLoss(nn.Cell):
    """Masked mean squared error of each stage and branch; their sum is the loss.

    pafs, heatmaps: tuples of tensors (B, 2L, h, w), (B, K + 1, h, w), one a stage; a target of each, (B, …); mask
    (B, h, w), 1 counts. Returns (T,) float32, named by `term_names`.
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
    """A batch with targets from the host to its loss's terms, as StageLoss gives them."""

    def __init__(self, network: OpenPose) -> None:
        super().__init__(auto_prefix=False)
        self.network = network
        self.loss = StageLoss()

    def construct(self, image: ms.Tensor, mask: ms.Tensor, heatmaps: ms.Tensor, pafs: ms.Tensor) -> ms.Tensor:
        stage_pafs, stage_heatmaps = self.network(image)
        return self.loss(stage_pafs, stage_heatmaps, pafs, heatmaps, mask)


class LossFromKeypoints(nn.Cell):
    """A batch whose targets are drawn on the device to its loss's terms, as StageLoss gives them."""

    def __init__(self, network: OpenPose, render: RenderTargets) -> None:
        super().__init__(auto_prefix=False)
        self.network = network
        self.render = render
        self.loss = StageLoss()

    def construct(self, image: ms.Tensor, mask: ms.Tensor, keypoints: ms.Tensor) -> ms.Tensor:
        heatmaps, pafs = self.render(keypoints)
        stage_pafs, stage_heatmaps = self.network(image)
        return self.loss(stage_pafs, stage_heatmaps, pafs, heatmaps, mask)
