"""Command-line options of all that finds people in pictures. Imports click alone, so that --help is quick."""

from __future__ import annotations

from collections.abc import Sequence

import click


class _Scales(click.ParamType):
    """Numbers with commas between; their range is the recipe's concern."""

    name = "NUMBER,…"

    def convert(
        self, value: str | tuple[float, ...], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        if not isinstance(value, str):
            return value
        try:
            return tuple(float(part) for part in value.split(","))
        except ValueError:
            self.fail(f"{value!r}: expected numbers with commas between, as in 0.5,1,1.5,2", param, ctx)


scales_option = click.option(
    "--scales", type=_Scales(), help="Average over these factors on the recipe's size: 0.5,1,1.5,2."
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
