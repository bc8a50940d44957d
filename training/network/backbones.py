"""Backbones: from an image to features on a grid with one cell per 8 × 8 pixels.

Each backbone is a list of layer descriptions; to add a backbone, add a list to BACKBONES.

Sources: `vgg19` is the first ten layers of Simonyan and Zisserman, "Very Deep Convolutional Networks", ICLR 2015, as in
Cao et al., CVPR 2017. `mobilenet` is Howard et al., "MobileNets", 2017, up to conv5_5, with a dilation in place of the
last stride, as in Osokin, "Real-time 2D Multi-Person Pose Estimation on CPU: Lightweight OpenPose", 2018.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

from mindspore import nn

from pipeline.maps import STRIDE
from training.network.layers import Conv, Layer, Layers, Pool, build_layers, separable

BACKBONES: dict[str, Layers] = {
    "vgg19": (
        *(Conv(64), Conv(64), Pool()),
        *(Conv(128), Conv(128), Pool()),
        *(Conv(256), Conv(256), Conv(256), Conv(256), Pool()),
        *(Conv(512), Conv(512)),
    ),
    "mobilenet": (
        *(Conv(32, stride=2), *separable(64)),
        *(*separable(128, stride=2), *separable(128)),
        *(*separable(256, stride=2), *separable(256)),
        *(*separable(512), *separable(512, dilation=2), *separable(512) * 4),
    ),
    "compact": (
        *(Conv(24), Pool(), Conv(48), Pool(), Conv(96), Pool()),
        *(Conv(96), Conv(96, dilation=2)),
    ),
}

CHANNEL_MULTIPLE = 8
"""The channels of a scaled backbone are multiples of this number, which devices compute efficiently."""


def build_backbone(name: str, scale: float, batch_norm: bool) -> tuple[nn.SequentialCell, int]:
    """Build a backbone.

    Args:
        name: a key of BACKBONES.
        scale: factor on the channels of each layer.
        batch_norm: add batch normalisation after every convolution.

    Returns:
        A cell (B, 3, H, W) -> (B, channels, H / 8, W / 8), and channels.
    """
    layers = BACKBONES[name]
    assert prod(layer.stride for layer in layers) == STRIDE, name
    return build_layers([_scale_channels(layer, scale) for layer in layers], 3, batch_norm)


def _scale_channels(layer: Layer, scale: float) -> Layer:
    """Scale the channels of a convolution and round them to a multiple of CHANNEL_MULTIPLE, at least one."""
    if not isinstance(layer, Conv):
        return layer
    multiples = max(1, round(layer.channels * scale / CHANNEL_MULTIPLE))
    return replace(layer, channels=multiples * CHANNEL_MULTIPLE)
