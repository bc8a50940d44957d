"""Backbones: from a picture to features on a grid of one cell in eight pixels.

Each is a list of layers, so that another one is another list. `vgg19` is the first ten layers of Simonyan and
Zisserman's network ("Very Deep Convolutional Networks", ICLR 2015), as in Cao et al., CVPR 2017. `mobilenet` is that
of Howard et al. ("MobileNets", 2017) up to conv5_5, which stays at a cell in eight pixels by a dilation instead of a
stride, as in Osokin ("Real-time 2D Multi-Person Pose Estimation on CPU: Lightweight OpenPose", 2018).
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

from mindspore import nn

from pipeline.maps import STRIDE
from training.network.layers import Conv, Layers, Pool, build_layers, separable

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

WIDTH_STEP = 8
"""Channels; widths of a scaled backbone are multiples of it, as devices want them."""


def build_backbone(name: str, scale: float, batch_norm: bool) -> tuple[nn.SequentialCell, int]:
    """The named backbone and the number of channels that come out of it.

    Args:
        name: a key of BACKBONES.
        scale: factor on the width of each of its layers.
        batch_norm: normalise after every convolution.

    Returns:
        A cell (B, 3, H, W) -> (B, width, H / 8, W / 8) and its width.
    """
    layers = BACKBONES[name]
    assert prod(layer.stride for layer in layers) == STRIDE, name
    return build_layers(_scaled(layers, scale), 3, batch_norm)


def _scaled(layers: Layers, scale: float) -> Layers:
    return [
        replace(layer, width=max(1, round(layer.width * scale / WIDTH_STEP)) * WIDTH_STEP)
        if isinstance(layer, Conv)
        else layer
        for layer in layers
    ]
