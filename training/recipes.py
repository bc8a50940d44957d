"""Recipe files: find a shipped recipe by name, read a recipe from YAML, apply overrides, validate.

The shipped recipes are `configs/*.yaml` of the source tree, or the package data of an installed wheel. Importing this
module imports neither MindSpore nor the readers of the data pipeline.
"""

from __future__ import annotations

import difflib
import json
import re
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from pipeline.errors import InputError
from training.config import Config, EvaluationConfig

_PACKAGED = Path(__file__).resolve().parent / "configs"
_IN_SOURCE_TREE = Path(__file__).resolve().parent.parent / "configs"
RECIPE_FOLDER = _PACKAGED if _PACKAGED.is_dir() else _IN_SOURCE_TREE
"""Folder of the shipped recipes."""


def recipe_names() -> tuple[str, ...]:
    """Return the names of the shipped recipes, sorted."""
    return tuple(sorted(path.stem for path in RECIPE_FOLDER.glob("*.yaml")))


def recipe_path(name: str) -> Path:
    """Return the path of the shipped recipe `name`, such as demo.

    Raises:
        InputError: no recipe has this name; the message lists all names and the closest one.
    """
    if name not in recipe_names():
        close = difflib.get_close_matches(name, recipe_names(), n=1)
        hint = f"did you mean {close[0]}? There" if close else "there"
        raise InputError(f"{name}: no recipe of this name; {hint} are {', '.join(recipe_names())}")
    return RECIPE_FOLDER / f"{name}.yaml"


def find_recipe(path: Path) -> Path:
    """Return the recipe file that `--config` names: the path, or the shipped recipe of this name if no file exists."""
    is_name = str(path) in recipe_names() and not path.exists()
    return recipe_path(str(path)) if is_name else path


class _Loader(yaml.SafeLoader):
    """Safe loader that reads 2e-4 as a float; in YAML 1.1 a float needs a decimal point."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read a recipe and apply overrides.

    Args:
        path: YAML file.
        overrides: strings `section.field=value`, the value in YAML; a later one wins over an earlier one.

    Raises:
        InputError: the file cannot be read or is not YAML, or a field is unknown, of the wrong type or out of range.
    """
    tree = _read_tree(path)
    for override in overrides:
        _apply_override(tree, override)
    return parse_config(tree, source=str(path))


def _read_tree(path: Path) -> dict[str, Any]:
    """Return the sections of a recipe file, not yet validated; raise InputError if it cannot be read."""
    try:
        tree = _parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); expected a recipe such as configs/demo.yaml"
        ) from error
    except ValueError as error:
        raise InputError(f"{path}: not YAML: {' '.join(str(error).split())[:200]}") from error
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        raise InputError(f"{path}: expected sections ({', '.join(Config.model_fields)}), found {type(tree).__name__}")
    return tree


def override_config(config: Config, overrides: Sequence[str]) -> Config:
    """Return the recipe with overrides applied; arguments and errors as for `load_config`."""
    if not overrides:
        return config
    tree = config.model_dump(mode="json")
    for override in overrides:
        _apply_override(tree, override)
    return parse_config(tree, source="--set")


def override_evaluation(config: Config, overrides: Sequence[str]) -> EvaluationConfig:
    """Return the evaluation section of a trained network's recipe with overrides applied.

    Raises:
        InputError: as `load_config`, and for an override of another section.
    """
    for override in overrides:
        if not override.strip().startswith("evaluation."):
            raise InputError(
                f"--set {override}: only evaluation.… can be set for a trained network, as in evaluation.size=432"
            )
    return override_config(config, overrides).evaluation


def read_evaluation_overrides(path: Path) -> tuple[str, ...]:
    """Read a recipe file with fields of the section `evaluation`, such as evaluation.tune writes, as overrides.

    Raises:
        InputError: as `load_config`, and if the file has another section, which cannot change after training.
    """
    tree = _read_tree(path)
    for section in tree:
        if section != "evaluation":
            raise InputError(
                f"{path}: {section}: only the section evaluation can change for a trained network; remove the others"
            )
    parse_config(tree, source=str(path))  # the message then names the file
    return tuple(f"{name}={json.dumps(value)}" for name, value in _flatten(tree))


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted name and the value of every field in nested sections."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def parse_config(tree: Mapping[str, Any], source: str) -> Config:
    """Validate a tree of sections and fields.

    Raises:
        InputError: a field is invalid; the message names `source`, the field, the value and the allowed range.
    """
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        details = error.errors(include_url=False)
        more = f" (and {len(details) - 1} more)" if len(details) > 1 else ""
        raise InputError(f"{source}: {_format_error(details[0])}{more}") from error


def _parse_yaml(text: str) -> Any:
    """Return the content of a YAML document as plain data; raise ValueError if it is not valid YAML."""
    try:
        return yaml.load(text, _Loader)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


def _apply_override(tree: dict[str, Any], override: str) -> None:
    """Set a field of a nested dictionary in place; raise InputError if the override is malformed."""
    name, equals, text = override.partition("=")
    keys = name.strip().split(".")
    if not equals or not all(keys):
        raise InputError(f"--set {override}: expected SECTION.FIELD=VALUE, as in training.lr=2e-4")
    try:
        value = _parse_yaml(text)
    except ValueError as error:
        raise InputError(f"--set {override}: the value is not YAML") from error
    for key in keys[:-1]:
        section = tree.setdefault(key, {})
        if not isinstance(section, dict):
            raise InputError(f"--set {override}: {key} is a value, not a section")
        tree = section
    tree[keys[-1]] = value


def _format_error(error: ErrorDetails) -> str:
    """Return one line with the field, its value, what is wrong, and the closest name for an unknown field."""
    location = ".".join(str(key)[:40] for key in error["loc"]) or "recipe"
    if error["type"] == "extra_forbidden":
        key = str(error["loc"][-1])
        close = difflib.get_close_matches(key, list(_section_fields(error["loc"])), n=1)
        return f"{location}: unknown key" + (f"; did you mean {close[0]}?" if close else "")
    message = error["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if error["type"] == "value_error" and not error["loc"]:
        return message
    return f"{location}: {reprlib.repr(error['input'])}: {message}"


def _section_fields(location: tuple[int | str, ...]) -> Iterator[str]:
    """Yield the names of all fields in the section of the field at `location`."""
    model: Any = Config
    for key in location[:-1]:
        field = model.model_fields.get(key) if isinstance(key, str) else None
        model = field.annotation if field else None
        if model is None or not hasattr(model, "model_fields"):
            return
    yield from model.model_fields
