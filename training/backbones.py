"""Backbones: from a picture to features on a grid of one cell in eight pixels.

Each is a list of layers, so that another one is another list. `vgg19` is the first ten layers of Simonyan and
Zisserman's network ("Very Deep Convolutional Networks", ICLR 2015), as in Cao et al., CVPR 2017.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import mindspore as ms
from mindspore import nn
from mindspore.common.initializer import HeNormal

from pipeline.maps import STRIDE


@dataclass(frozen=True)
class Conv:
    """A convolution with its activation; the padding keeps cells aligned, a stride of 2 halves the grid."""

    width: int
    kernel: int = 3
    stride: int = 1
    dilation: int = 1


@dataclass(frozen=True)
class Pool:
    """A 2×2 maximum with stride 2."""

    stride: int = 2


BACKBONES: dict[str, tuple[Conv | Pool, ...]] = {
    "vgg19": (
        *(Conv(64), Conv(64), Pool()),
        *(Conv(128), Conv(128), Pool()),
        *(Conv(256), Conv(256), Conv(256), Conv(256), Pool()),
        *(Conv(512), Conv(512)),
    ),
    "compact": (
        *(Conv(24), Pool(), Conv(48), Pool(), Conv(96), Pool()),
        *(Conv(96), Conv(96, dilation=2)),
    ),
}


class ConvBlock(nn.Cell):
    """Convolution, batch normalisation if asked for, ReLU.  (B, inputs, H, W) -> (B, width, H / stride, W / stride)."""

    def __init__(self, inputs: int, conv: Conv, batch_norm: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            inputs,
            conv.width,
            conv.kernel,
            stride=conv.stride,
            pad_mode="pad",
            padding=conv.dilation * (conv.kernel - 1) // 2,
            dilation=conv.dilation,
            has_bias=not batch_norm,
            weight_init=HeNormal(mode="fan_out", nonlinearity="relu"),
            bias_init="zeros",
        )
        self.norm = nn.BatchNorm2d(conv.width) if batch_norm else nn.Identity()
        self.relu = nn.ReLU()

    def construct(self, x: ms.Tensor) -> ms.Tensor:
        return self.relu(self.norm(self.conv(x)))


def build_backbone(name: str, batch_norm: bool) -> tuple[nn.SequentialCell, int]:
    """The named backbone and the number of channels that come out of it.

    Args:
        name: a key of BACKBONES.
        batch_norm: normalise after every convolution.

    Returns:
        A cell (B, 3, H, W) -> (B, width, H / 8, W / 8) and its width.
    """
    layers = BACKBONES[name]
    assert prod(layer.stride for layer in layers) == STRIDE, name
    cells: list[nn.Cell] = []
    width = 3
    for layer in layers:
        if isinstance(layer, Pool):
            cells.append(nn.MaxPool2d(kernel_size=2, stride=2))
        else:
            cells.append(ConvBlock(width, layer, batch_norm))
            width = layer.width
    return nn.SequentialCell(cells), width
