"""The OpenPose network: one class for all recipes, described by ModelConfig.

Source: Cao, Simon, Wei and Sheikh, "Realtime Multi-Person 2D Pose Estimation using Part Affinity Fields", CVPR 2017.
The default configuration has the layers of the paper and 52.3 million parameters. Other recipes configure the networks
of Cao et al., "OpenPose", TPAMI 2019 (part affinity fields first), and of Osokin, "Lightweight OpenPose", 2018.

Shape letters: B batch, H W image in px, h w grid (H / 8, W / 8), S number of stages of a kind, K keypoints, L limbs,
C channels, F feature channels.
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
"""Standard deviation of the initial weights of the last convolution of each branch."""

BACKGROUND_BIAS = 0.9
"""Initial bias of the background heatmap: nearly every cell is background, so the loss falls from the start."""

MAP_CHANNELS: dict[MapKind, int] = {"pafs": NUM_PAFS, "heatmaps": NUM_HEATMAPS}
"""Number of channels of each kind of map, in the order in which stages concatenate them."""


class Branch(nn.Cell):
    """Layers that output one kind of map: (B, C, h, w) -> (B, MAP_CHANNELS[kind], h, w)."""

    def __init__(self, in_channels: int, layers: Layers, kind: MapKind, batch_norm: bool) -> None:
        super().__init__()
        self.body, channels = build_layers(layers, in_channels, batch_norm)
        self.head = nn.Conv2d(
            channels, MAP_CHANNELS[kind], 1, has_bias=True, weight_init=Normal(HEAD_STD), bias_init="zeros"
        )
        if kind == "heatmaps":
            self.head.bias[-1] = BACKGROUND_BIAS

    def construct(self, x: ms.Tensor) -> ms.Tensor:
        return self.head(self.body(x))


@dataclass(frozen=True)
class StagePlan:
    """Description of one stage.

    Attributes:
        inputs: kinds of maps that are concatenated with the features, the latest of each kind.
        outputs: kinds of maps that the stage outputs.
        trunk: layers that its branches share.
        branch: layers of each branch before its output convolution.
    """

    inputs: tuple[MapKind, ...]
    outputs: tuple[MapKind, ...]
    trunk: Layers
    branch: Layers


class Stage(nn.Cell):
    """A part affinity field branch, a heatmap branch, or both in parallel, after a shared trunk if the plan has one.

    (B, C, h, w) -> a tuple with the part affinity fields (B, 2L, h, w) and a tuple with the heatmaps (B, K + 1, h, w).
    A tuple is empty if the stage does not output that kind.
    """

    def __init__(self, feature_channels: int, plan: StagePlan, batch_norm: bool) -> None:
        super().__init__()
        channels = feature_channels + sum(MAP_CHANNELS[kind] for kind in plan.inputs)
        self.trunk: nn.Cell = nn.Identity()
        if plan.trunk:
            self.trunk, channels = build_layers(plan.trunk, channels, batch_norm)
        self.has_pafs = "pafs" in plan.outputs
        self.has_heatmaps = "heatmaps" in plan.outputs
        if self.has_pafs:
            self.pafs = Branch(channels, plan.branch, "pafs", batch_norm)
        if self.has_heatmaps:
            self.heatmaps = Branch(channels, plan.branch, "heatmaps", batch_norm)

    def construct(self, x: ms.Tensor) -> tuple[tuple[ms.Tensor, ...], tuple[ms.Tensor, ...]]:
        x = self.trunk(x)
        pafs = (self.pafs(x),) if self.has_pafs else ()
        heatmaps = (self.heatmaps(x),) if self.has_heatmaps else ()
        return pafs, heatmaps


class OpenPose(nn.Cell):
    """From images to the part affinity fields and heatmaps of every stage.

    The input is (B, H, W, 3) uint8 BGR, which the network normalises itself. The output is two tuples of S float32
    tensors each: part affinity fields (B, 2L, h, w) and heatmaps (B, K + 1, h, w). The last element of each tuple is
    the result; the earlier ones are for the loss. `ModelConfig.num_stages` gives S for each kind.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.mean = ms.Tensor(config.mean, ms.float32)
        self.std = ms.Tensor(config.std, ms.float32)
        self.backbone, channels = build_backbone(config.backbone, config.backbone_scale, config.batch_norm)
        self.features, channels = build_layers(feature_layers(config), channels, config.batch_norm)
        self.stages = nn.CellList([Stage(channels, plan, config.batch_norm) for plan in plan_stages(config)])

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
    """Return the layers between backbone and stages, which reduce the number of channels."""
    first, last = config.feature_widths
    if config.feature_block == "separable":
        return Conv(first, kernel=1), Residual(separable(first) * 3), Conv(last)
    return Conv(first), Conv(last)


def plan_stages(config: ModelConfig) -> Iterator[StagePlan]:
    """Yield the description of each stage; the first stage of each kind of map has different layers."""
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
    """Return the hidden layers of the first stage of a kind, and the 1×1 convolution before its output."""
    channels = config.first_inner_width or config.stage_width
    layers = wide_convolution(channels, config.first_kernel, 1, config.wide_kernels)
    return layers * config.first_depth, Conv(config.first_width, kernel=1)


def later_stage_layers(config: ModelConfig) -> tuple[Layers, Conv]:
    """Return the hidden layers of a refinement stage, and the 1×1 convolution before its output."""
    layers = wide_convolution(config.stage_width, config.stage_kernel, config.stage_dilation, config.wide_kernels)
    return layers * config.stage_depth, Conv(config.last_width or config.stage_width, kernel=1)


def wide_convolution(channels: int, kernel: int, dilation: int, form: str) -> tuple[Layer, ...]:
    """Return a convolution with a receptive field of `kernel` cells, in the form of `ModelConfig.wide_kernels`."""
    if kernel == 3 or form == "whole":
        return (Conv(channels, kernel, dilation=dilation),)
    if form == "dense":
        return (Dense((Conv(channels, dilation=dilation),) * ((kernel - 1) // 2)),)
    dilated = Conv(channels, dilation=dilation * (kernel - 3) // 2)
    return Conv(channels, kernel=1), Residual((Conv(channels, dilation=dilation), dilated))


def count_parameters(network: nn.Cell) -> int:
    """Return the number of trainable parameters, counting every element."""
    return sum(parameter.size for parameter in network.trainable_params())


def multiply_adds(network: nn.Cell, height: int, width: int) -> int:
    """Return the number of multiply-add operations of the convolutions for one image of height × width px.

    The cells are visited in the order of their creation, and a stride applies to all cells after it. So strides must
    not occur in parallel branches; only backbones have strides.
    """
    grid_cells = height * width
    total = 0
    for _, cell in network.cells_and_names():
        if isinstance(cell, nn.Conv2d | nn.MaxPool2d):
            grid_cells //= prod(cell.stride) if isinstance(cell.stride, tuple) else cell.stride**2
        if isinstance(cell, nn.Conv2d):
            total += cell.weight.size * grid_cells
    return total
