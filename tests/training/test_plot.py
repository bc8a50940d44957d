"""Reading the metrics of runs, complete or not, and plotting their curves."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from pipeline.errors import InputError
from tests.support import tiny
from training.plot import Curve, main, make_history, plot_runs, read_history, running_mean

OLD = [{"step": step, "epoch": 0, "loss": 1 / step, "lr": 1e-4, "images_per_s": 30.0} for step in (20, 40, 60)]


def test_the_metrics_of_a_run_are_read(tiny_run):
    history = read_history(tiny_run, "tiny")
    lines = tiny.metrics(tiny_run)
    steps = tuple(range(1, tiny.STEPS + 1))
    assert history.loss == Curve(steps, tuple(line["loss"] for line in lines))
    assert history.speed == Curve(steps, tuple(line["images_per_s"] for line in lines))
    assert set(history.terms) == {("pafs", 1), ("pafs", 2), ("heatmaps", 1), ("heatmaps", 2)}
    assert history.terms["heatmaps", 2].values[7] == lines[7]["terms"]["heatmaps_2"]
    assert list(history.rates) == list(lines[0]["rates"])
    assert history.ap == Curve((), ())


def test_evaluations_between_the_steps():
    history = make_history([*OLD[:2], {"step": 40, "AP": 0.25}, OLD[2], {"step": 60, "AP": -1}], "run")
    assert history.loss.steps == (20, 40, 60)
    assert history.ap == Curve((40,), (0.25,))


def test_older_logs_have_one_rate_and_no_terms():
    history = make_history(OLD, "old")
    assert history.rates == {"lr": Curve((20, 40, 60), (1e-4,) * 3)}
    assert history.terms == {}


def test_values_that_are_not_finite_numbers_are_skipped():
    lines = [{"step": 1, "loss": float("nan")}, {"step": 2, "loss": "x"}, {"step": 3, "loss": 2}, {"step": 4}]
    assert make_history(lines, "run").loss == Curve((3,), (2.0,))


def test_an_incomplete_last_line_is_skipped(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(json.dumps(OLD[0]) + "\n" + '{"step": 40, "lo')
    assert read_history(tmp_path, "run").loss.steps == (20,)
    assert read_history(tmp_path / "metrics.jsonl", "run").loss.steps == (20,)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"metrics\.jsonl: cannot be read; expected a run folder, such as runs/demo"),
        ("", r"metrics\.jsonl: contains no step yet"),
        ('{"step": 1}\n[]\n', r"metrics\.jsonl:2: expected a JSON object with an integer step, found '\[\]'"),
        ('{"step": "1"}\n', r"metrics\.jsonl:1: expected a JSON object with an integer step"),
        ("{\n", r"metrics\.jsonl:1: expected a JSON object with an integer step"),
    ],
)
def test_an_invalid_file_is_refused(text, message, tmp_path):
    if text is not None:
        (tmp_path / "metrics.jsonl").write_text(text)
    with pytest.raises(InputError, match=message):
        read_history(tmp_path, "run")


def test_running_mean():
    values = [4.0, 8.0, 0.0, 2.0]
    assert running_mean(values, 1) == values
    assert running_mean(values, 2) == [4, 6, 4, 1]
    assert running_mean(values, 9) == [4, 6, 4, 3.5]


def colours(path: Path) -> set[tuple[int, ...]]:
    picture = cv2.imread(str(path))
    assert picture is not None
    return {tuple(colour) for colour in np.unique(picture.reshape(-1, 3), axis=0).tolist()}


def test_each_run_has_its_own_colour(tiny_run, tmp_path):
    blue, orange = (165, 110, 59), (61, 138, 217)  # BGR
    long = make_history([{**OLD[0], "step": step} for step in range(1, 400)], "long")
    plot_runs([read_history(tiny_run, "tiny")], tmp_path / "one.png")
    plot_runs([read_history(tiny_run, "tiny"), long], tmp_path / "two.png")
    assert blue in colours(tmp_path / "one.png")
    assert orange not in colours(tmp_path / "one.png")
    assert {blue, orange} <= colours(tmp_path / "two.png")


def test_the_command_writes_into_the_folder_of_the_first_run(tiny_run, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name / "run").mkdir(parents=True)
        (tmp_path / name / "run" / "metrics.jsonl").write_bytes((tiny_run / "metrics.jsonl").read_bytes())
    runs = [str(tmp_path / name / "run") for name in ("a", "b")]
    result = CliRunner().invoke(main, runs)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{runs[0]}/curves.png\n"
    assert (tmp_path / "a" / "run" / "curves.png").stat().st_size > 10_000
    result = CliRunner().invoke(main, [*runs, "--out", str(tmp_path / "curves.txt")])
    assert result.exit_code == 2
    assert result.stderr.startswith(f"Error: {tmp_path / 'curves.txt'}: cannot write the figure: ")
    assert len(result.stderr.splitlines()) == 1
