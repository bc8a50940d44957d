"""The shipped recipes by name: `configs/*.yaml` of the source tree, or the package data of an installed wheel."""

from __future__ import annotations

import difflib
from pathlib import Path

from pipeline.errors import InputError

_PACKAGED = Path(__file__).resolve().parent / "configs"
_IN_SOURCE_TREE = Path(__file__).resolve().parent.parent / "configs"
RECIPES = _PACKAGED if _PACKAGED.is_dir() else _IN_SOURCE_TREE
"""Folder of the shipped recipes."""


def recipe_names() -> tuple[str, ...]:
    """Names of the shipped recipes, sorted."""
    return tuple(sorted(path.stem for path in RECIPES.glob("*.yaml")))


def recipe_path(name: str) -> Path:
    """Path of the shipped recipe `name`, such as demo.

    Raises:
        InputError: no recipe has this name; the message lists all names and the closest one.
    """
    if name not in recipe_names():
        close = difflib.get_close_matches(name, recipe_names(), n=1)
        hint = f"did you mean {close[0]}? There" if close else "there"
        raise InputError(f"{name}: no recipe of this name; {hint} are {', '.join(recipe_names())}")
    return RECIPES / f"{name}.yaml"


def find_recipe(path: Path) -> Path:
    """The recipe file that `--config` names: a path, or the name of a shipped recipe where no such file exists."""
    is_name = str(path) in recipe_names() and not path.exists()
    return recipe_path(str(path)) if is_name else path
