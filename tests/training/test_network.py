"""The network: sizes as in the papers, output shapes, order of channels, parameter names in checkpoints."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from tests.support.coco_folder import ROOT
from training.config import ModelConfig
from training.recipes import load_config

SMALL = ModelConfig(
    backbone="compact", feature_widths=(16, 16), stages=3, first_width=16, stage_width=8, stage_depth=1, batch_norm=True
)
PAF_FIRST = SMALL.model_copy(
    update={"heatmap_stages": 2, "wide_kernels": "dense", "first_kernel": 7, "first_inner_width": 4, "last_width": 24}
)
LIGHT = SMALL.model_copy(
    update={
        "backbone": "mobilenet",
        "backbone_scale": 0.125,
        "feature_block": "separable",
        "branches": "shared",
        "wide_kernels": "residual",
    }
)


def recipe(name):
    return load_config(ROOT / "configs" / f"{name}.yaml").model


def shapes_of(network):
    return {parameter.name: tuple(parameter.shape) for parameter in network.get_parameters()}


@pytest.fixture(scope="module")
def reference():
    from training.network.openpose import OpenPose

    return OpenPose(ModelConfig())


def test_the_reference_has_the_number_of_parameters_of_the_paper(reference):
    from training.network.openpose import count_parameters

    assert count_parameters(reference) == 52_311_446
    assert count_parameters(reference.backbone) == 5_865_536  # VGG19 up to conv4_2
    assert len(reference.stages) == 6


def test_the_reference_has_the_layers_of_the_paper(reference):
    shapes = shapes_of(reference)
    convs = [shape for name, shape in shapes.items() if name.endswith("weight")]
    assert [shape[0] for shape in convs[:10]] == [64, 64, 128, 128, 256, 256, 256, 256, 512, 512]
    assert convs[10:12] == [(256, 512, 3, 3), (128, 256, 3, 3)]
    first = [shape for name, shape in shapes.items() if name.startswith("stages.0.pafs") and name.endswith("weight")]
    assert first == [(128, 128, 3, 3)] * 3 + [(512, 128, 1, 1), (38, 512, 1, 1)]
    last = [shape for name, shape in shapes.items() if name.startswith("stages.5.heatmaps") and name.endswith("weight")]
    assert last == [(128, 185, 7, 7)] + [(128, 128, 7, 7)] * 4 + [(128, 128, 1, 1), (19, 128, 1, 1)]
    assert not any("norm" in name for name in shapes)


def test_parameter_names_are_unique_and_start_with_the_part(reference):
    names = [parameter.name for parameter in reference.get_parameters()]
    assert len(set(names)) == len(names)
    assert {name.split(".")[0] for name in names} == {"backbone", "features", "stages"}


def blocks(*prefixes, batch_norm):
    """Return the parameter names of convolutions and their batch normalisation."""
    norm = ("norm.moving_mean", "norm.moving_variance", "norm.gamma", "norm.beta")
    parts = ("conv.weight", *norm) if batch_norm else ("conv.weight", "conv.bias")
    return [f"{prefix}.{part}" for prefix in prefixes for part in parts]


def stages(depths, batch_norm):
    for number, depth in enumerate(depths):
        for branch in ("pafs", "heatmaps"):
            prefix = f"stages.{number}.{branch}"
            yield from blocks(*(f"{prefix}.body.{i}" for i in range(depth)), batch_norm=batch_norm)
            yield from (f"{prefix}.head.weight", f"{prefix}.head.bias")


def test_parameter_names_of_old_checkpoints_still_match(reference):
    """The names in every checkpoint of these recipes, in the order in which weights are initialised."""
    from training.network.openpose import OpenPose

    backbone = [f"backbone.{i}" for i in (0, 1, 3, 4, 6, 7, 8, 9, 11, 12)]
    features = ["features.0", "features.1"]
    assert list(shapes_of(reference)) == [
        *blocks(*backbone, *features, batch_norm=False),
        *stages([4] + [6] * 5, batch_norm=False),
    ]
    backbone = [f"backbone.{i}" for i in (0, 2, 4, 6, 7)]
    assert list(shapes_of(OpenPose(recipe("demo")))) == [
        *blocks(*backbone, *features, batch_norm=True),
        *stages([2, 4], batch_norm=True),
    ]


def test_paf_first_has_the_layers_of_body_25():
    """Channels and depths are those of the OpenPose authors' body_25, with four PAF and two heatmap stages."""
    from training.network.openpose import OpenPose

    network = OpenPose(recipe("openpose_paf_first"))
    shapes = shapes_of(network)
    kinds = [name for name in shapes if name.endswith("head.weight")]
    assert kinds == [f"stages.{i}.{'pafs' if i < 4 else 'heatmaps'}.head.weight" for i in range(6)]
    inputs = [shapes[f"{name.removesuffix('head.weight')}body.0.layers.0.conv.weight"][1] for name in kinds]
    assert inputs == [128, 128 + 38, 128 + 38, 128 + 38, 128 + 38, 128 + 38 + 19]
    first = [shapes[f"stages.0.pafs.body.{i}.layers.{j}.conv.weight"] for i in range(5) for j in range(3)]
    assert first == [(96, 128, 3, 3), *[(96, 96, 3, 3)] * 2, *[(96, 288, 3, 3), *[(96, 96, 3, 3)] * 2] * 4]
    assert shapes["stages.0.pafs.body.5.conv.weight"] == (256, 288, 1, 1)
    assert shapes["stages.5.heatmaps.body.4.layers.0.conv.weight"] == (128, 384, 3, 3)
    assert shapes["stages.5.heatmaps.body.5.conv.weight"] == (512, 384, 1, 1)


