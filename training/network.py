"""The OpenPose network: one class for every size, described by ModelConfig.

Source: Cao, Simon, Wei and Sheikh, "Realtime Multi-Person 2D Pose Estimation using Part Affinity Fields", CVPR 2017.
With the default configuration it has the paper's layers and 52.3 million parameters.

Shape letters: B batch, H W picture in px, h w grid (H / 8, W / 8), S stages, K keypoints, L limbs, F features.
"""

from __future__ import annotations

import mindspore as ms
from mindspore import nn, ops
from mindspore.common.initializer import Normal

from pipeline.maps import NUM_HEATMAPS, NUM_PAFS
from training.backbones import Conv, ConvBlock, build_backbone
from training.config import ModelConfig

HEAD_SIGMA = 0.01
BACKGROUND_BIAS = 0.9
"""Nearly every cell is background: starting there lets the heads learn at once."""


class Branch(nn.Cell):
    """Convolutions that end in one kind of map.  (B, inputs, h, w) -> (B, outputs, h, w)."""

    def __init__(self, inputs: int, convs: list[Conv], outputs: int, batch_norm: bool, background: bool) -> None:
        super().__init__()
        blocks = []
        for conv in convs:
            blocks.append(ConvBlock(inputs, conv, batch_norm))
            inputs = conv.width
        self.body = nn.SequentialCell(blocks)
        self.head = nn.Conv2d(inputs, outputs, 1, has_bias=True, weight_init=Normal(HEAD_SIGMA), bias_init="zeros")
        if background:
            self.head.bias[-1] = BACKGROUND_BIAS

    def construct(self, x: ms.Tensor) -> ms.Tensor:
        return self.head(self.body(x))


class Stage(nn.Cell):
    """The part affinity field branch and the heatmap branch, side by side.

    (B, inputs, h, w) -> (B, 2L, h, w) and (B, K + 1, h, w).
    """

    def __init__(self, inputs: int, convs: list[Conv], batch_norm: bool) -> None:
        super().__init__()
        self.pafs = Branch(inputs, convs, NUM_PAFS, batch_norm, background=False)
        self.heatmaps = Branch(inputs, convs, NUM_HEATMAPS, batch_norm, background=True)

    def construct(self, x: ms.Tensor) -> tuple[ms.Tensor, ms.Tensor]:
        return self.pafs(x), self.heatmaps(x)


class OpenPose(nn.Cell):
    """Pictures to part affinity fields and heatmaps of every stage.

    The input is (B, H, W, 3) uint8 BGR; normalisation happens on the device. Returns two tuples of S float32 tensors:
    part affinity fields (B, 2L, h, w) and heatmaps (B, K + 1, h, w); the last of each is the answer.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.mean = ms.Tensor(config.mean, ms.float32)
        self.std = ms.Tensor(config.std, ms.float32)
        self.backbone, width = build_backbone(config.backbone, config.batch_norm)
        wide, features = config.feature_widths
        self.features = nn.SequentialCell(
            ConvBlock(width, Conv(wide), config.batch_norm), ConvBlock(wide, Conv(features), config.batch_norm)
        )
        stages = [Stage(features, first_stage(config), config.batch_norm)]
        for _ in range(config.stages - 1):
            stages.append(Stage(NUM_PAFS + NUM_HEATMAPS + features, refining_stage(config), config.batch_norm))
        self.stages = nn.CellList(stages)

    def construct(self, image: ms.Tensor) -> tuple[tuple[ms.Tensor, ...], tuple[ms.Tensor, ...]]:
        x = (image.astype(ms.float32) - self.mean) / self.std  # (B, H, W, 3)
        x = ops.transpose(x, (0, 3, 1, 2))  # (B, 3, H, W)
        features = self.features(self.backbone(x))  # (B, F, h, w)
        pafs: tuple[ms.Tensor, ...] = ()
        heatmaps: tuple[ms.Tensor, ...] = ()
        x = features
        for stage in self.stages:
            paf, heatmap = stage(x)
            pafs += (paf,)
            heatmaps += (heatmap,)
            x = ops.cat((paf, heatmap, features), axis=1)
        return pafs, heatmaps


class Answer(nn.Cell):
    """The last stage's maps alone.

    (B, H, W, 3) uint8 BGR -> part affinity fields (B, 2L, h, w) and heatmaps (B, K + 1, h, w), float32.
    """

    def __init__(self, network: OpenPose) -> None:
        super().__init__()
        self.network = network

    def construct(self, image: ms.Tensor) -> tuple[ms.Tensor, ms.Tensor]:
        pafs, heatmaps = self.network(image)
        return pafs[-1], heatmaps[-1]


def first_stage(config: ModelConfig) -> list[Conv]:
    """Hidden convolutions of a branch of stage 1, which sees only features."""
    return [*[Conv(config.stage_width)] * config.first_depth, Conv(config.first_width, kernel=1)]


def refining_stage(config: ModelConfig) -> list[Conv]:
    """Hidden convolutions of a branch of stages 2 and on, which see the maps before them too."""
    wide = Conv(config.stage_width, kernel=config.stage_kernel, dilation=config.stage_dilation)
    return [*[wide] * config.stage_depth, Conv(config.stage_width, kernel=1)]


def count_parameters(network: nn.Cell) -> int:
    """Number of trainable numbers in the network."""
    return sum(parameter.size for parameter in network.trainable_params())
