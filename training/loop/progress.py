"""Progress of a run: the progress line, metrics.jsonl and TensorBoard events."""

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

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from tqdm import tqdm

from pipeline.system.files import write_atomically
from training.distributed.environment import OUTPUT_IS_TERMINAL

if TYPE_CHECKING:
    from training.loop.plan import TrainingPlan
    from training.loop.tensorboard import EventWriter
    from training.loop.validation import Score

PREVIEW = "preview.jpg"
"""Name of the figure of the latest evaluation in the run folder."""
LOG_FILE_INTERVAL = 10.0
"""Seconds between two progress lines if stderr is a log file."""
TERMINAL_INTERVAL = 0.2
"""Seconds between two updates of the progress line during an evaluation, if stderr is a terminal."""


class DataWaitTimer:
    """Measures how much of the elapsed time is spent waiting for the next batch."""

    def __init__(self) -> None:
        self.waited = 0.0
        self.started = time.perf_counter()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude the duration of the `with` block from the elapsed time."""
        paused = time.perf_counter()
        try:
            yield
        finally:
            self.started += time.perf_counter() - paused

    def time_batches(self, batches: Iterator[Any]) -> Iterator[Any]:
        """Yield the batches and measure the time that each takes to arrive."""
        while True:
            requested = time.perf_counter()
            batch = next(batches, None)
            self.waited += time.perf_counter() - requested
            if batch is None:
                return
            yield batch

    def restart(self) -> tuple[float, float]:
        """Return the seconds since the last restart and the fraction of them spent waiting for data."""
        now = time.perf_counter()
        elapsed, waited = now - self.started, self.waited
        self.started, self.waited = now, 0.0
        return elapsed, waited / elapsed if elapsed > 0 else 0.0


class ProgressReporter:
    """Writes progress to stderr, metrics.jsonl and TensorBoard event files.

    On a terminal, one line is updated in place; in a log file, a line is appended every `LOG_FILE_INTERVAL` seconds.

    Args:
        run: folder of the run.
        plan: length of the run.
        initial_step: number of updates done before this session.
        log_every: number of steps between two lines of metrics.jsonl.
        images_per_step: number of images in one update, of all processes together.
        enabled: False to write nothing, as on all ranks but 0.
    """

    def __init__(
        self, run: Path, plan: TrainingPlan, *, initial_step: int, log_every: int, images_per_step: int, enabled: bool
    ) -> None:
        self.run = run
        self.initial_step = initial_step
        self.total_steps = plan.total_steps
        self.epochs = plan.epochs
        self.log_every = log_every
        self.images_per_step = images_per_step
        self.enabled = enabled
        self.timer = DataWaitTimer()
        self.term_values: list[Mapping[str, float]] = []
        self.ap = ""
        self.has_preview = False
        self.events: EventWriter | None = None
        self.overflows = self.new_overflows = 0
        self.on_terminal = sys.stderr.isatty() or os.environ.get(OUTPUT_IS_TERMINAL) == "1"
        self.last_printed = -math.inf
        self.bar = tqdm(
            total=plan.total_steps,
            initial=initial_step,
            disable=not (enabled and self.on_terminal),
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
        loss_scale: float | None = None,
        overflow: bool = False,
    ) -> None:
        """Record a finished step; every `log_every` steps, log the means since the previous log.

        Args:
            step: number of updates done, including this one.
            epoch: Epoch, counted from 0.
            terms: terms of the loss by name; the loss is their sum.
            rates: learning rate by parameter group; the last is `training.lr` after the schedule.
            loss_scale: loss scale of this step; None without loss scaling.
            overflow: True if the update was skipped because its gradients overflowed.
        """
        self.term_values.append(terms)
        self.new_overflows += overflow
        if step % self.log_every == 0 or step == self.total_steps:
            self._log(step, epoch, rates, loss_scale)
        self.bar.update()

    def _log(self, step: int, epoch: int, rates: Mapping[str, float], loss_scale: float | None) -> None:
        """Log the means of the steps since the previous log, and the speed."""
        elapsed, data_wait = self.timer.restart()
        speed = self.images_per_step * len(self.term_values) / elapsed
        loss = _mean([sum(terms.values()) for terms in self.term_values])
        terms = {name: _mean([terms[name] for terms in self.term_values]) for name in self.term_values[0]}
        self.term_values.clear()
        lr = list(rates.values())[-1]
        pace = {"images_per_s": round(speed, 2), "data_wait": data_wait}
        scaling = {} if loss_scale is None else {"loss_scale": loss_scale, "overflows": self.new_overflows}
        line = {"step": step, "epoch": epoch, "loss": loss, "lr": lr, **pace, "terms": terms, "rates": dict(rates)}
        self._write(line | scaling, {"loss": {"total": loss, **terms}, "rate": rates, "pace": pace, "scaling": scaling})
        self.overflows, self.new_overflows = self.overflows + self.new_overflows, 0
        text = f"epoch {epoch + 1}/{self.epochs} loss {loss:.4f} lr {lr:.1e} {speed:.0f} images/s"
        if self.overflows:
            text += f" overflows {self.overflows}"
        self._show_progress(f"{text} data wait {data_wait:.1%}{self.ap}", step, speed)

    def show_evaluation_progress(self, done: int, total: int) -> None:
        """Show how many images an evaluation has processed."""
        now = time.perf_counter()
        if now - self.last_printed < (TERMINAL_INTERVAL if self.on_terminal else LOG_FILE_INTERVAL):
            return
        self.last_printed = now
        line = f"evaluating image {done}/{total}"
        if self.on_terminal:
            self.bar.set_postfix_str(line)
        else:
            self.print_message(line)

    def log_evaluation(self, step: int, score: Score, best: bool) -> None:
        """Write the result of an evaluation; `best` is True if its AP is the highest so far."""
        line = {"step": step, **score.metrics, "pictures": score.image_count, "seconds": round(score.seconds, 2)}
        self._write(line, {"validation": score.metrics})
        if score.map_figure is not None and self.events:
            self.events.add_image(step, "maps", score.map_figure)
            self.events.flush()
            self._write_preview(score.map_figure)
        ap, ap50, ar = (f"{score.metrics[name]:.3f}" if score.is_defined else "-" for name in ("AP", "AP50", "AR"))
        self.ap = f" AP {ap}"
        self.bar.set_postfix_str(self.ap.strip(), refresh=False)
        how = f"{score.image_count} images in {score.seconds:.1f} s"
        self.print_message(
            f"step {step}/{self.total_steps} AP {ap} AP50 {ap50} AR {ar} on {how}{', best so far' if best else ''}"
        )

    def _write_preview(self, figure: NDArray[np.uint8]) -> None:
        """Replace the figure of the previous evaluation; name the file once in a session."""
        path = self.run / PREVIEW
        write_atomically(path, simplejpeg.encode_jpeg(figure, quality=90, colorspace="BGR"))
        if not self.has_preview:
            self.has_preview = True
            self.print_message(f"{path}: people and maps found so far, replaced after every evaluation")

    def print_message(self, text: str) -> None:
        """Print a line above the progress line."""
        if self.enabled:
            tqdm.write(text, file=sys.stderr)

    def close(self) -> None:
        """Close the event file, and leave the last progress line on the terminal."""
        self.bar.close()
        if self.events:
            self.events.close()

    def _show_progress(self, line: str, step: int, speed: float) -> None:
        if self.on_terminal:
            self.bar.set_postfix_str(line, refresh=False)
            return
        now = time.perf_counter()
        remaining = self.total_steps - step
        if now - self.last_printed >= LOG_FILE_INTERVAL or not remaining:
            self.last_printed = now
            eta = tqdm.format_interval(remaining * self.images_per_step / speed)
            self.print_message(f"step {step}/{self.total_steps} {line} ETA {eta}")

    def _write(self, line: Mapping[str, Any], curves: Mapping[str, Mapping[str, float]]) -> None:
        """Append a line to metrics.jsonl, and values by group and name to the TensorBoard curves."""
        if not self.enabled:
            return
        with (self.run / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if self.events is None:
            from training.loop.tensorboard import EventWriter

            self.events = EventWriter(self.run / "tensorboard", after=self.initial_step)
        tags = {f"{group}/{name}": value for group, values in curves.items() for name, value in values.items()}
        self.events.add_scalars(line["step"], tags)
        self.events.flush()


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
