"""Recipes: reading, overrides, and one-line error messages."""

from __future__ import annotations

import pytest
from pydantic import BaseModel

from pipeline.errors import InputError
from training.config import Config
from training.recipes import load_config, override_config, parse_config


@pytest.fixture
def recipe(tmp_path):
    def write(text):
        path = tmp_path / "recipe.yaml"
        path.write_text(text)
        return path

    return write


def sections(model, path=""):
    """Yield the dotted name and the field of every field in every section."""
    for name, field in model.model_fields.items():
        yield f"{path}{name}", field
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from sections(field.annotation, f"{path}{name}.")


def test_every_field_is_documented():
    fields = dict(sections(Config))
    assert "training.lr" in fields
    assert "data.augment.flip" in fields
    assert "evaluation.decoder.smooth" in fields
    assert [name for name, field in fields.items() if not field.description or len(field.description) < 5] == []


def test_documented_field_names_exist():
    documented = {
        "training": {"seed", "batch_size", "lr", "epochs", "max_steps", "log_every", "checkpoint_every"},
        "data": {"size", "max_people", "threads"},
        "model": {"backbone", "stages"},
    }
    for section, names in documented.items():
        assert names <= Config.model_fields[section].annotation.model_fields.keys()


def test_an_empty_recipe_has_the_reference_defaults(recipe):
    config = load_config(recipe(""))
    assert config == Config()
    assert (config.model.backbone, config.model.stages, config.training.batch_size) == ("vgg19", 6, 10)


def test_sections_are_read_and_exponents_without_point_are_floats(recipe):
    path = recipe("training: {lr: 2e-4, lr_steps: [100, 200]}\nmodel: {feature_widths: [64, 32], mean: [0, 0, 0]}")
    config = load_config(path)
    assert config.training.lr == 2e-4
    assert config.training.lr_steps == (100, 200)
    assert config.model.feature_widths == (64, 32)


def test_overrides_win_and_the_last_one_wins(recipe):
    path = recipe("training: {lr: 1.0, seed: 3}")
    overrides = [
        "training.lr=2e-4",
        "training.lr=3E-4",
        "data.augment.flip=0",
        "data.threads=null",
        "model.mean=[1,2,3]",
    ]
    config = load_config(path, overrides)
    assert (config.training.lr, config.training.seed) == (3e-4, 3)
    assert config.data.augment.flip == 0
    assert config.model.mean == (1, 2, 3)
    assert override_config(config, ["training.seed=4"]).training.seed == 4
    assert override_config(config, []) is config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trainig: {lr: 1}", "trainig: unknown key; did you mean training?"),
        ("training: {learning: 1}", "training.learning: unknown key"),
        ("training: {batchsize: 1}", "training.batchsize: unknown key; did you mean batch_size?"),
        ("data: {augment: {rotatoin: 1}}", "data.augment.rotatoin: unknown key; did you mean rotation?"),
        ("evaluation: {decoder: {smoth: 1}}", "evaluation.decoder.smoth: unknown key; did you mean smooth?"),
        ("training: {lr: fast}", "training.lr: 'fast': input should be a valid number"),
        ("training: {lr: 0}", "training.lr: 0: input should be greater than 0"),
        ("training: {lr: .nan}", "training.lr: nan: input should be a finite number"),
        ("training: {epochs: 1.5}", "training.epochs: 1.5: input should be a valid integer"),
        ("data: {size: 100}", "data.size: 100: input should be a multiple of 8"),
        ("model: {stages: 13}", "model.stages: 13: input should be less than or equal to 12"),
        ("model: {backbone: resnet}", "model.backbone: 'resnet': input should be 'vgg19', 'mobilenet' or 'compact'"),
        ("model: {std: [1, 0, 1]}", "model.std: [1, 0, 1]: expected numbers above 0"),
        ("training: {lr_steps: [20, 10]}", "training.lr_steps: [20, 10]: expected rising steps above 0"),
        ("training: {schedule: cosine, lr_steps: [5]}", "training.lr_steps: belongs to schedule steps"),
        ("training: {lr: 0, epochs: 0}", "(and 1 more)"),
        ("training: 5", "training: 5: input should be a valid dictionary"),
        ("- 1", "expected sections (model, data, training, evaluation), found list"),
        ("a: [", "not YAML"),
    ],
)
def test_an_invalid_recipe_gives_a_one_line_message(recipe, text, message):
    path = recipe(text)
    with pytest.raises(InputError) as caught:
        load_config(path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.lr", "expected SECTION.FIELD=VALUE"),
        ("training..lr=1", "expected SECTION.FIELD=VALUE"),
        ("training.lr=[", "the value is not YAML"),
        ("training.lr.x=1", "lr is a value, not a section"),
        ("training.l=1", "training.l: unknown key; did you mean lr?"),
        ("lr=1", "lr: unknown key"),
    ],
)
def test_invalid_overrides(recipe, override, message):
    with pytest.raises(InputError, match=r".") as caught:
        load_config(recipe("training: {lr: 1}"), [override])
    assert message in str(caught.value)


def test_a_recipe_that_cannot_be_read(tmp_path):
    for path in (tmp_path / "absent.yaml", tmp_path):
        with pytest.raises(InputError, match="expected a recipe such as"):
            load_config(path)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not YAML"):
        load_config(tmp_path / "binary.yaml")


def test_a_dumped_recipe_parses_to_the_same_recipe():
    config = override_config(Config(), ["training.lr_steps=[1, 2]", "training.clip_norm=2", "data.threads=3"])
    assert parse_config(config.model_dump(mode="json"), source="itself") == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 5000, "not YAML: nested too deeply"),
        ("model: 2001-99-99", "not YAML: month must be in 1..12"),
        ("model: !!python/object/apply:os.system [true]", "not YAML: could not determine a constructor"),
        ("model:\n  stages: " + "x" * 100_000, r"model\.stages: 'xxx.*\.\.\..*': input should be a valid integer"),
        ("model:\n  ? " + "k" * 900 + "\n  : 1", r"model\.k{40}: unknown key"),
        ("a: &a [*a]\nmodel: *a", r"model: \[+\.\.\.\]+: input should be a valid dictionary"),
    ],
)
def test_malicious_recipes_give_one_short_line(tmp_path, text, message):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        load_config(path)
    assert len(str(caught.value)) < 500
    assert "\n" not in str(caught.value)
