"""Size, colours and output of matplotlib figures, so that `pipeline.stats` and `training.plot` look alike."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import InputError

COLOURS = ("#3b6ea5", "#d98a3d", "#5a9367", "#a34f6b", "#7b6fb0", "#8a8a8a")


def blank_figure(height: float) -> Any:
    """Create an empty figure of the common width; `height` is in inches of 110 px."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, height), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Any, handles: Sequence[Any], names: Sequence[str], path: Path) -> None:
    """Add a legend above the plots and write the figure.

    Raises:
        InputError: the file cannot be written, or its suffix is not an image format.
    """
    figure.legend(handles, names, loc="outside upper center", ncols=3, frameon=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot write the figure: {error}") from error
