"""A short version of `make faults`: invalid input ends in success or in a one-line error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import InputError
from tests.faults.input_tester import InputTester
from tests.faults.report import FaultReport
from tests.faults.scenarios import checkpoints, inputs

SUITES = [
    inputs.annotations,
    inputs.images,
    inputs.recipes,
    inputs.manifests,
    inputs.results,
    checkpoints.checkpoints,
    checkpoints.weights,
    checkpoints.graph_metadata,
]


@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: suite.__name__)
def test_invalid_input_is_rejected_in_one_line(suite: Callable[[int, int, Path], FaultReport], tmp_path: Path) -> None:
    report = suite(1, 40, tmp_path)
    assert report.failures == []
    assert report.cases in (40, 160)
    assert not report.figures[0].startswith("0 accepted")


def _raise(error: Exception) -> None:
    raise error


def test_the_tester_accepts_success_and_one_line_errors_only() -> None:
    tester = InputTester()
    tester.run("fine", lambda: None)
    tester.run("one line", lambda: _raise(InputError("a: wrong")))
    tester.run("two lines", lambda: _raise(InputError("a:\nwrong")))
    tester.run("too long", lambda: _raise(InputError("x" * 10_000)))
    tester.run("traceback", lambda: _raise(KeyError("a")))
    tester.run("sampled", lambda: None, lambda: "exit code 1")
    report = tester.result()
    assert report.cases == 6
    assert [failure.partition(":")[0] for failure in report.failures] == [
        "two lines",
        "too long",
        "traceback",
        "sampled",
    ]
    assert report.figures == ["2 accepted, the others rejected with a one-line error"]