def test_light_has_the_size_of_the_paper():
    """Osokin states 4.1 M parameters and 9 GFLOP, counting a multiplication and its addition as one."""
    from training.network.openpose import OpenPose, count_parameters, multiply_adds

    network = OpenPose(recipe("openpose_light"))
    assert round(count_parameters(network) / 1e6, 1) == 4.1
    assert round(multiply_adds(network, 368, 368) / 1e9) == 9
    shapes = shapes_of(network)
    assert shapes["backbone.1.conv.weight"] == (32, 1, 3, 3)
    assert shapes["stages.1.trunk.0.conv.weight"] == (128, 185, 1, 1)
    assert shapes["stages.1.heatmaps.body.0.conv.weight"] == (128, 128, 1, 1)


def test_multiply_adds_equal_a_count_by_hand():
    from training.network.layers import Conv, Dense, Depthwise, Pool, Residual, build_layers
    from training.network.openpose import multiply_adds

    first = 3 * 4 * 9 * (16 * 24)
    cell, _ = build_layers([Conv(4)], 3, True)
    assert multiply_adds(cell, 16, 24) == first
    cell, _ = build_layers([Conv(4), Pool(), Depthwise(stride=2), Conv(6, kernel=1)], 3, False)
    assert multiply_adds(cell, 16, 24) == first + 4 * 9 * (4 * 6) + 4 * 6 * (4 * 6)
    cell, _ = build_layers([Conv(4, stride=2), Residual((Conv(4, kernel=5),)), Dense((Conv(2), Conv(3)))], 3, False)
    later = 4 * 4 * 25 + 4 * 2 * 9 + 2 * 3 * 9
    assert multiply_adds(cell, 16, 24) == first // 4 + later * (8 * 12)


def test_the_reference_has_the_multiply_adds_of_the_paper(reference):
    from training.network.openpose import multiply_adds

    vgg = (3 * 64 + 64 * 64) * 368**2 + (64 * 128 + 128 * 128) * 184**2 + (128 * 256 + 3 * 256**2) * 92**2
    vgg += (256 * 512 + 512**2) * 46**2
    narrowing = 512 * 256 + 256 * 128
    first = 2 * (3 * 128**2 * 9 + 128 * 512) + 512 * 57
    later = 2 * (185 * 128 * 49 + 4 * 128**2 * 49 + 128**2) + 128 * 57
    assert multiply_adds(reference, 368, 368) == 9 * vgg + (9 * narrowing + first + 5 * later) * 46**2


@pytest.fixture(scope="module", params=[SMALL, PAF_FIRST, LIGHT], ids=["cvpr", "paf_first", "light"])
def stage_maps(request):
    """The numbers of stages and the maps of a small untrained network for two non-square images, black and noise."""
    import mindspore as ms

    from training.network.openpose import OpenPose

    ms.set_seed(0)
    network = OpenPose(request.param)
    network.set_train(False)
    images = np.stack([np.zeros((48, 80, 3)), np.random.default_rng(0).integers(0, 256, (48, 80, 3))]).astype(np.uint8)
    pafs, heatmaps = network(ms.Tensor(images))
    counts = (3, 2) if request.param is PAF_FIRST else (3, 3)
    assert (request.param.num_stages("pafs"), request.param.num_stages("heatmaps")) == counts
    return counts, [paf.asnumpy() for paf in pafs], [heatmap.asnumpy() for heatmap in heatmaps]


