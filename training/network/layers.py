"""Layers said as data, and the cells that are made of them.

A backbone, the features after it and every stage are lists of these; `build_layers` makes a cell of a list.
Shape letters: B batch, H W the grid that a layer sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import mindspore as ms
from mindspore import nn, ops
from mindspore.common.initializer import HeNormal


@dataclass(frozen=True)
class Conv:
    """A convolution with its activation; the padding keeps cells where they are, a stride of 2 every other of them."""

    width: int
    kernel: int = 3
    stride: int = 1
    dilation: int = 1


@dataclass(frozen=True)
class Depthwise:
    """A 3×3 convolution of each channel alone, with its activation."""

    stride: int = 1
    dilation: int = 1


@dataclass(frozen=True)
class Pool:
    """A 2×2 maximum with stride 2."""

    stride: int = 2


@dataclass(frozen=True)
class Residual:
    """Layers whose answer is added to what they saw (He et al., CVPR 2016); they keep its width."""

    layers: tuple[Layer, ...]
    stride: ClassVar[int] = 1


@dataclass(frozen=True)
class Dense:
    """Convolutions one after the other, whose answers are put side by side (after Huang et al., CVPR 2017)."""

    layers: tuple[Conv, ...]
    stride: ClassVar[int] = 1


Layer: TypeAlias = Conv | Depthwise | Pool | Residual | Dense
Layers: TypeAlias = Sequence[Layer]


def separable(width: int, stride: int = 1, dilation: int = 1) -> tuple[Depthwise, Conv]:
    """A 3×3 convolution in two: within channels, then across them (Howard et al., MobileNets, 2017)."""
    return Depthwise(stride, dilation), Conv(width, kernel=1)


class ConvBlock(nn.Cell):
    """Convolution, batch normalisation if asked for, ReLU.  (B, inputs, H, W) -> (B, width, H / stride, W / stride)."""

    def __init__(self, inputs: int, conv: Conv, batch_norm: bool, group: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            inputs,
            conv.width,
            conv.kernel,
            stride=conv.stride,
            pad_mode="pad",
            padding=conv.dilation * (conv.kernel - 1) // 2,
            dilation=conv.dilation,
            group=group,
            has_bias=not batch_norm,
            # MindSpore counts the outputs of all groups for fan_out, which would start a depthwise layer near 0
            weight_init=HeNormal(mode="fan_out" if group == 1 else "fan_in", nonlinearity="relu"),
            bias_init="zeros",
        )
        self.norm = nn.BatchNorm2d(conv.width) if batch_norm else nn.Identity()
        self.relu = nn.ReLU()

    def construct(self, x: ms.Tensor) -> ms.Tensor:
        return self.relu(self.norm(self.conv(x)))


class ResidualBlock(nn.Cell):
    """What `Residual` says.  (B, width, H, W) -> the same."""

    def __init__(self, layers: nn.SequentialCell) -> None:
        super().__init__()
        self.layers = layers

    def construct(self, x: ms.Tensor) -> ms.Tensor:
        return x + self.layers(x)


class DenseBlock(nn.Cell):
    """What `Dense` says.  (B, inputs, H, W) -> (B, sum of the layers' widths, H, W)."""

    def __init__(self, layers: nn.SequentialCell) -> None:
        super().__init__()
        self.layers = nn.CellList(list(layers))

    def construct(self, x: ms.Tensor) -> ms.Tensor:
        answers: tuple[ms.Tensor, ...] = ()
        for layer in self.layers:
            x = layer(x)
            answers += (x,)
        return ops.cat(answers, axis=1)


def build_layers(layers: Layers, inputs: int, batch_norm: bool) -> tuple[nn.SequentialCell, int]:
    """A cell of a list of layers.

    Args:
        layers: what it does, in order.
        inputs: channels that it sees.
        batch_norm: normalise after every convolution.

    Returns:
        A cell (B, inputs, H, W) -> (B, width, H / stride, W / stride), and width; stride is the product of the
        layers' strides.
    """
    cells = []
    for layer in layers:
        cell, inputs = _build_layer(layer, inputs, batch_norm)
        cells.append(cell)
    return nn.SequentialCell(cells), inputs


def _build_layer(layer: Layer, inputs: int, batch_norm: bool) -> tuple[nn.Cell, int]:
    match layer:
        case Conv():
            return ConvBlock(inputs, layer, batch_norm), layer.width
        case Depthwise():
            conv = Conv(inputs, stride=layer.stride, dilation=layer.dilation)
            return ConvBlock(inputs, conv, batch_norm, group=inputs), inputs
        case Pool():
            return nn.MaxPool2d(kernel_size=layer.stride, stride=layer.stride), inputs
        case Residual():
            cell, width = build_layers(layer.layers, inputs, batch_norm)
            assert width == inputs, "a sum of unequal widths"
            return ResidualBlock(cell), width
        case Dense():
            cell, _ = build_layers(layer.layers, inputs, batch_norm)
            return DenseBlock(cell), sum(conv.width for conv in layer.layers)
