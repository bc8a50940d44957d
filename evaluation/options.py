"""Command-line options of all that finds people in pictures. Imports click alone, so that --help is quick."""

from __future__ import annotations

from collections.abc import Sequence

import click


def _parse_scales(_context: click.Context, _option: click.Parameter, value: str | None) -> tuple[float, ...] | None:
    try:
        return None if value is None else tuple(float(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(f"{value!r}: expected numbers with commas between, as in 0.5,1,1.5,2") from None


scales_option = click.option(
    "--scales",
    metavar="NUMBER,…",
    callback=_parse_scales,
    help="Average over these factors on the recipe's size: 0.5,1,1.5,2.",
)
"""`scales`: a tuple of floats, or None for the recipe's own."""

flip_option = click.option(
    "--flip/--no-flip",
    default=None,
    help="Average with the mirrored picture's answer, or not.  [default: the recipe's]",
)
"""`flip`: True, False, or None for the recipe's own."""


def recipe_overrides(overrides: Sequence[str], scales: Sequence[float] | None, flip: bool | None) -> tuple[str, ...]:
    """The `--set` overrides, and after them, so that they win, those that `--scales` and `--flip` stand for."""
    more = []
    if scales is not None:
        more.append(f"evaluation.scales=[{', '.join(str(scale) for scale in scales)}]")
    if flip is not None:
        more.append(f"evaluation.flip={str(flip).lower()}")
    return (*overrides, *more)
