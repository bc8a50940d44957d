"""What a run tells while it goes on: a line of progress, lines of metrics.jsonl, TensorBoard's events."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from training.distributed.environment import OUTPUT_IS_TERMINAL

if TYPE_CHECKING:
    from training.loop.plan import TrainingPlan
    from training.loop.tensorboard import EventWriter
    from training.loop.validation import Score

QUIET_INTERVAL = 10.0
"""s between progress lines where nobody watches, as in a log file."""
WATCHED_INTERVAL = 0.2
"""s between changes of the progress line during an evaluation."""


class DataWaitTimer:
    """Splits a run's time into waiting for data and everything else."""

    def __init__(self) -> None:
        self.waited = 0.0
        self.began = time.perf_counter()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out the time that the block takes."""
        paused = time.perf_counter()
        try:
            yield
        finally:
            self.began += time.perf_counter() - paused

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


class ProgressReporter:
    """Progress on stderr, metrics.jsonl and TensorBoard's events in the run's folder; ranks other than 0 say nothing.

    A person at a terminal sees one line that changes; a log file gets a line of its own now and then.
    """

    def __init__(
        self, run: Path, plan: TrainingPlan, *, first: int, log_every: int, images_per_step: int, enabled: bool
    ) -> None:
        self.run = run
        self.first = first
        self.total = plan.total_steps
        self.epochs = plan.epochs
        self.log_every = log_every
        self.images_per_step = images_per_step
        self.enabled = enabled
        self.timer = DataWaitTimer()
        self.steps: list[Mapping[str, float]] = []
        self.ap = ""
        self.events: EventWriter | None = None
        self.overflows = self.new_overflows = 0
        self.watched = sys.stderr.isatty() or os.environ.get(OUTPUT_IS_TERMINAL) == "1"
        self.written = -math.inf
        self.bar = tqdm(
            total=plan.total_steps,
            initial=first,
            disable=not (enabled and self.watched),
            dynamic_ncols=True,
            bar_format="step {n_fmt}/{total_fmt} {percentage:3.0f}% [{elapsed}<{remaining}]{postfix}",
        )

    def log_step(
        self,
        *,
        step: int,
        epoch: int,
        terms: Mapping[str, float],
        rates: Mapping[str, float],
        scale: float | None = None,
        overflow: bool = False,
    ) -> None:
        """Count a finished step.

        Args:
            step: updates done, this one included.
            epoch: 0 for the first.
            terms: of the loss, by name; the loss is their sum.
            rates: the update's learning rates, by part of the network; the recipe's own is that of the last.
            scale: of the loss in this step; None where it is not scaled.
            overflow: whether the step was left out because its gradients overflowed.
        """
        self.steps.append(terms)
        self.new_overflows += overflow
        if step % self.log_every == 0 or step == self.total:
            self._log(step, epoch, rates, scale)
        self.bar.update()

    def _log(self, step: int, epoch: int, rates: Mapping[str, float], scale: float | None) -> None:
        """Write means since the last line, and the speed."""
        elapsed, data_wait = self.timer.lap()
        speed = self.images_per_step * len(self.steps) / elapsed
        loss = _mean([sum(terms.values()) for terms in self.steps])
        terms = {name: _mean([terms[name] for terms in self.steps]) for name in self.steps[0]}
        self.steps.clear()
        lr = list(rates.values())[-1]
        pace = {"images_per_s": round(speed, 2), "data_wait": data_wait}
        scaling = {} if scale is None else {"loss_scale": scale, "overflows": self.new_overflows}
        line = {"step": step, "epoch": epoch, "loss": loss, "lr": lr, **pace, "terms": terms, "rates": dict(rates)}
        self._write(line | scaling, {"loss": {"total": loss, **terms}, "rate": rates, "pace": pace, "scaling": scaling})
        self.overflows, self.new_overflows = self.overflows + self.new_overflows, 0
        told = f"epoch {epoch + 1}/{self.epochs} loss {loss:.4f} lr {lr:.1e} {speed:.0f} images/s"
        if self.overflows:
            told += f" overflows {self.overflows}"
        self._show(f"{told} data wait {data_wait:.1%}{self.ap}", step, speed)

    def show_evaluation_progress(self, done: int, pictures: int) -> None:
        """Tell how far an evaluation has come."""
        now = time.perf_counter()
        if now - self.written < (WATCHED_INTERVAL if self.watched else QUIET_INTERVAL):
            return
        self.written = now
        line = f"evaluating picture {done}/{pictures}"
        if self.watched:
            self.bar.set_postfix_str(line)
        else:
            self.print_message(line)

    def log_evaluation(self, step: int, score: Score, best: bool) -> None:
        """Write what an evaluation came to; `best` says that no earlier one came to as much."""
        line = {"step": step, **score.numbers, "pictures": score.image_count, "seconds": round(score.seconds, 2)}
        self._write(line, {"validation": score.numbers})
        if score.map_figure is not None and self.events:
            self.events.add_image(step, "maps", score.map_figure)
            self.events.flush()
        ap, ap50, ar = (f"{score.numbers[name]:.3f}" if score.is_defined else "-" for name in ("AP", "AP50", "AR"))
        self.ap = f" AP {ap}"
        self.bar.set_postfix_str(self.ap.strip(), refresh=False)
        how = f"{score.image_count} pictures in {score.seconds:.1f} s"
        self.print_message(
            f"step {step}/{self.total} AP {ap} AP50 {ap50} AR {ar} on {how}{', the best so far' if best else ''}"
        )

    def print_message(self, text: str) -> None:
        """Print a line above the progress."""
        if self.enabled:
            tqdm.write(text, file=sys.stderr)

    def close(self) -> None:
        """Leave the last progress line standing."""
        self.bar.close()
        if self.events:
            self.events.close()

    def _show(self, line: str, step: int, speed: float) -> None:
        if self.watched:
            self.bar.set_postfix_str(line, refresh=False)
            return
        now = time.perf_counter()
        left = self.total - step
        if now - self.written >= QUIET_INTERVAL or not left:
            self.written = now
            eta = tqdm.format_interval(left * self.images_per_step / speed)
            self.print_message(f"step {step}/{self.total} {line} ETA {eta}")

    def _write(self, line: Mapping[str, Any], curves: Mapping[str, Mapping[str, float]]) -> None:
        """Add a line to metrics.jsonl and, by group and name, values to TensorBoard's curves."""
        if not self.enabled:
            return
        with (self.run / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if self.events is None:
            from training.loop.tensorboard import EventWriter

            self.events = EventWriter(self.run / "tensorboard", after=self.first)
        tags = {f"{group}/{name}": value for group, values in curves.items() for name, value in values.items()}
        self.events.add_scalars(line["step"], tags)
        self.events.flush()


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
