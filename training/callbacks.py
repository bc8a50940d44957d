"""What a run tells while it goes on: one line of progress, one line of metrics.jsonl a logged step."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from tqdm import tqdm

QUIET_INTERVAL = 10.0
"""s between progress lines where nobody watches, as in a log file."""


class Stopwatch:
    """Splits a run's time into waiting for data and everything else."""

    def __init__(self) -> None:
        self.waited = 0.0
        self.began = time.perf_counter()

    def waiting(self, batches: Iterator[Any]) -> Iterator[Any]:
        """Pass the batches on and count the time it takes to get each."""
        while True:
            asked = time.perf_counter()
            batch = next(batches, None)
            self.waited += time.perf_counter() - asked
            if batch is None:
                return
            yield batch

    def lap(self) -> tuple[float, float]:
        """Seconds since the last lap, and the fraction of them spent waiting for data."""
        now = time.perf_counter()
        elapsed, waited = now - self.began, self.waited
        self.began, self.waited = now, 0.0
        return elapsed, waited / elapsed if elapsed > 0 else 0.0


class Reporter:
    """Progress on stderr and metrics.jsonl in the run's folder; says nothing on ranks other than 0."""

    def __init__(self, run: Path, *, first: int, total: int, epochs: int, images_per_step: int, speaks: bool) -> None:
        self.run = run
        self.epochs = epochs
        self.images_per_step = images_per_step
        self.speaks = speaks
        self.stopwatch = Stopwatch()
        self.losses: list[float] = []
        watched = sys.stderr.isatty() or os.environ.get("PROGRESS_WATCHED") == "1"
        self.bar = tqdm(
            total=total,
            initial=first,
            unit="step",
            disable=not speaks,
            dynamic_ncols=True,
            mininterval=0.2 if watched else QUIET_INTERVAL,
            maxinterval=QUIET_INTERVAL,
            bar_format="step {n_fmt}/{total_fmt} {percentage:3.0f}% [{elapsed}<{remaining}]{postfix}",
        )

    def update(self, *, step: int, epoch: int, loss: float, lr: float, log: bool) -> None:
        """Count a finished step; with `log`, write the mean loss since the last line and the speed."""
        self.losses.append(loss)
        if log:
            elapsed, data_wait = self.stopwatch.lap()
            speed = self.images_per_step * len(self.losses) / elapsed
            mean = sum(self.losses) / len(self.losses)
            self.losses.clear()
            self._write(step=step, epoch=epoch, loss=mean, lr=lr, images_per_s=round(speed, 2), data_wait=data_wait)
            line = f"epoch {epoch + 1}/{self.epochs} loss {mean:.4f} lr {lr:.1e} {speed:.0f} images/s"
            self.bar.set_postfix_str(f"{line} data wait {data_wait:.1%}", refresh=False)
        self.bar.update()

    def say(self, text: str) -> None:
        """Print a line above the progress."""
        if self.speaks:
            self.bar.write(text, file=sys.stderr)

    def close(self) -> None:
        """Leave the last progress line standing."""
        self.bar.close()

    def _write(self, **metrics: float) -> None:
        if self.speaks:
            with (self.run / "metrics.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(metrics) + "\n")


def trim_metrics(run: Path, step: int) -> None:
    """Forget lines of metrics.jsonl after `step`: a resumed run writes them anew."""
    path = run / "metrics.jsonl"
    if path.is_file():
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        whole = [line for line in lines if line.endswith("\n")]
        path.write_text("".join(line for line in whole if json.loads(line)["step"] <= step), encoding="utf-8")


class StopSignal:
    """Remembers that SIGTERM or SIGINT came, so that a run can save at the next step instead of dying in one."""

    def __init__(self) -> None:
        self.number = 0
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._remember)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.number = number