def test_every_stage_outputs_maps_of_the_grid_size(stage_maps):
    counts, pafs, heatmaps = stage_maps
    assert [paf.shape for paf in pafs] == [(2, 38, 6, 10)] * counts[0]
    assert [heatmap.shape for heatmap in heatmaps] == [(2, 19, 6, 10)] * counts[1]
    assert {maps.dtype.name for maps in (*pafs, *heatmaps)} == {"float32"}


def test_the_last_heatmap_is_the_background_and_starts_near_its_bias(stage_maps):
    _, pafs, heatmaps = stage_maps
    for heatmap in heatmaps:
        assert np.abs(heatmap[:, -1] - 0.9).max() < 0.3
        assert np.abs(heatmap[:, :-1]).max() < 0.3
    for paf in pafs:
        assert np.abs(paf).max() < 0.3


def test_the_maps_of_every_stage_depend_on_the_image(stage_maps):
    _, pafs, heatmaps = stage_maps
    for maps in (*pafs, *heatmaps):
        assert np.abs(maps[0, :-1] - maps[1, :-1]).max() > 1e-5


def test_stages_have_the_latest_maps_as_inputs():
    from training.network.openpose import plan_stages

    both = ("pafs", "heatmaps")
    assert [(plan.inputs, plan.outputs) for plan in plan_stages(SMALL)] == [((), both), (both, both), (both, both)]
    assert [(plan.inputs, plan.outputs) for plan in plan_stages(PAF_FIRST)] == [
        ((), ("pafs",)),
        (("pafs",), ("pafs",)),
        (("pafs",), ("pafs",)),
        (("pafs",), ("heatmaps",)),
        (both, ("heatmaps",)),
    ]


def test_a_heatmap_stage_depends_on_the_part_affinity_fields():
    import mindspore as ms

    from training.network.openpose import OpenPose

    ms.set_seed(0)
    network = OpenPose(PAF_FIRST).set_train(False)
    image = ms.Tensor(np.full((1, 16, 16, 3), 60, np.uint8))
    before = network(image)[1][0].asnumpy()
    network.stages[2].pafs.head.bias[0] = 5.0
    assert np.abs(network(image)[1][0].asnumpy() - before).max() > 1e-5


@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("form", ["whole", "dense", "residual"])
def test_all_forms_of_a_wide_convolution_have_the_same_receptive_field(form, kernel):
    import mindspore as ms

    from tests.training.test_layers import run
    from training.network.layers import build_layers
    from training.network.openpose import wide_convolution

    ms.set_seed(0)
    cell, _ = build_layers(wide_convolution(16, kernel, 1, form), 4, False)
    x = np.random.default_rng(0).normal(size=(1, 4, 15, 15)).astype(np.float32)
    changed = x.copy()
    changed[0, :, 7, 7] += 10
    reach = np.abs(run(cell, changed) - run(cell, x)).max(axis=(0, 1)) > 0
    rows = np.flatnonzero(reach.any(axis=1))
    assert (rows[0], rows[-1]) == (7 - kernel // 2, 7 + kernel // 2)


def test_every_backbone_of_the_recipe_schema_exists():
    from training.network.backbones import BACKBONES

    assert set(BACKBONES) == set(get_args(ModelConfig.model_fields["backbone"].annotation))


def test_channels_of_a_scaled_backbone_are_multiples_of_8():
    from training.network.openpose import OpenPose

    channels = {shape[0] for shape in shapes_of(OpenPose(LIGHT).backbone).values()}
    assert channels == {8, 16, 32, 64}


def test_the_network_normalises_its_input():
    """The same shift of image and mean gives the same maps."""
    import mindspore as ms

    from training.network.openpose import OpenPose

    outputs = []
    for mean, shift in ((100.0, 0), (120.0, 20)):
        ms.set_seed(1)
        network = OpenPose(SMALL.model_copy(update={"mean": (mean,) * 3, "stages": 1}))
        network.set_train(False)
        image = np.full((1, 16, 16, 3), 60 + shift, np.uint8)
        image[0, 4:9, 3:12] += 30
        outputs.append(network(ms.Tensor(image))[0][0].asnumpy())
    assert np.array_equal(*outputs)
