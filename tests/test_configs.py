"""The shipped recipes: they load, and their headers say what they are for."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.coco_folder import ROOT
from training.config import Config, load_config

RECIPES = sorted((ROOT / "configs").glob("*.yaml"))


def header(path: Path) -> str:
    lines = path.read_text(encoding="utf-8").splitlines()
    comment = [line for line in lines[: lines.index("model:")] if line.startswith("#")]
    return "\n".join(comment)


def test_the_promised_recipes_are_there():
    assert {path.stem for path in RECIPES} >= {"demo", "openpose", "openpose_8p"}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_it_loads(path):
    config = load_config(path)
    stated = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert set(stated) <= set(Config.model_fields)
    assert config.data.size % 8 == 0


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_its_header_names_command_cost_and_result(path):
    text = header(path)
    for word in ("Command", "Cost", "Result"):
        assert any(line.lstrip("# ").startswith(word) for line in text.splitlines()), word
    assert "make " in text


def test_the_references_recipe():
    one, eight = (load_config(ROOT / "configs" / f"{name}.yaml") for name in ("openpose", "openpose_8p"))
    for config in (one, eight):
        assert config.model == Config().model
        assert config.data.size == 368
        assert config.training.batch_size == 10
        assert config.training.backbone_lr_factor == config.training.feature_lr_factor == 0.25
    assert (one.training.optimizer, one.training.lr, one.training.epochs) == ("adam", 1e-4, 60)
    assert eight.training.epochs == 80
    assert one.training.freeze_backbone_steps == eight.training.freeze_backbone_steps == 2000
