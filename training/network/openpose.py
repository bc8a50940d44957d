"""The OpenPose network: one class for every size and order of stages, described by ModelConfig.

Source: Cao, Simon, Wei and Sheikh, "Realtime Multi-Person 2D Pose Estimation using Part Affinity Fields", CVPR 2017.
With the default configuration it has the paper's layers and 52.3 million parameters. Recipes make of the same class
the network of Cao et al., "OpenPose", TPAMI 2019 (part affinity fields first) and that of Osokin, "Lightweight
OpenPose", 2018.

Shape letters: B batch, H W picture in px, h w grid (H / 8, W / 8), S stages of a kind, K keypoints, L limbs, F feature
channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import mindspore as ms
from mindspore import nn, ops
from mindspore.common.initializer import Normal

from pipeline.maps import NUM_HEATMAPS, NUM_PAFS
from training.config import MapKind, ModelConfig
from training.network.backbones import build_backbone
from training.network.layers import Conv, Dense, Layer, Layers, Residual, build_layers, separable

HEAD_STD = 0.01
BACKGROUND_BIAS = 0.9
"""Nearly every cell is background: starting there lets the heads learn at once."""

MAP_CHANNELS: dict[MapKind, int] = {"pafs": NUM_PAFS, "heatmaps": NUM_HEATMAPS}
"""Of each kind of map, in the order in which stages see them."""


class Branch(nn.Cell):
    """Layers that end in one kind of map.  (B, inputs, h, w) -> (B, outputs, h, w)."""

    def __init__(self, inputs: int, layers: Layers, kind: MapKind, batch_norm: bool) -> None:
        super().__init__()
        self.body, width = build_layers(layers, inputs, batch_norm)
        self.head = nn.Conv2d(
            width, MAP_CHANNELS[kind], 1, has_bias=True, weight_init=Normal(HEAD_STD), bias_init="zeros"
        )
        if kind == "heatmaps":
            self.head.bias[-1] = BACKGROUND_BIAS

    def construct(self, x: ms.Tensor) -> ms.Tensor:
        return self.head(self.body(x))


@dataclass(frozen=True)
class StagePlan:
    """One stage, said as data.

    Attributes:
        inputs: kinds of maps that it sees beside the features: the newest of each.
        outputs: kinds of maps that it answers with.
        trunk: layers that its branches share.
        branch: layers of each branch alone, before its output.
    """

    inputs: tuple[MapKind, ...]
    outputs: tuple[MapKind, ...]
    trunk: Layers
    branch: Layers


class Stage(nn.Cell):
    """A part affinity field branch, a heatmap branch, or both side by side, behind a trunk if they share one.

    (B, inputs, h, w) -> a tuple of part affinity fields (B, 2L, h, w) and one of heatmaps (B, K + 1, h, w); each holds
    one tensor, or none if the stage does not give that kind.
    """

    def __init__(self, features: int, plan: StagePlan, batch_norm: bool) -> None:
        super().__init__()
        width = features + sum(MAP_CHANNELS[kind] for kind in plan.inputs)
        self.trunk: nn.Cell = nn.Identity()
        if plan.trunk:
            self.trunk, width = build_layers(plan.trunk, width, batch_norm)
        self.has_pafs = "pafs" in plan.outputs
        self.has_heatmaps = "heatmaps" in plan.outputs
        if self.has_pafs:
            self.pafs = Branch(width, plan.branch, "pafs", batch_norm)
        if self.has_heatmaps:
            self.heatmaps = Branch(width, plan.branch, "heatmaps", batch_norm)

    def construct(self, x: ms.Tensor) -> tuple[tuple[ms.Tensor, ...], tuple[ms.Tensor, ...]]:
        x = self.trunk(x)
        pafs = (self.pafs(x),) if self.has_pafs else ()
        heatmaps = (self.heatmaps(x),) if self.has_heatmaps else ()
        return pafs, heatmaps


class OpenPose(nn.Cell):
    """Pictures to part affinity fields and heatmaps of every stage.

    The input is (B, H, W, 3) uint8 BGR; normalisation happens on the device. Returns two tuples of S float32 tensors:
    part affinity fields (B, 2L, h, w) and heatmaps (B, K + 1, h, w); the last of each is the answer. How many stages
    give each kind says `ModelConfig.num_stages`.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.mean = ms.Tensor(config.mean, ms.float32)
        self.std = ms.Tensor(config.std, ms.float32)
        self.backbone, width = build_backbone(config.backbone, config.backbone_scale, config.batch_norm)
        self.features, width = build_layers(feature_layers(config), width, config.batch_norm)
        self.stages = nn.CellList([Stage(width, plan, config.batch_norm) for plan in plan_stages(config)])

    def construct(self, image: ms.Tensor) -> tuple[tuple[ms.Tensor, ...], tuple[ms.Tensor, ...]]:
        x = (image.astype(ms.float32) - self.mean) / self.std  # (B, H, W, 3)
        x = ops.transpose(x, (0, 3, 1, 2))  # (B, 3, H, W)
        features = self.features(self.backbone(x))  # (B, F, h, w)
        pafs: tuple[ms.Tensor, ...] = ()
        heatmaps: tuple[ms.Tensor, ...] = ()
        x = features
        for stage in self.stages:
            new_pafs, new_heatmaps = stage(x)
            pafs += new_pafs
            heatmaps += new_heatmaps
            x = ops.cat((*pafs[-1:], *heatmaps[-1:], features), axis=1)
        return pafs, heatmaps


