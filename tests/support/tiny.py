"""Tiny recipe with the real code, and functions to train with it; shared by the tests of training."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.loading.augment import AugmentConfig
from training.config import Config
from training.recipes import parse_config

if TYPE_CHECKING:
    from pipeline.system.signals import StopSignal
    from training.loop.validation import Evaluator
    from training.weights.initial_weights import InitialWeights

ROOT = Path(__file__).resolve().parents[2]
STEPS = 48
RECORDS = 48

RECIPE: dict[str, Any] = {
    "model": {
        "backbone": "compact",
        "feature_widths": [16, 16],
        "stages": 2,
        "first_width": 16,
        "first_depth": 1,
        "stage_width": 8,
        "stage_depth": 1,
        "stage_kernel": 3,
    },
    "data": {"size": 64, "max_people": 8, "threads": 1, "augment": AugmentConfig.for_size(64).model_dump()},
    "training": {
        "batch_size": 4,
        "epochs": 4,
        "lr": 3e-3,
        "backbone_lr_factor": 1,
        "feature_lr_factor": 1,
        "schedule": "cosine",
        "log_every": 1,
        "checkpoint_every": 10,
        "keep": 2,
    },
}
"""Without batch normalisation, so that training with one and with two processes gives the same result."""


def recipe(**training: Any) -> Config:
    """Return the recipe with changed fields in its training section."""
    return parse_config({**RECIPE, "training": RECIPE["training"] | training}, source="tiny")


def metrics(run: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's metrics.jsonl."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def losses(run: Path) -> dict[int, float]:
    """Return the logged loss by step."""
    return {line["step"]: line["loss"] for line in metrics(run) if "loss" in line}


def evaluations(run: Path) -> dict[int, float]:
    """Return the logged AP by step."""
    return {line["step"]: line["AP"] for line in metrics(run) if "AP" in line}


@contextlib.contextmanager
def restore_signal_mask() -> Iterator[None]:
    """Restore the signal mask afterwards: training in this process blocks SIGINT and SIGTERM."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def train_in_process(
    config: Config,
    shards: Path,
    out: Path,
    *,
    resume: bool = False,
    stop: int = 0,
    evaluator: Callable[[StopSignal], Evaluator] | None = None,
    init: InitialWeights | None = None,
) -> int:
    """Train in this process.

    Args:
        config: configuration.
        shards: folder of the training set.
        out: run folder.
        resume: resume the run in `out`.
        stop: number of a signal received before the first step, or 0.
        evaluator: function that creates the evaluator for evaluation during training.
        init: initial weights.

    Returns:
        The exit code.
    """
    from pipeline.system.signals import StopSignal
    from training.loop.trainer import train

    with restore_signal_mask():
        signals = StopSignal()
        signals.number = stop
        return train(
            config,
            shards,
            out,
            resume=resume,
            device="cpu",
            signals=signals,
            resume_command="COMMAND",
            evaluator=evaluator(signals) if evaluator else None,
            init=init,
        )


def command(recipe_file: Path, shards: Path, out: Path, *more: str) -> list[str]:
    """Return the command line of a training."""
    options = ["--config", str(recipe_file), "--shards", str(shards), "--out", str(out), "--device", "cpu"]
    return [sys.executable, "-m", "training.train", *options, *more]


def start(arguments: list[str]) -> subprocess.Popen[str]:
    """Start a command in the root folder of the project."""
    return subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
