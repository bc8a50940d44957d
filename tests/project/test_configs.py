"""Recipes in configs/: they load, and their headers state command, cost and result."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.support.coco_folder import ROOT
from training.config import Config
from training.recipes import load_config, parse_config

RECIPES = sorted((ROOT / "configs").glob("*.yaml"))


def header(path: Path) -> str:
    lines = path.read_text(encoding="utf-8").splitlines()
    comment = [line for line in lines[: lines.index("model:")] if line.startswith("#")]
    return "\n".join(comment)


def test_documented_recipes_exist():
    assert {path.stem for path in RECIPES} >= {
        "demo",
        "openpose",
        "openpose_8p",
        "openpose_light",
        "openpose_paf_first",
    }


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_loads(path):
    config = load_config(path)
    stated = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert set(stated) <= set(Config.model_fields)
    assert config.data.size % 8 == 0


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_header_states_command_cost_and_result(path):
    text = header(path)
    for word in ("Command", "Cost", "Result"):
        assert any(line.lstrip("# ").startswith(word) for line in text.splitlines()), word
    assert "make " in text


def test_recipe_of_the_reference():
    one, eight = (load_config(ROOT / "configs" / f"{name}.yaml") for name in ("openpose", "openpose_8p"))
    for config in (one, eight):
        assert config.model == Config().model
        assert config.data.size == 368
        assert config.training.batch_size == 10
        assert config.training.backbone_lr_factor == config.training.feature_lr_factor == 0.25
    assert (one.training.optimizer, one.training.lr, one.training.epochs) == ("adam", 1e-4, 60)
    assert eight.training.epochs == 80
    assert one.training.freeze_backbone_steps == eight.training.freeze_backbone_steps == 2000


def test_part_affinity_fields_first_is_trained_as_the_reference():
    one, first = (load_config(ROOT / "configs" / f"{name}.yaml") for name in ("openpose", "openpose_paf_first"))
    assert (first.data, first.training, first.evaluation) == (one.data, one.training, one.evaluation)
    assert first.model.stage_outputs == (("pafs",),) * 4 + (("heatmaps",),) * 2


def test_recipes_in_old_checkpoints_keep_their_meaning():
    """A checkpoint contains only the fields that existed when it was saved."""
    before = (
        *("backbone", "feature_widths", "stages", "first_depth", "first_width", "stage_width", "stage_depth"),
        *("stage_kernel", "stage_dilation", "batch_norm", "mean", "std"),
    )
    for name in ("demo", "openpose"):
        model = load_config(ROOT / "configs" / f"{name}.yaml").model
        carried = {field: value for field, value in model.model_dump(mode="json").items() if field in before}
        assert parse_config({"model": carried}, source="checkpoint").model == model
