"""What the convolutions of this program's network are called in the files of others. Names to names, nothing else.

Sources: torchvision/models/vgg.py; MindSpore ModelZoo, official/cv/VGG/vgg19/src/vgg.py and
official/cv/OpenPose/src/openposenet.py; CMU's Caffe model as Hzzone/pytorch-openpose names it (src/model.py), in whose
files the names stand with and without the `model1_2.` of its modules.

Keypoints and limbs need no map: the heatmaps' channels of all of them are CMU's 18 keypoints and the background, and
POSE_MAP_INDEX of CMU's poseParameters.cpp gives part affinity fields the order of `pipeline.skeleton.LIMBS`, as does
`limbs_point` of ModelZoo's config.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass

GREY = (127.5, 127.5, 127.5)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""RGB, of pictures within 0..1; the constants of torchvision and of ModelZoo's VGG19."""

VGG_BLOCKS = (2, 2, 4, 2)
"""Convolutions of VGG19 up to conv4_2, between its pools: those of the backbone `vgg19`."""

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class LayerNames:
    """A convolution here and there.

    Attributes:
        target: its name in `training.network.openpose.OpenPose`.
        source: its name in the file.
        source_norm: name in the file of the batch normalisation that may follow it; None where none can.
    """

    target: str
    source: str
    source_norm: str | None = None


@dataclass(frozen=True)
class PublishedNetwork:
    """A published network.

    Attributes:
        name: what the command line calls it.
        layers: its convolutions, of those a file may have given the names that the file does have.
        sign: a tensor that no other kind has.
        rgb: it takes pictures as RGB.
        mean: what it subtracts from BGR pictures, 0..255.
        std: what it divides by then.
    """

    name: str
    layers: Callable[[Collection[str]], list[LayerNames]]
    sign: str
    rgb: bool
    mean: Triple
    std: Triple


def _vgg_places() -> Iterator[tuple[int, int]]:
    """Block, and place in it, both counted from 1, of each convolution of VGG19; a pool ends a block."""
    for block, convs in enumerate(VGG_BLOCKS, start=1):
        yield from ((block, place) for place in range(1, convs + 1))


def _backbone(conv: int, block: int) -> str:
    return f"backbone.{conv + block - 1}.conv"


def _vgg(prefix: str, norms: bool) -> list[LayerNames]:
    """VGG19's convolutions where layers are counted: a convolution, its normalisation, its activation, a pool."""
    found = []
    for i, (block, _) in enumerate(_vgg_places()):
        index = (3 if norms else 2) * i + block - 1
        norm = f"{prefix}.{index + 1}" if norms else None
        found.append(LayerNames(_backbone(i, block), f"{prefix}.{index}", norm))
    return found


def _counted_vgg(prefix: str) -> Callable[[Collection[str]], list[LayerNames]]:
    """VGG19 of the names in a file: with batch normalisation, the second layer is one."""
    return lambda names: _vgg(prefix, norms=any(name.startswith(f"{prefix}.1.") for name in names))


def _branches(stage: int, convs: int, theirs: str) -> Iterator[LayerNames]:
    """Both branches of a stage counted from 1; `theirs` has a place for the convolution's number and the branch's."""
    for branch, number in (("pafs", 1), ("heatmaps", 2)):
        ours = f"stages.{stage - 1}.{branch}"
        for i in range(convs - 1):
            yield LayerNames(f"{ours}.body.{i}.conv", theirs.format(i + 1, number))
        yield LayerNames(f"{ours}.head", theirs.format(convs, number))


def _stages(names: Collection[str], first: str, later: str) -> Iterator[LayerNames]:
    """All stages of which the file has the first convolution, the first stage in any case."""
    yield from _branches(1, 5, first)
    stage = 2
    while f"{later.format(1, 1).replace('#', str(stage))}.weight" in names:
        yield from _branches(stage, 7, later.replace("#", str(stage)))
        stage += 1


def _narrowing(prefix: str) -> Iterable[LayerNames]:
    return (LayerNames(f"features.{i}.conv", f"{prefix}conv4_{i + 3}_CPM") for i in range(2))


def _cmu(names: Collection[str]) -> list[LayerNames]:
    vgg = [LayerNames(_backbone(i, block), f"conv{block}_{place}") for i, (block, place) in enumerate(_vgg_places())]
    return [*vgg, *_narrowing(""), *_stages(names, "conv5_{}_CPM_L{}", "Mconv{}_stage#_L{}")]


def _modelzoo(names: Collection[str]) -> list[LayerNames]:
    vgg = _counted_vgg("base.vgg_base.layers")(names)
    return [*vgg, *_narrowing("base."), *_stages(names, "stage_1.conv{}_CPM_L{}", "stage_#.conv{}_L{}")]


def _bgr(rgb: Triple) -> Triple:
    red, green, blue = (value * 255 for value in rgb)
    return blue, green, red


PUBLISHED_NETWORKS = {
    kind.name: kind
    for kind in (
        PublishedNetwork(
            *("torchvision-vgg19", _counted_vgg("features"), "features.0.weight"),
            *(True, _bgr(IMAGENET_MEAN), _bgr(IMAGENET_STD)),
        ),
        PublishedNetwork(
            *("modelzoo-vgg19", _counted_vgg("layers"), "layers.0.weight"),
            *(True, _bgr(IMAGENET_MEAN), _bgr(IMAGENET_STD)),
        ),
        PublishedNetwork("modelzoo-openpose", _modelzoo, "base.conv4_3_CPM.weight", False, GREY, (255.0, 255.0, 255.0)),
        PublishedNetwork("cmu", _cmu, "conv4_3_CPM.weight", False, (128.0, 128.0, 128.0), (256.0, 256.0, 256.0)),
    )
}
"""By name; the signs are those of bare names."""

_WRAPPERS = re.compile(r"^(?:network\.|module\.|model\d+(?:_\d+)?\.)+")


def strip_wrapper_prefixes(name: str) -> str:
    """The name without what wrappers put before it: `network.` of MindSpore, `module.` of PyTorch, `model1_2.`."""
    return _WRAPPERS.sub("", name)


def recognise_network(names: Collection[str]) -> PublishedNetwork | None:
    """The kind of a file with these bare names; None if it is no known one."""
    return next((kind for kind in PUBLISHED_NETWORKS.values() if kind.sign in names), None)
