"""Names of the convolutions of this project's network in published weight files.

Sources: torchvision/models/vgg.py; MindSpore ModelZoo, official/cv/VGG/vgg19/src/vgg.py and
official/cv/OpenPose/src/openposenet.py; CMU's Caffe model with the names of Hzzone/pytorch-openpose (src/model.py),
whose files have the names with or without the `model1_2.` of its modules.

Keypoints and limbs need no mapping. In all these networks the heatmap channels are CMU's 18 keypoints and the
background. POSE_MAP_INDEX in CMU's poseParameters.cpp and `limbs_point` in ModelZoo's config.py give the channels of
the part affinity fields the order of `pipeline.skeleton.LIMBS`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass

GREY = (127.5, 127.5, 127.5)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Constants of torchvision and of ModelZoo's VGG19, for RGB values from 0 to 1."""

VGG_BLOCKS = (2, 2, 4, 2)
"""Number of convolutions between the pooling layers of VGG19, up to conv4_2: the backbone `vgg19`."""

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class LayerNames:
    """Names of one convolution in this project and in a published file.

    Attributes:
        target: name in `training.network.openpose.OpenPose`.
        source: name in the file.
        source_norm: name in the file of the batch normalisation that follows; None if there is none.
    """

    target: str
    source: str
    source_norm: str | None = None


@dataclass(frozen=True)
class PublishedNetwork:
    """A published network whose weights can be converted.

    Attributes:
        name: value of the option --kind.
        layers: function from the tensor names of a file to the names of the convolutions.
        identifying_tensor: name of a tensor that no other published network has, without wrapper prefixes.
        rgb_input: True if the network expects RGB images, False for BGR.
        mean: value subtracted from each BGR channel, 0 to 255.
        std: value by which each BGR channel is then divided, 0 to 255.
    """

    name: str
    layers: Callable[[Collection[str]], list[LayerNames]]
    identifying_tensor: str
    rgb_input: bool
    mean: Triple
    std: Triple


def _vgg_positions() -> Iterator[tuple[int, int]]:
    """Yield (block, position in the block), both from 1, for each convolution of VGG19. Pooling ends a block."""
    for block, convs in enumerate(VGG_BLOCKS, start=1):
        yield from ((block, position) for position in range(1, convs + 1))


def _backbone_name(conv: int, block: int) -> str:
    return f"backbone.{conv + block - 1}.conv"


def _vgg_layers(prefix: str, batch_norm: bool) -> list[LayerNames]:
    """Return the convolutions of VGG19 in a sequence numbered layer by layer.

    The sequence is convolution, batch normalisation if present, activation; each block ends with a pooling layer.
    """
    layers = []
    for i, (block, _) in enumerate(_vgg_positions()):
        index = (3 if batch_norm else 2) * i + block - 1
        norm = f"{prefix}.{index + 1}" if batch_norm else None
        layers.append(LayerNames(_backbone_name(i, block), f"{prefix}.{index}", norm))
    return layers


def _sequential_vgg(prefix: str) -> Callable[[Collection[str]], list[LayerNames]]:
    """Return the function for a VGG19 numbered layer by layer. If layer 1 has tensors, it is a batch normalisation."""
    return lambda names: _vgg_layers(prefix, batch_norm=any(name.startswith(f"{prefix}.1.") for name in names))


def _branches(stage: int, convs: int, template: str) -> Iterator[LayerNames]:
    """Yield the convolutions of both branches of a stage.

    Args:
        stage: number of the stage, from 1.
        convs: number of convolutions of each branch.
        template: source name, with placeholders for the numbers of convolution and branch, from 1.
    """
    for branch, number in (("pafs", 1), ("heatmaps", 2)):
        target = f"stages.{stage - 1}.{branch}"
        for i in range(convs - 1):
            yield LayerNames(f"{target}.body.{i}.conv", template.format(i + 1, number))
        yield LayerNames(f"{target}.head", template.format(convs, number))


def _stages(names: Collection[str], first: str, later: str) -> Iterator[LayerNames]:
    """Yield the convolutions of stage 1, and of each later stage whose first convolution is in the file.

    Args:
        names: tensor names of the file.
        first: template of the source names of stage 1, as in `_branches`.
        later: template of the source names of later stages; `#` stands for the number of the stage.
    """
    yield from _branches(1, 5, first)
    stage = 2
    while f"{later.format(1, 1).replace('#', str(stage))}.weight" in names:
        yield from _branches(stage, 7, later.replace("#", str(stage)))
        stage += 1


def _feature_layers(prefix: str) -> Iterable[LayerNames]:
    """Return conv4_3 and conv4_4, which reduce the channels of the backbone."""
    return (LayerNames(f"features.{i}.conv", f"{prefix}conv4_{i + 3}_CPM") for i in range(2))


def _cmu_layers(names: Collection[str]) -> list[LayerNames]:
    vgg = [
        LayerNames(_backbone_name(i, block), f"conv{block}_{position}")
        for i, (block, position) in enumerate(_vgg_positions())
    ]
    return [*vgg, *_feature_layers(""), *_stages(names, "conv5_{}_CPM_L{}", "Mconv{}_stage#_L{}")]


def _modelzoo_layers(names: Collection[str]) -> list[LayerNames]:
    vgg = _sequential_vgg("base.vgg_base.layers")(names)
    return [*vgg, *_feature_layers("base."), *_stages(names, "stage_1.conv{}_CPM_L{}", "stage_#.conv{}_L{}")]


def _to_bgr_255(rgb: Triple) -> Triple:
    red, green, blue = (value * 255 for value in rgb)
    return blue, green, red


_NETWORKS = (
    PublishedNetwork(
        name="torchvision-vgg19",
        layers=_sequential_vgg("features"),
        identifying_tensor="features.0.weight",
        rgb_input=True,
        mean=_to_bgr_255(IMAGENET_MEAN),
        std=_to_bgr_255(IMAGENET_STD),
    ),
    PublishedNetwork(
        name="modelzoo-vgg19",
        layers=_sequential_vgg("layers"),
        identifying_tensor="layers.0.weight",
        rgb_input=True,
        mean=_to_bgr_255(IMAGENET_MEAN),
        std=_to_bgr_255(IMAGENET_STD),
    ),
    PublishedNetwork(
        name="modelzoo-openpose",
        layers=_modelzoo_layers,
        identifying_tensor="base.conv4_3_CPM.weight",
        rgb_input=False,
        mean=GREY,
        std=(255.0, 255.0, 255.0),
    ),
    PublishedNetwork(
        name="cmu",
        layers=_cmu_layers,
        identifying_tensor="conv4_3_CPM.weight",
        rgb_input=False,
        mean=(128.0, 128.0, 128.0),
        std=(256.0, 256.0, 256.0),
    ),
)
PUBLISHED_NETWORKS = {network.name: network for network in _NETWORKS}
"""All networks that can be converted, by name."""

_WRAPPER_PREFIXES = re.compile(r"^(?:network\.|module\.|model\d+(?:_\d+)?\.)+")


def strip_wrapper_prefixes(name: str) -> str:
    """Remove the prefixes of wrapper modules: MindSpore's `network.`, PyTorch's `module.`, CMU's `model1_2.`."""
    return _WRAPPER_PREFIXES.sub("", name)


def recognise_network(names: Collection[str]) -> PublishedNetwork | None:
    """Return the published network with these tensor names (without wrapper prefixes); None if it is unknown."""
    return next((network for network in _NETWORKS if network.identifying_tensor in names), None)
