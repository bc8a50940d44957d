"""The network: the paper's size, the grid's shapes, the channels' order."""

from __future__ import annotations

import numpy as np
import pytest

from training.config import ModelConfig

SMALL = ModelConfig(
    backbone="compact", feature_widths=(16, 16), stages=3, first_width=16, stage_width=8, stage_depth=1, batch_norm=True
)


@pytest.fixture(scope="module")
def reference():
    from training.network import OpenPose

    return OpenPose(ModelConfig())


def test_the_reference_has_the_papers_size(reference):
    from training.network import count_parameters

    assert count_parameters(reference) == 52_311_446
    assert count_parameters(reference.backbone) == 5_865_536  # VGG19 up to conv4_2
    assert len(reference.stages) == 6


def test_the_references_layers_are_the_papers(reference):
    shapes = {parameter.name: tuple(parameter.shape) for parameter in reference.get_parameters()}
    convs = [shape for name, shape in shapes.items() if name.endswith("weight")]
    assert [shape[0] for shape in convs[:10]] == [64, 64, 128, 128, 256, 256, 256, 256, 512, 512]
    assert convs[10:12] == [(256, 512, 3, 3), (128, 256, 3, 3)]
    first = [shape for name, shape in shapes.items() if name.startswith("stages.0.pafs") and name.endswith("weight")]
    assert first == [(128, 128, 3, 3)] * 3 + [(512, 128, 1, 1), (38, 512, 1, 1)]
    last = [shape for name, shape in shapes.items() if name.startswith("stages.5.heatmaps") and name.endswith("weight")]
    assert last == [(128, 185, 7, 7)] + [(128, 128, 7, 7)] * 4 + [(128, 128, 1, 1), (19, 128, 1, 1)]
    assert not any("norm" in name for name in shapes)


def test_names_are_unique_and_begin_with_the_part(reference):
    names = [parameter.name for parameter in reference.get_parameters()]
    assert len(set(names)) == len(names)
    assert {name.split(".")[0] for name in names} == {"backbone", "features", "stages"}


@pytest.fixture(scope="module")
def answer():
    """What a small network says before it has learnt anything to two non-square pictures, one black, one noise."""
    import mindspore as ms

    from training.network import OpenPose

    ms.set_seed(0)
    network = OpenPose(SMALL)
    network.set_train(False)
    images = np.stack([np.zeros((48, 80, 3)), np.random.default_rng(0).integers(0, 256, (48, 80, 3))]).astype(np.uint8)
    pafs, heatmaps = network(ms.Tensor(images))
    return [paf.asnumpy() for paf in pafs], [heatmap.asnumpy() for heatmap in heatmaps]


def test_every_stage_answers_on_the_grid(answer):
    pafs, heatmaps = answer
    assert [paf.shape for paf in pafs] == [(2, 38, 6, 10)] * 3
    assert [heatmap.shape for heatmap in heatmaps] == [(2, 19, 6, 10)] * 3
    assert {maps.dtype.name for maps in (*pafs, *heatmaps)} == {"float32"}


def test_the_last_heatmap_is_the_background_and_starts_as_such(answer):
    pafs, heatmaps = answer
    for paf, heatmap in zip(pafs, heatmaps, strict=True):
        assert np.abs(heatmap[:, -1] - 0.9).max() < 0.3
        assert np.abs(heatmap[:, :-1]).max() < 0.3
        assert np.abs(paf).max() < 0.3


def test_stages_look_at_the_picture(answer):
    pafs, _ = answer
    for paf in pafs:
        assert np.abs(paf[0] - paf[1]).max() > 1e-5


def test_normalisation_belongs_to_the_network():
    """Pictures and statistics shifted together give the same answer."""
    import mindspore as ms

    from training.network import OpenPose

    answers = []
    for mean, shift in ((100.0, 0), (120.0, 20)):
        ms.set_seed(1)
        network = OpenPose(SMALL.model_copy(update={"mean": (mean,) * 3, "stages": 1}))
        network.set_train(False)
        image = np.full((1, 16, 16, 3), 60 + shift, np.uint8)
        image[0, 4:9, 3:12] += 30
        answers.append(network(ms.Tensor(image))[0][0].asnumpy())
    assert np.array_equal(*answers)
