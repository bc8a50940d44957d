"""Plot the training curves of one or more runs: python -m training.plot RUN [RUN …] --out curves.png."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from pipeline.errors import InputError, reports_input_errors
from pipeline.visualization.figures import COLOURS, blank_figure, save_figure

METRICS_FILE = "metrics.jsonl"
SMOOTHING_THRESHOLD = 100
"""Number of points above which the running mean of a curve is drawn, with the original curve pale behind it."""

_LOSS_TERM = re.compile(r"(\w+)_(\d+)")


@dataclass(frozen=True)
class Curve:
    """Values of a metric and the training steps at which they were logged, in increasing order of steps."""

    steps: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class RunHistory:
    """Curves of a run. A metric that the run did not log has an empty curve.

    Attributes:
        name: name of the run.
        loss: total loss.
        speed: training speed in images/s.
        rates: learning rate by part of the network; "lr" for a run that logged a single one.
        terms: loss terms by (branch, stage).
        ap: AP of the evaluations during training.
    """

    name: str
    loss: Curve
    speed: Curve
    rates: Mapping[str, Curve]
    terms: Mapping[tuple[str, int], Curve]
    ap: Curve


def read_history(run: Path, name: str) -> RunHistory:
    """Read the metrics of a run.

    Args:
        run: run folder, or its metrics.jsonl.
        name: name of the run in the plot.

    Raises:
        InputError: the file cannot be read, contains no step, or has a line that is not a JSON object with a step.
    """
    path = run if run.is_file() else run / METRICS_FILE
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read; expected a run folder, such as runs/demo") from error
    lines = []
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        if line.endswith("\n"):  # the last line may be incomplete while a run is training
            lines.append(_parse_line(line, f"{path}:{number}"))
    if not lines:
        raise InputError(f"{path}: contains no step yet; plot the run after its first step")
    return make_history(lines, name)


def _parse_line(line: str, location: str) -> dict[str, Any]:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict) or type(values.get("step")) is not int:
        raise InputError(f"{location}: expected a JSON object with an integer step, found {line[:40].strip()!r}")
    return values


def make_history(lines: Sequence[Mapping[str, Any]], name: str) -> RunHistory:
    """Collect the curves of a run from the lines of its metrics.jsonl."""
    rates = {part: _curve(lines, "rates", part) for part in _keys(lines, "rates")}
    terms = {(match[1], int(match[2])): key for key in _keys(lines, "terms") if (match := _LOSS_TERM.fullmatch(key))}
    return RunHistory(
        name=name,
        loss=_curve(lines, "loss"),
        speed=_curve(lines, "images_per_s"),
        rates=rates or {"lr": _curve(lines, "lr")},
        terms={branch_and_stage: _curve(lines, "terms", key) for branch_and_stage, key in terms.items()},
        ap=_curve([line for line in lines if line.get("AP") != -1], "AP"),  # -1: no annotations, AP is undefined
    )


def _keys(lines: Sequence[Mapping[str, Any]], section: str) -> list[str]:
    """Return the keys of a section over all lines, in order of first appearance."""
    return list(dict.fromkeys(key for line in lines if isinstance(line.get(section), dict) for key in line[section]))


def _curve(lines: Sequence[Mapping[str, Any]], *path: str) -> Curve:
    """Return the finite values at a path of keys, with the steps of their lines."""
    points = []
    for line in lines:
        value: Any = line
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        if isinstance(value, int | float) and math.isfinite(value):
            points.append((line["step"], float(value)))
    return Curve(tuple(step for step, _ in points), tuple(value for _, value in points))


def running_mean(values: Sequence[float], width: int) -> list[float]:
    """Return the mean of each value and up to `width` - 1 values before it."""
    means, total = [], 0.0
    for index, value in enumerate(values):
        total += value - (values[index - width] if index >= width else 0.0)
        means.append(total / min(index + 1, width))
    return means


@dataclass(frozen=True)
class _Panel:
    """One plot of the figure.

    Attributes:
        title: title of the plot.
        curves_by_run: curves of each run by label.
        logarithmic: True for a logarithmic axis of values, False for a linear axis that starts at 0.
        with_markers: True to mark every point and label the highest, for metrics with few points.
    """

    title: str
    curves_by_run: Sequence[Mapping[str, Curve]]
    logarithmic: bool = False
    with_markers: bool = False

    @property
    def empty(self) -> bool:
        """True if no run has any point to show."""
        return not any(curve.steps for curves in self.curves_by_run for curve in curves.values())


def _panels(histories: Sequence[RunHistory]) -> list[_Panel]:
    """Return the plots to draw: those with a point of at least one run."""
    panels = [
        _Panel("loss", [{"": history.loss} for history in histories], logarithmic=True),
        _Panel("AP of evaluations during training", [{"": history.ap} for history in histories], with_markers=True),
        _Panel(
            "loss of part affinity fields, by stage", [_curves_by_stage(h, "pafs") for h in histories], logarithmic=True
        ),
        _Panel("loss of heatmaps, by stage", [_curves_by_stage(h, "heatmaps") for h in histories], logarithmic=True),
        _Panel("learning rate", [_distinct_rates(history.rates) for history in histories]),
        _Panel("images/s", [{"": history.speed} for history in histories]),
    ]
    return [panel for panel in panels if not panel.empty]


def _curves_by_stage(history: RunHistory, branch: str) -> dict[str, Curve]:
    return {f"stage {stage}": curve for (name, stage), curve in sorted(history.terms.items()) if name == branch}


def _distinct_rates(rates: Mapping[str, Curve]) -> dict[str, Curve]:
    """Return each different learning rate once, under the name of the last part that has it."""
    last_name = {curve: name for name, curve in rates.items()}
    return {name: curve for curve, name in last_name.items()}


def plot_runs(histories: Sequence[RunHistory], path: Path) -> None:
    """Plot the curves of runs into an image file, with one colour for each run. Metrics that no run logged are omitted.

    Raises:
        InputError: the file cannot be written, or its suffix is not an image format.
    """
    panels = _panels(histories)
    rows = -(-len(panels) // 2)
    figure = blank_figure(height=0.6 + 3.6 * rows)
    all_axes = figure.subplots(rows, 2, squeeze=False).ravel()
    for axes, panel in zip(all_axes, panels, strict=False):
        _draw_panel(axes, panel)
    for axes in all_axes[len(panels) :]:
        axes.set_axis_off()
    handles = [all_axes[0].plot([], [], color=_colour(index))[0] for index in range(len(histories))]
    names = [history.name for history in histories]
    save_figure(figure, handles, names, path)


def _colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def _draw_panel(axes: Any, panel: _Panel) -> None:
    for index, run_curves in enumerate(panel.curves_by_run):
        curves = [curve for curve in run_curves.values() if curve.steps]
        for number, curve in enumerate(curves, 1):
            _draw_curve(axes, curve, _colour(index), _opacity(number, len(curves)), panel.with_markers)
            if panel.with_markers:
                _label_best(axes, curve, _colour(index))
    most_curves = max(panel.curves_by_run, key=len)
    _add_legend(axes, list(most_curves))
    axes.set_title(panel.title, loc="left", fontweight="bold")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    axes.set_xlabel("step")
    axes.margins(x=0.08)
    axes.set_xlim(left=0)
    _set_value_axis(axes, panel.logarithmic)


def _opacity(number: int, count: int) -> float:
    """Return the opacity of curve `number`, from 1, of the `count` curves of a run. The last one is opaque."""
    return 0.3 + 0.7 * number / count


def _draw_curve(axes: Any, curve: Curve, colour: str, opacity: float, with_markers: bool) -> None:
    """Draw a curve; if it has many points, draw its running mean over the pale curve."""
    if with_markers or len(curve.values) <= SMOOTHING_THRESHOLD:
        axes.plot(curve.steps, curve.values, color=colour, alpha=opacity, marker="o" if with_markers else None)
        return
    means = running_mean(curve.values, 2 * len(curve.values) // SMOOTHING_THRESHOLD)
    axes.plot(curve.steps, curve.values, color=colour, alpha=0.25 * opacity, linewidth=0.6)
    axes.plot(curve.steps, means, color=colour, alpha=opacity)


def _label_best(axes: Any, curve: Curve, colour: str) -> None:
    best = max(curve.values)
    point = (curve.steps[curve.values.index(best)], best)
    axes.annotate(f"{best:.3f}", point, (6, 0), textcoords="offset points", fontsize=8, color=colour, va="center")


def _add_legend(axes: Any, labels: Sequence[str]) -> None:
    """Add a legend, in grey because colours stand for runs, that shows the opacity of each curve of a run."""
    if len(labels) > 1:
        opacities = [_opacity(number, len(labels)) for number in range(1, len(labels) + 1)]
        handles = [axes.plot([], [], color="#404040", alpha=opacity)[0] for opacity in opacities]
        axes.legend(handles, labels, loc="upper right", frameon=False, fontsize=8)


def _set_value_axis(axes: Any, logarithmic: bool) -> None:
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator

    if not logarithmic:
        axes.set_ylim(bottom=0)
        return
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 4, 5, 7)))
    axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.yaxis.set_minor_locator(NullLocator())


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN…", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Image file: png, svg or pdf.  [default: RUN/curves.png]")
@reports_input_errors
def main(runs: tuple[Path, ...], out: Path | None) -> None:
    """Plot loss, loss terms by stage and branch, learning rate, images/s and AP of one or more runs against the step.

    RUN is a run folder or its metrics.jsonl.
    """
    names = [run.absolute().name for run in runs]
    if len(set(names)) < len(names):
        names = [str(run) for run in runs]
    histories = [read_history(run, name) for run, name in zip(runs, names, strict=True)]
    out = out or (runs[0].parent if runs[0].is_file() else runs[0]) / "curves.png"
    plot_runs(histories, out)
    click.echo(out)


if __name__ == "__main__":
    main()
