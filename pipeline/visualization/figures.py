"""The size, colours and file format that all matplotlib figures share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import InputError

COLOURS = ("#3b6ea5", "#d98a3d", "#5a9367", "#a34f6b", "#7b6fb0", "#8a8a8a")


def blank_figure(height: float) -> Any:
    """A figure of the width that all plots have; `height` in inches of 110 px."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, height), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Any, handles: Sequence[Any], names: Sequence[str], path: Path) -> None:
    """Name in a legend above what is compared, and write a figure; InputError as `draw`."""
    figure.legend(handles, names, loc="outside upper center", ncols=3, frameon=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be drawn: {error}") from error
