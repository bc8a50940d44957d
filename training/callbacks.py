"""What a run tells while it goes on: one line of progress, one line of metrics.jsonl a logged step."""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

QUIET_INTERVAL = 10.0
"""s between progress lines where nobody watches, as in a log file."""
WATCHED = "OPENPOSE_WATCHED"
"""Environment variable, 1 where somebody watches the output although it is not a terminal, as a launcher's worker's."""
STOPPING = (signal.SIGTERM, signal.SIGINT)
"""Signals that ask a run to stop."""


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
    """Progress on stderr and metrics.jsonl in the run's folder; says nothing on ranks other than 0.

    A person at a terminal sees one line that changes; a log file gets a line of its own now and then.
    """

    def __init__(self, run: Path, *, first: int, total: int, epochs: int, images_per_step: int, speaks: bool) -> None:
        self.run = run
        self.total = total
        self.epochs = epochs
        self.images_per_step = images_per_step
        self.speaks = speaks
        self.stopwatch = Stopwatch()
        self.losses: list[float] = []
        self.watched = sys.stderr.isatty() or os.environ.get(WATCHED) == "1"
        self.written = -math.inf
        self.bar = tqdm(
            total=total,
            initial=first,
            disable=not (speaks and self.watched),
            dynamic_ncols=True,
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
            self._show(f"{line} data wait {data_wait:.1%}", step, speed)
        self.bar.update()

    def say(self, text: str) -> None:
        """Print a line above the progress."""
        if self.speaks:
            tqdm.write(text, file=sys.stderr)

    def close(self) -> None:
        """Leave the last progress line standing."""
        self.bar.close()

    def _show(self, line: str, step: int, speed: float) -> None:
        if self.watched:
            self.bar.set_postfix_str(line, refresh=False)
            return
        now = time.perf_counter()
        left = self.total - step
        if now - self.written >= QUIET_INTERVAL or not left:
            self.written = now
            eta = tqdm.format_interval(left * self.images_per_step / speed)
            self.say(f"step {step}/{self.total} {line} ETA {eta}")

    def _write(self, **metrics: float) -> None:
        if self.speaks:
            with (self.run / "metrics.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(metrics) + "\n")


class StopSignal:
    """Which of SIGINT and SIGTERM came, so that a run can save at the next step instead of dying in one.

    They are blocked, and waited for by a thread: with every run of a graph MindSpore installs a handler for SIGINT that
    sends SIGTERM. It has to be made before libraries start threads of their own, which inherit what is blocked.

    Attributes:
        number: of the last signal that came, 0 before.
        count: how many have come.
    """

    def __init__(self) -> None:
        self.number = self.count = 0
        signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)

    def watch(self, answer: str = "Stopping after the next step") -> None:
        """Notice signals from now on, those that came since this object was made included; `answer` is said to each."""
        threading.Thread(target=self._wait, args=(answer,), name="signals", daemon=True).start()

    def _wait(self, answer: str) -> None:
        while True:
            self.number = signal.sigwait(STOPPING)
            self.count += 1
            sys.stderr.write(f"\n{answer}\n")
            sys.stderr.flush()