def feature_layers(config: ModelConfig) -> Layers:
    """Between backbone and stages: layers that narrow what the backbone saw."""
    wide, narrow = config.feature_widths
    if config.feature_block == "separable":
        return Conv(wide, kernel=1), Residual(separable(wide) * 3), Conv(narrow)
    return Conv(wide), Conv(narrow)


def plan_stages(config: ModelConfig) -> Iterator[StagePlan]:
    """The stages in their order; one that is the first to give a kind of map has layers of its own."""
    known: set[MapKind] = set()
    for outputs in config.stage_outputs:
        hidden, last = later_stage_layers(config) if known.issuperset(outputs) else first_stage_layers(config)
        inputs = tuple(kind for kind in MAP_CHANNELS if kind in known)
        if config.branches == "shared":
            yield StagePlan(inputs, outputs, trunk=hidden, branch=(last,))
        else:
            yield StagePlan(inputs, outputs, trunk=(), branch=(*hidden, last))
        known.update(outputs)


def first_stage_layers(config: ModelConfig) -> tuple[Layers, Conv]:
    """Hidden layers of a stage that is the first of its kind, and the one before its output."""
    kernel = wide_convolution(
        config.first_inner_width or config.stage_width, config.first_kernel, 1, config.wide_kernels
    )
    return kernel * config.first_depth, Conv(config.first_width, kernel=1)


def later_stage_layers(config: ModelConfig) -> tuple[Layers, Conv]:
    """Hidden layers of a stage that refines, and the one before its output."""
    layers = wide_convolution(config.stage_width, config.stage_kernel, config.stage_dilation, config.wide_kernels)
    return layers * config.stage_depth, Conv(config.last_width or config.stage_width, kernel=1)


def wide_convolution(width: int, kernel: int, dilation: int, how: str) -> tuple[Layer, ...]:
    """A convolution that sees `kernel` cells, or what stands for it and sees as far; see `ModelConfig.wide_kernels`."""
    if kernel == 3 or how == "whole":
        return (Conv(width, kernel, dilation=dilation),)
    if how == "dense":
        return (Dense((Conv(width, dilation=dilation),) * ((kernel - 1) // 2)),)
    far = Conv(width, dilation=dilation * (kernel - 3) // 2)
    return Conv(width, kernel=1), Residual((Conv(width, dilation=dilation), far))


def count_parameters(network: nn.Cell) -> int:
    """Number of trainable numbers in the network."""
    return sum(parameter.size for parameter in network.trainable_params())


def multiply_adds(network: nn.Cell, height: int, width: int) -> int:
    """Multiplications, each with an addition, of the network's convolutions for one picture of height × width px.

    Cells are walked in the order in which they were made, so strides have to lie on the one path that all that comes
    after them shares, as those of a backbone do.
    """
    cells = height * width
    total = 0
    for _, cell in network.cells_and_names():
        if isinstance(cell, nn.Conv2d | nn.MaxPool2d):
            cells //= prod(cell.stride) if isinstance(cell.stride, tuple) else cell.stride**2
        if isinstance(cell, nn.Conv2d):
            total += cell.weight.size * cells
    return total
