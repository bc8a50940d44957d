"""A part of `make faults` for every day: input that is wrong ends in success or in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import InputError
from tests.faults import checkpoints, inputs
from tests.faults.report import Findings
from tests.faults.input_tester import Trial

SUITES = [
    inputs.annotations,
    inputs.pictures,
    inputs.recipes,
    inputs.manifests,
    inputs.results,
    checkpoints.checkpoints,
    checkpoints.weights,
    checkpoints.descriptions,
]


@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: suite.__name__)
def test_wrong_input_is_refused_in_one_line(suite: Callable[[int, int, Path], Findings], tmp_path: Path) -> None:
    findings = suite(1, 40, tmp_path)
    assert findings.failures == []
    assert findings.cases in (40, 120)
    assert not findings.figures[0].startswith("0 accepted")


def _raise(error: Exception) -> None:
    raise error


def test_a_trial_tells_success_from_one_line_and_from_everything_else() -> None:
    trial = Trial()
    trial.run("fine", lambda: None)
    trial.run("one line", lambda: _raise(InputError("a: wrong")))
    trial.run("two lines", lambda: _raise(InputError("a:\nwrong")))
    trial.run("too long", lambda: _raise(InputError("x" * 10_000)))
    trial.run("traceback", lambda: _raise(KeyError("a")))
    trial.run("sampled", lambda: None, lambda: "exit code 1")
    findings = trial.result()
    assert findings.cases == 6
    assert [failure.partition(":")[0] for failure in findings.failures] == [
        "two lines",
        "too long",
        "traceback",
        "sampled",
    ]
    assert findings.figures == ["2 accepted, the others refused in one line"]
