"""Draw how runs went: python -m training.plot RUN [RUN …] --out curves.png."""

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

METRICS = "metrics.jsonl"
SMOOTHED = 100
"""Points of a curve above which its running mean is drawn, the points themselves faintly behind it."""

_TERM = re.compile(r"(\w+)_(\d+)")


@dataclass(frozen=True)
class Curve:
    """Values by step, in the order of steps."""

    steps: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class History:
    """The curves of a run; what it did not log is empty.

    Attributes:
        name: of the run.
        loss, speed: the whole loss; images/s.
        rates: learning rates by part of the network, or by "lr" where a run logged one alone.
        terms: of the loss: (branch, stage) -> curve.
        ap: of the evaluations on the way.
    """

    name: str
    loss: Curve
    speed: Curve
    rates: Mapping[str, Curve]
    terms: Mapping[tuple[str, int], Curve]
    ap: Curve


def read_history(run: Path, name: str) -> History:
    """Read metrics.jsonl of a run's folder; InputError if there is none or a line is no object with its step."""
    path = run if run.is_file() else run / METRICS
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read; expected the folder of a run, such as runs/demo") from error
    lines = []
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        if line.endswith("\n"):  # a run may be writing the last one
            lines.append(_parse(line, f"{path}:{number}"))
    if not lines:
        raise InputError(f"{path}: holds no step yet")
    return make_history(lines, name)


def _parse(line: str, place: str) -> dict[str, Any]:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict) or type(values.get("step")) is not int:
        raise InputError(f"{place}: expected an object with a step, found {line[:40].strip()!r}")
    return values


def make_history(lines: Sequence[Mapping[str, Any]], name: str) -> History:
    """The curves in the lines of a metrics.jsonl, whatever of them is there."""
    rates = {part: _curve(lines, "rates", part) for part in _keys(lines, "rates")}
    terms = {(match[1], int(match[2])): key for key in _keys(lines, "terms") if (match := _TERM.fullmatch(key))}
    return History(
        name=name,
        loss=_curve(lines, "loss"),
        speed=_curve(lines, "images_per_s"),
        rates=rates or {"lr": _curve(lines, "lr")},
        terms={place: _curve(lines, "terms", key) for place, key in terms.items()},
        ap=_curve([line for line in lines if line.get("AP") != -1], "AP"),  # no annotation defines it
    )


def _keys(lines: Sequence[Mapping[str, Any]], section: str) -> list[str]:
    """Names in a section of any line, in the order in which they first appear."""
    return list(dict.fromkeys(key for line in lines if isinstance(line.get(section), dict) for key in line[section]))


def _curve(lines: Sequence[Mapping[str, Any]], *path: str) -> Curve:
    """The finite numbers at a place in the lines."""
    points = []
    for line in lines:
        value: Any = line
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        if isinstance(value, int | float) and math.isfinite(value):
            points.append((line["step"], float(value)))
    return Curve(tuple(step for step, _ in points), tuple(value for _, value in points))


def running_mean(values: Sequence[float], width: int) -> list[float]:
    """Mean of the last `width` values, or of as many as there are."""
    means, total = [], 0.0
    for index, value in enumerate(values):
        total += value - (values[index - width] if index >= width else 0.0)
        means.append(total / min(index + 1, width))
    return means


@dataclass(frozen=True)
class _Panel:
    """One plot.

    Attributes:
        title: above it.
        stacks: of each run, the curves that belong together, by name.
        logarithmic: scale of the values; else it begins at 0.
        marked: points are far apart: they are shown, and the best is named.
    """

    title: str
    stacks: Sequence[Mapping[str, Curve]]
    logarithmic: bool = False
    marked: bool = False

    @property
    def empty(self) -> bool:
        """Whether there is nothing to show."""
        return not any(curve.steps for stack in self.stacks for curve in stack.values())


