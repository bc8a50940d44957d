"""Command-line options shared by the commands of `evaluation`. Only click is imported before a command runs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

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


def settings_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options --config and --set to a command.

    The command receives both as one argument `overrides`, a tuple of strings `evaluation.field=value`; those of --set
    come last and therefore take precedence. Raises InputError if the file of --config is invalid.
    """

    @functools.wraps(command)
    def wrapper(*args: Any, config: Path | None, overrides: tuple[str, ...], **other_options: Any) -> Any:
        from training.recipes import read_evaluation_overrides

        from_file = read_evaluation_overrides(config) if config else ()
        return command(*args, overrides=(*from_file, *overrides), **other_options)

    set_help = (
        "Replace a field of the recipe, or of --config.  Examples: evaluation.size=432, evaluation.decoder.gap=0."
    )
    click.option("--set", "overrides", multiple=True, metavar="FIELD=VALUE", help=set_help)(wrapper)
    config_help = "YAML file whose section evaluation replaces fields of the recipe; evaluation.tune writes one."
    click.option("--config", type=click.Path(path_type=Path), help=config_help)(wrapper)
    return wrapper


def parse_names(_context: click.Context, _option: click.Parameter, value: str | None) -> tuple[str, ...]:
    """Return the names in a list separated by commas; none if the option is not given."""
    return tuple(name.strip() for name in value.split(",") if name.strip()) if value else ()


def recipe_overrides(overrides: Sequence[str], scales: Sequence[float] | None, flip: bool | None) -> tuple[str, ...]:
    """Return the `--set` overrides, followed by those for `--scales` and `--flip`, which therefore take precedence."""
    added = []
    if scales is not None:
        added.append(f"evaluation.scales=[{', '.join(str(scale) for scale in scales)}]")
    if flip is not None:
        added.append(f"evaluation.flip={str(flip).lower()}")
    return (*overrides, *added)


_GAIN = click.FloatRange(0, 10)
_PERTURBATION_OPTIONS = (
    click.option("--peak-gain", type=_GAIN, default=1.0, help="Factor on the heatmaps of the keypoints.  [default: 1]"),
    click.option("--field-gain", type=_GAIN, default=1.0, help="Factor on the part affinity fields.  [default: 1]"),
    click.option("--blur", type=click.FloatRange(0, 10), default=0.0, help="Standard deviation of the blur, in cells."),
    click.option(
        "--floor",
        type=click.FloatRange(0, 1),
        default=0.0,
        help="Value of the heatmaps where they would be 0; 1 stays 1.",
    ),
    click.option(
        "--noise",
        type=click.FloatRange(0, 10),
        default=0.0,
        help="Standard deviation of white noise, in units of the maps, where a peak is 1 high.",
    ),
    click.option(
        "--levels",
        type=click.IntRange(2, 65536),
        default=None,
        help="Quantise to this number of values in 0..1 (heatmaps) and -1..1 (fields); 256 for 8-bit integers.",
    ),
    click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Random seed of the noise."),
)


def perturbation_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that perturb maps, in the order in which they are applied.

    The command receives them as one argument `perturbation`, an `evaluation.saved_maps.perturbation.Perturbation`.
    """

    @functools.wraps(command)
    def wrapper(
        *args: Any,
        peak_gain: float,
        field_gain: float,
        blur: float,
        floor: float,
        noise: float,
        levels: int | None,
        seed: int,
        **other_options: Any,
    ) -> Any:
        from evaluation.saved_maps.perturbation import Perturbation

        perturbation = Perturbation(peak_gain, field_gain, blur, floor, noise, levels or 0, seed)
        return command(*args, perturbation=perturbation, **other_options)

    for option in reversed(_PERTURBATION_OPTIONS):
        option(wrapper)
    return wrapper
