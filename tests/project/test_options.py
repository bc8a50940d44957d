"""Command-line options that are short forms of --set."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from evaluation.options import flip_option, recipe_overrides, scales_option
from training.config import Config
from training.recipes import override_evaluation


@click.command()
@scales_option
@flip_option
def show(scales, flip):
    click.echo(" ".join(recipe_overrides(("evaluation.size=96",), scales, flip)))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), {}),
        (("--scales", "0.5,1, 2e0"), {"scales": (0.5, 1.0, 2.0)}),
        (("--scales", "1", "--flip"), {"scales": (1.0,), "flip": True}),
        (("--no-flip",), {"flip": False}),
    ],
)
def test_they_are_equivalent_to_set(arguments, expected):
    result = CliRunner().invoke(show, list(arguments))
    assert result.exit_code == 0, result.output
    first, *more = result.output.strip().split(" evaluation.")
    evaluation = override_evaluation(Config(), [first, *(f"evaluation.{one}" for one in more)])
    assert evaluation.size == 96
    assert {name: getattr(evaluation, name) for name in expected} == expected
    assert len(more) == len(expected)


def test_the_short_option_overrides_set():
    overrides = recipe_overrides(("evaluation.flip=true", "evaluation.scales=[2]"), (0.5, 1.0), False)
    evaluation = override_evaluation(Config(), overrides)
    assert (evaluation.flip, evaluation.scales) == (False, (0.5, 1.0))


@pytest.mark.parametrize("value", ["", "1,", "1;2", "x"])
def test_an_invalid_list_of_numbers_is_rejected(value):
    result = CliRunner().invoke(show, ["--scales", value])
    assert result.exit_code == 2
    assert "expected numbers separated by commas, such as 0.5,1,1.5,2" in result.output
