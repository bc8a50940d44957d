"""Shipped networks by name, and the table of their size and speed."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from pipeline.errors import InputError
from tests.support import tiny
from training import models
from training import recipes as recipes_module
from training.recipes import load_config, parse_config

RANDOM = {**tiny.RECIPE, "model": tiny.RECIPE["model"] | {"mean": [1, 2, 3]}}


@pytest.fixture
def recipes(tmp_path, monkeypatch):
    """Replace the shipped recipes by three small ones, of which two have the same network."""
    folder = tmp_path / "configs"
    folder.mkdir()
    wide = {"model": tiny.RECIPE["model"] | {"stage_width": 16}}
    for name, recipe in (("tiny", tiny.RECIPE), ("tiny_8p", {"model": tiny.RECIPE["model"]}), ("wide", wide)):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(recipe))
    monkeypatch.setattr(recipes_module, "RECIPE_FOLDER", folder)
    return folder


def save(recipe, run, seed):
    """Write a run folder with random weights and return the network that has them."""
    import mindspore as ms

    from training.checkpoint.checkpoint import TrainingPosition, save_checkpoint
    from training.network.openpose import OpenPose

    ms.set_seed(seed)
    config = parse_config(recipe, source="test")
    network = OpenPose(config.model).set_train(False)
    save_checkpoint(run, network.get_parameters(), config, TrainingPosition(9, 1, "", 1), keep=1)
    return network


def compute_maps(network):
    import mindspore as ms

    image = np.random.default_rng(0).integers(0, 256, (1, 32, 48, 3), np.uint8)
    return [maps.asnumpy() for kind in network(ms.Tensor(image)) for maps in kind]


def test_recipe_names_include_every_shipped_recipe():
    assert {"demo", "openpose", "openpose_8p", "openpose_light", "openpose_paf_first"} <= set(
        recipes_module.recipe_names()
    )


def test_create_network_by_name():
    from training.network.openpose import OpenPose, count_parameters

    network = models.create_network("demo")
    assert isinstance(network, OpenPose)
    assert not network.training
    expected = OpenPose(load_config(recipes_module.recipe_path("demo")).model)
    assert count_parameters(network) == count_parameters(expected)


@pytest.mark.parametrize("kind", ["run", "file", "str"])
def test_create_network_with_weights_and_normalisation_of_a_checkpoint(recipes, tmp_path, kind):
    expected = compute_maps(save(RANDOM, tmp_path / "run", seed=7))
    path = tmp_path / "run" if kind == "run" else tmp_path / "run" / "checkpoints" / "step-0000009.ckpt"
    network = models.create_network("tiny", checkpoint=str(path) if kind == "str" else path)
    assert all(np.array_equal(a, b) for a, b in zip(compute_maps(network), expected, strict=True))
    assert network.mean.asnumpy().tolist() == [1, 2, 3]
    assert not all(
        np.array_equal(a, b) for a, b in zip(compute_maps(models.create_network("tiny")), expected, strict=True)
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tinny", "tinny: no recipe of this name; did you mean tiny? There are tiny, tiny_8p, wide"),
        ("../configs/tiny", "no recipe of this name"),
        ("", ": no recipe of this name; there are tiny, tiny_8p, wide"),
    ],
)
def test_unknown_recipe_names(recipes, name, message):
    with pytest.raises(InputError, match=r".") as caught:
        models.create_network(name)
    assert message in str(caught.value)


def test_checkpoints_of_another_network(recipes, tmp_path):
    save(RANDOM, tmp_path / "run", seed=7)
    with pytest.raises(InputError, match=r"0009.ckpt: model.stage_width is 8, but recipe wide has 16"):
        models.create_network("wide", checkpoint=tmp_path / "run")
    with pytest.raises(InputError, match="no checkpoint in this folder"):
        models.create_network("tiny", checkpoint=tmp_path / "absent")


def command(*arguments):
    result = CliRunner().invoke(models.main, ["--device", "cpu", *arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def test_the_table_has_one_line_per_network(recipes):
    lines = command().splitlines()
    assert lines[:2] == ["| recipe | parameters | GFLOP at 368 px |", "| --- | --- | --- |"]
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| `wide`", "| `tiny`, `tiny_8p`"]


def test_the_table_as_json_with_speed(recipes):
    from training.network.openpose import count_parameters, multiply_adds

    wide, small = json.loads(command("--json", "--measure", "--rounds", "1"))
    network = models.create_network("tiny")
    assert small["recipes"] == ["tiny", "tiny_8p"]
    assert small["parameters"] == count_parameters(network) / 1e6
    assert small["gflop"] == 2 * multiply_adds(network, 368, 368) / 1e9
    assert wide["parameters"] > small["parameters"]
    assert small["images_per_s"] > 0.1
    assert "images/s" in models.format_table([models.ModelSummary(**wide)])
