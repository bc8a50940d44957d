"""The loss: masked mean squared error of the maps of every stage.

Source: Cao et al., CVPR 2017, equations 5 and 6, with a mean over cells and channels instead of a sum, so that the
learning rate does not depend on the image size or the batch size.

Shape letters: B batch, M places for people, K keypoints, L limbs, h w grid, T loss terms.
"""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import nn, ops

from pipeline.skeleton import KEYPOINTS
from training.config import LossConfig
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

    Returns (T,) float32, one term per stage and kind, named by `term_names`, with the factors of `LossConfig`.
    """

    def __init__(self, config: LossConfig) -> None:
        super().__init__()
        self.early_stage_weight = config.early_stage_weight
        self.paf_weight = config.paf_weight
        self.heatmap_weight = config.heatmap_weight
        self.extra_target_weight = config.target_weight - 1
        channels = [config.keypoint_weights.get(name, 1.0) for name in (*KEYPOINTS, "background")]
        self.has_channel_weights = bool(config.keypoint_weights)
        self.channel_weights = ms.Tensor(np.array(channels, np.float32).reshape(1, -1, 1, 1))

    def construct(
        self,
        pafs: tuple[ms.Tensor, ...],
        heatmaps: tuple[ms.Tensor, ...],
        target_pafs: ms.Tensor,
        target_heatmaps: ms.Tensor,
        mask: ms.Tensor,
    ) -> ms.Tensor:
        counted = ops.expand_dims(mask.astype(ms.float32), 1)  # (B, 1, h, w)
        paf_weights = counted
        heatmap_weights = counted
        if self.extra_target_weight > 0:
            paf_weights = counted * ops.sqrt(1 + self.extra_target_weight * _paf_lengths(target_pafs))
            heatmap_weights = counted * ops.sqrt(1 + self.extra_target_weight * _presence(target_heatmaps))
        if self.has_channel_weights:
            heatmap_weights = heatmap_weights * ops.sqrt(self.channel_weights)
        terms: tuple[ms.Tensor, ...] = ()
        for i in range(len(pafs)):
            error = _squared_error(pafs[i], target_pafs, paf_weights)
            terms += (self._weigh(error, self.paf_weight, i + 1 == len(pafs)),)
        for i in range(len(heatmaps)):
            error = _squared_error(heatmaps[i], target_heatmaps, heatmap_weights)
            terms += (self._weigh(error, self.heatmap_weight, i + 1 == len(heatmaps)),)
        return ops.stack(terms)

    def _weigh(self, error: ms.Tensor, weight: float, last: bool) -> ms.Tensor:
        factor = weight if last else weight * self.early_stage_weight
        return error if factor == 1 else error * factor


def _squared_error(maps: ms.Tensor, targets: ms.Tensor, root_weights: ms.Tensor) -> ms.Tensor:
    """Return the weighted mean squared error, given the square roots of the weights; the mask is its own root."""
    error = (maps.astype(ms.float32) - targets) * root_weights
    return ops.mean(error * error)


def _presence(heatmaps: ms.Tensor) -> ms.Tensor:
    """Return for every cell and channel how much a keypoint is there: the background is 1 where none is."""
    return ops.cat((heatmaps[:, :-1], 1 - heatmaps[:, -1:]), axis=1)


def _paf_lengths(pafs: ms.Tensor) -> ms.Tensor:
    """Return the length of each limb's vector in both of its channels, (B, 2L, h, w)."""
    batch, channels, height, width = pafs.shape
    vectors = pafs.reshape(batch, channels // 2, 2, height, width)
    lengths = ops.sqrt((vectors * vectors).sum(2, keepdims=True))
    return ops.broadcast_to(lengths, vectors.shape).reshape(pafs.shape)


class LossFromMaps(nn.Cell):
    """Loss terms (T,) of a batch whose targets were rendered on the host.

    Inputs: image (B, H, W, 3) uint8 BGR, mask (B, h, w), heatmaps (B, K + 1, h, w) and pafs (B, 2L, h, w).
    """

    def __init__(self, network: OpenPose, config: LossConfig) -> None:
        super().__init__(auto_prefix=False)
        self.network = network
        self.loss = StageLoss(config)

    def construct(self, image: ms.Tensor, mask: ms.Tensor, heatmaps: ms.Tensor, pafs: ms.Tensor) -> ms.Tensor:
        stage_pafs, stage_heatmaps = self.network(image)
        return self.loss(stage_pafs, stage_heatmaps, pafs, heatmaps, mask)


class LossFromKeypoints(nn.Cell):
    """Loss terms (T,) of a batch whose targets are rendered on the device.

    Inputs: image (B, H, W, 3) uint8 BGR, mask (B, h, w) and keypoints (B, M, K, 3) float32.
    """

    def __init__(self, network: OpenPose, render: RenderTargets, config: LossConfig) -> None:
        super().__init__(auto_prefix=False)
        self.network = network
        self.render = render
        self.loss = StageLoss(config)

    def construct(self, image: ms.Tensor, mask: ms.Tensor, keypoints: ms.Tensor) -> ms.Tensor:
        heatmaps, pafs = self.render(keypoints)
        stage_pafs, stage_heatmaps = self.network(image)
        return self.loss(stage_pafs, stage_heatmaps, pafs, heatmaps, mask)
