"""Published networks with their authors' tensor names and random weights, and CMU's forward pass in NumPy."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from training.weights.published_names import VGG_BLOCKS

WIDTHS = (64, 128, 256, 512)
"""Channels of VGG19's blocks."""


def cmu_layers(stages):
    """Yield (module, name, shape) of each convolution of CMU's network, named as in Hzzone/pytorch-openpose."""
    width = 3
    for block, (outputs, convs) in enumerate(zip(WIDTHS, VGG_BLOCKS, strict=True), start=1):
        for i in range(1, convs + 1):
            yield "model0", f"conv{block}_{i}", (outputs, width, 3, 3)
            width = outputs
    yield "model0", "conv4_3_CPM", (256, 512, 3, 3)
    yield "model0", "conv4_4_CPM", (128, 256, 3, 3)
    for branch, outputs in ((1, 38), (2, 19)):
        for i, shape in enumerate([(128, 128, 3, 3)] * 3 + [(512, 128, 1, 1), (outputs, 512, 1, 1)], start=1):
            yield f"model1_{branch}", f"conv5_{i}_CPM_L{branch}", shape
        for stage in range(2, stages + 1):
            shapes = [(128, 185, 7, 7), *[(128, 128, 7, 7)] * 4, (128, 128, 1, 1), (outputs, 128, 1, 1)]
            for i, shape in enumerate(shapes, start=1):
                yield f"model{stage}_{branch}", f"Mconv{i}_stage{stage}_L{branch}", shape


def random_weights(named, seed=0):
    rng = np.random.default_rng(seed)
    found = {}
    for name, shape in named:
        found[f"{name}.weight"] = (rng.standard_normal(shape, np.float32) * np.sqrt(2 / np.prod(shape[1:]))).astype(
            "f4"
        )
        found[f"{name}.bias"] = rng.normal(0, 0.05, shape[0]).astype("f4")
    return found


def vgg_layers(prefix, norms=False, more=0):
    """Yield (name, shape) of torchvision's VGG19 convolutions, plus `more` later ones that OpenPose does not use."""
    place, width = 0, 3
    for outputs, convs in zip((*WIDTHS, 512), (*VGG_BLOCKS[:3], VGG_BLOCKS[3] + more, 0), strict=True):
        for _ in range(convs):
            yield f"{prefix}.{place}", (outputs, width, 3, 3)
            width = outputs
            place += 3 if norms else 2
        place += 1


def convolve(x, weight, bias):
    """Convolution with stride 1 and padding "same": (C, H, W) -> (outputs, H, W)."""
    pad = weight.shape[-1] // 2
    windows = sliding_window_view(np.pad(x, ((0, 0), (pad, pad), (pad, pad))), weight.shape[2:], axis=(1, 2))
    return np.einsum("chwij,ocij->ohw", windows, weight, optimize=True) + bias[:, None, None]


def relu(x):
    return np.maximum(x, 0)


def max_pool(x):
    channels, height, width = x.shape
    return x.reshape(channels, height // 2, 2, width // 2, 2).max((2, 4))


def cmu_forward(weights, image, stages):
    """Return the last part affinity fields and heatmaps of CMU's network for an image (H, W, 3) BGR."""

    def layer(x, name):
        return convolve(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def branch(x, names):
        for name in names[:-1]:
            x = relu(layer(x, name))
        return layer(x, names[-1])

    x = image.transpose(2, 0, 1).astype("f4") / 256 - np.float32(0.5)
    for block, convs in enumerate(VGG_BLOCKS, start=1):
        for i in range(1, convs + 1):
            x = relu(layer(x, f"conv{block}_{i}"))
        x = max_pool(x) if block < len(VGG_BLOCKS) else x
    features = x = relu(layer(relu(layer(x, "conv4_3_CPM")), "conv4_4_CPM"))
    for stage in range(1, stages + 1):
        forms = ["conv5_{}_CPM_L{}"] * 5 if stage == 1 else [f"Mconv{{}}_stage{stage}_L{{}}"] * 7
        maps = [branch(x, [form.format(i, n) for i, form in enumerate(forms, start=1)]) for n in (1, 2)]
        x = np.concatenate([*maps, features])
    return maps
