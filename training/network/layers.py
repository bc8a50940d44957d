"""Descriptions of layers, and the cells that are built from them.

The backbone, the feature layers and the stages are lists of descriptions; `build_layers` makes a cell from a list.
Shape letters: B batch, C channels, H W the grid at the input of a layer.
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
    """A convolution and its activation, padded so that the grid keeps its size; a stride of 2 halves it."""

    channels: int
    kernel: int = 3
    stride: int = 1
    dilation: int = 1


@dataclass(frozen=True)
class Depthwise:
    """A 3×3 depthwise convolution and its activation."""

    stride: int = 1
    dilation: int = 1


@dataclass(frozen=True)
class Pool:
    """2×2 max pooling with stride 2."""

    stride: int = 2


@dataclass(frozen=True)
class Residual:
    """Layers whose output is added to their input (He et al., CVPR 2016); they keep the number of channels."""

    layers: tuple[Layer, ...]
    stride: ClassVar[int] = 1


@dataclass(frozen=True)
class Dense:
    """Consecutive convolutions whose outputs are concatenated (after Huang et al., CVPR 2017)."""

    layers: tuple[Conv, ...]
    stride: ClassVar[int] = 1


Layer: TypeAlias = Conv | Depthwise | Pool | Residual | Dense
Layers: TypeAlias = Sequence[Layer]


def separable(channels: int, stride: int = 1, dilation: int = 1) -> tuple[Depthwise, Conv]:
    """Return a depthwise separable 3×3 convolution (Howard et al., MobileNets, 2017)."""
    return Depthwise(stride, dilation), Conv(channels, kernel=1)


class ConvBlock(nn.Cell):
    """Convolution, optional batch normalisation, ReLU: (B, C, H, W) -> (B, channels, H / stride, W / stride)."""

    def __init__(self, in_channels: int, conv: Conv, batch_norm: bool, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels,
            conv.channels,
            conv.kernel,
            stride=conv.stride,
            pad_mode="pad",
            padding=conv.dilation * (conv.kernel - 1) // 2,
            dilation=conv.dilation,
            group=groups,
            has_bias=not batch_norm,
            # MindSpore counts the outputs of all groups in fan_out, which would initialise a depthwise layer near 0
            weight_init=HeNormal(mode="fan_out" if groups == 1 else "fan_in", nonlinearity="relu"),
            bias_init="zeros",
        )
        self.norm = nn.BatchNorm2d(conv.channels) if batch_norm else nn.Identity()
        self.relu = nn.ReLU()

    def construct(self, x: ms.Tensor) -> ms.Tensor:
        return self.relu(self.norm(self.conv(x)))


class ResidualBlock(nn.Cell):
    """The cell of `Residual`: (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, layers: nn.SequentialCell) -> None:
        super().__init__()
        self.layers = layers

    def construct(self, x: ms.Tensor) -> ms.Tensor:
        return x + self.layers(x)


class DenseBlock(nn.Cell):
    """The cell of `Dense`: (B, C, H, W) -> (B, sum of the channels of the layers, H, W)."""

    def __init__(self, layers: nn.SequentialCell) -> None:
        super().__init__()
        self.layers = nn.CellList(list(layers))

    def construct(self, x: ms.Tensor) -> ms.Tensor:
        outputs: tuple[ms.Tensor, ...] = ()
        for layer in self.layers:
            x = layer(x)
            outputs += (x,)
        return ops.cat(outputs, axis=1)


def build_layers(layers: Layers, in_channels: int, batch_norm: bool) -> tuple[nn.SequentialCell, int]:
    """Build a cell from a list of layer descriptions.

    Args:
        layers: descriptions in the order of the forward pass.
        in_channels: number of channels of the input.
        batch_norm: add batch normalisation after every convolution.

    Returns:
        A cell (B, in_channels, H, W) -> (B, out_channels, H / stride, W / stride), where stride is the product of the
        strides of the layers; and out_channels.
    """
    cells = []
    channels = in_channels
    for layer in layers:
        cell, channels = _build_layer(layer, channels, batch_norm)
        cells.append(cell)
    return nn.SequentialCell(cells), channels


def _build_layer(layer: Layer, in_channels: int, batch_norm: bool) -> tuple[nn.Cell, int]:
    match layer:
        case Conv():
            return ConvBlock(in_channels, layer, batch_norm), layer.channels
        case Depthwise():
            conv = Conv(in_channels, stride=layer.stride, dilation=layer.dilation)
            return ConvBlock(in_channels, conv, batch_norm, groups=in_channels), in_channels
        case Pool():
            return nn.MaxPool2d(kernel_size=layer.stride, stride=layer.stride), in_channels
        case Residual():
            cell, out_channels = build_layers(layer.layers, in_channels, batch_norm)
            assert out_channels == in_channels, "a residual connection needs equal numbers of channels"
            return ResidualBlock(cell), out_channels
        case Dense():
            cell, _ = build_layers(layer.layers, in_channels, batch_norm)
            return DenseBlock(cell), sum(conv.channels for conv in layer.layers)
