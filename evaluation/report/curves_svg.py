"""Precision by recall as an SVG that takes its colours from the page."""

from __future__ import annotations

import numpy as np

from evaluation.scoring.analysis.arrays import Floats
from evaluation.scoring.analysis.matching import RECALLS, Curves

WIDTH, HEIGHT = 480, 340
LEFT, RIGHT, TOP, BOTTOM = 52, 72, 14, 40
NAMED = (0.5, 0.75, 0.95)
"""OKS whose curves stand out."""
_LINE = 15.0
"""px between names at least."""


def draw_curves(curves: Curves, thresholds: Floats) -> str:
    """An SVG of one curve a threshold; those of NAMED are strong and have their OKS beside them."""
    named = [int(np.abs(thresholds - at).argmin()) for at in NAMED]
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="precision by recall at ten OKS">']
    parts += _axes()
    for row in [*(i for i in range(len(thresholds)) if i not in named), *named]:
        if curves.recall[row] >= 0:
            kind = "curve main" if row in named else "curve"
            parts.append(f'<path class="{kind}" d="{_path(curves.precision[row])}"/>')
    parts += _names([row for row in named if curves.recall[row] >= 0], curves, thresholds)
    return "".join([*parts, "</svg>"])


def _x(recall: float) -> float:
    return LEFT + recall * (WIDTH - LEFT - RIGHT)


def _y(precision: float) -> float:
    return TOP + (1 - precision) * (HEIGHT - TOP - BOTTOM)


def _axes() -> list[str]:
    parts = []
    for tick in (0, 0.25, 0.5, 0.75, 1):
        x, y = _x(tick), _y(tick)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{_x(1):.1f}M{x:.1f} {TOP}V{_y(0):.1f}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
        parts.append(f'<text x="{x:.1f}" y="{_y(0) + 18:.1f}" text-anchor="middle">{tick:g}</text>')
    parts.append(f'<text x="{_x(0.5):.1f}" y="{HEIGHT - 5}" text-anchor="middle">recall</text>')
    at = f"11 {_y(0.5):.1f}"
    parts.append(f'<text transform="translate({at}) rotate(-90)" text-anchor="middle">precision</text>')
    return parts


def _path(precision: Floats) -> str:
    """The curve down to the axis, and not along it."""
    shown = min(int(np.count_nonzero(precision > 0)) + 1, len(precision))
    points = [f"{_x(x):.1f} {_y(y):.1f}" for x, y in zip(RECALLS[:shown], precision[:shown], strict=True)]
    return "M" + "L".join(points)


def _names(rows: list[int], curves: Curves, thresholds: Floats) -> list[str]:
    """Each curve's OKS beside the end from which it falls to the axis, pushed apart where they would overlap."""
    ends = sorted((_end(curves.precision[row]), row) for row in rows)
    ends.sort(key=lambda end: end[0][1])
    parts, lowest = [], -_LINE
    for (x, y), row in ends:
        lowest = max(y + 4, lowest + _LINE)
        parts.append(f'<text class="name" x="{x + 6:.1f}" y="{lowest:.1f}">OKS {thresholds[row]:.2f}</text>')
    return parts


def _end(precision: Floats) -> tuple[float, float]:
    """x, y of the last recall with any precision."""
    reached = np.flatnonzero(precision > 0)
    last = int(reached[-1]) if len(reached) else 0
    return _x(float(RECALLS[last])), _y(float(precision[last]))