def _panels(histories: Sequence[History]) -> list[_Panel]:
    """The plots for which any of the runs has something."""
    every = [
        _Panel("loss", [{"": history.loss} for history in histories], logarithmic=True),
        _Panel("AP of evaluations on the way", [{"": history.ap} for history in histories], marked=True),
        _Panel("loss of part affinity fields, by stage", [_stages(h, "pafs") for h in histories], logarithmic=True),
        _Panel("loss of heatmaps, by stage", [_stages(h, "heatmaps") for h in histories], logarithmic=True),
        _Panel("learning rate", [_different(history.rates) for history in histories]),
        _Panel("images/s", [{"": history.speed} for history in histories]),
    ]
    return [panel for panel in every if not panel.empty]


def _stages(history: History, branch: str) -> dict[str, Curve]:
    return {f"stage {stage}": curve for (name, stage), curve in sorted(history.terms.items()) if name == branch}


def _different(rates: Mapping[str, Curve]) -> dict[str, Curve]:
    """The rates of those parts that do not learn as one that follows."""
    last = {curve: name for name, curve in rates.items()}
    return {name: curve for curve, name in last.items()}


def plot_runs(histories: Sequence[History], path: Path) -> None:
    """Draw the curves of runs, one colour a run, into a picture file; what no run logged is left out.

    Raises:
        InputError: the file cannot be written, or its name has an unknown ending.
    """
    panels = _panels(histories)
    rows = -(-len(panels) // 2)
    figure = blank_figure(height=0.6 + 3.6 * rows)
    places = figure.subplots(rows, 2, squeeze=False).ravel()
    for axes, panel in zip(places, panels, strict=False):
        _fill(axes, panel)
    for axes in places[len(panels) :]:
        axes.set_axis_off()
    handles = [places[0].plot([], [], color=_colour(index))[0] for index in range(len(histories))]
    names = [history.name for history in histories]
    save_figure(figure, handles, names, path)


def _colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def _fill(axes: Any, panel: _Panel) -> None:
    for index, stack in enumerate(panel.stacks):
        curves = {name: curve for name, curve in stack.items() if curve.steps}
        for place, curve in enumerate(curves.values(), 1):
            _line(axes, curve, _colour(index), _strength(place, len(curves)), panel.marked)
            if panel.marked:
                _name_best(axes, curve, _colour(index))
    _name_stack(axes, max(panel.stacks, key=len))
    axes.set_title(panel.title, loc="left", fontweight="bold")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    axes.set_xlabel("step")
    axes.margins(x=0.08)
    axes.set_xlim(left=0)
    _scale(axes, panel.logarithmic)


def _strength(place: int, count: int) -> float:
    """Of a curve in a stack: the last one is full, those before it are paler."""
    return 0.3 + 0.7 * place / count


def _line(axes: Any, curve: Curve, colour: str, strength: float, marked: bool) -> None:
    """Draw a curve, and where it has many points their running mean."""
    if marked or len(curve.values) <= SMOOTHED:
        axes.plot(curve.steps, curve.values, color=colour, alpha=strength, marker="o" if marked else None)
        return
    means = running_mean(curve.values, 2 * len(curve.values) // SMOOTHED)
    axes.plot(curve.steps, curve.values, color=colour, alpha=0.25 * strength, linewidth=0.6)
    axes.plot(curve.steps, means, color=colour, alpha=strength)


def _name_best(axes: Any, curve: Curve, colour: str) -> None:
    best = max(curve.values)
    place = (curve.steps[curve.values.index(best)], best)
    axes.annotate(f"{best:.3f}", place, (6, 0), textcoords="offset points", fontsize=8, color=colour, va="center")


def _name_stack(axes: Any, stack: Mapping[str, Curve]) -> None:
    """Say in grey which curve of a stack is how strong."""
    if len(stack) > 1:
        strengths = [_strength(place, len(stack)) for place in range(1, len(stack) + 1)]
        handles = [axes.plot([], [], color="#404040", alpha=strength)[0] for strength in strengths]
        axes.legend(handles, list(stack), loc="upper right", frameon=False, fontsize=8)


def _scale(axes: Any, logarithmic: bool) -> None:
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
@click.option("--out", type=click.Path(path_type=Path), help="Picture file: png, svg, pdf.  [default: RUN/curves.png]")
@reports_input_errors
def main(runs: tuple[Path, ...], out: Path | None) -> None:
    """Draw loss, its stages and branches, learning rate, images/s and AP of one or more runs by step.

    A RUN is a run's folder, or its metrics.jsonl alone.
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
