"""Command-line options shared by `evaluation.evaluate` and `evaluation.predict`. Only click is imported."""

from __future__ import annotations

from collections.abc import Sequence

import click


def _parse_scales(_context: click.Context, _option: click.Parameter, value: str | None) -> tuple[float, ...] | None:
    try:
        return None if value is None else tuple(float(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(f"{value!r}: expected numbers separated by commas, such as 0.5,1,1.5,2") from None


scales_option = click.option(
    "--scales",
    metavar="NUMBER,…",
    callback=_parse_scales,
    help="Average over these multiples of the recipe's image size, such as 0.5,1,1.5,2.  [default: the recipe's]",
)
"""Passes `scales` to the command: a tuple of floats, or None to keep the recipe's value."""

flip_option = click.option(
    "--flip/--no-flip",
    default=None,
    help="Average the maps of each image and of its mirror image, or not.  [default: the recipe's]",
)
"""Passes `flip` to the command: True, False, or None to keep the recipe's value."""


backend_option = click.option(
    "--backend",
    type=click.Choice(["auto", "mindspore", "onnx"]),
    default="auto",
    show_default=True,
    help="Library that runs a checkpoint; auto: onnxruntime on a CPU if it is installed, which is faster there, "
    "else MindSpore. The ONNX graph is kept in the folder onnx/ beside the checkpoint.",
)
"""Passes `backend` to the command: the name of `evaluation.inference.backends.load_backend`."""


def recipe_overrides(overrides: Sequence[str], scales: Sequence[float] | None, flip: bool | None) -> tuple[str, ...]:
    """Return the `--set` overrides, followed by those for `--scales` and `--flip`, which therefore take precedence."""
    added = []
    if scales is not None:
        added.append(f"evaluation.scales=[{', '.join(str(scale) for scale in scales)}]")
    if flip is not None:
        added.append(f"evaluation.flip={str(flip).lower()}")
    return (*overrides, *added)
