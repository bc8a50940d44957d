"""Precision-recall curves as SVG; style.css defines the colours."""

from __future__ import annotations

import numpy as np

from evaluation.scoring.analysis.arrays import Floats
from evaluation.scoring.analysis.matching import RECALL_LEVELS, PrecisionRecall

WIDTH, HEIGHT = 480, 340
LEFT, RIGHT, TOP, BOTTOM = 52, 72, 14, 40
HIGHLIGHTED_OKS = (0.5, 0.75, 0.95)
"""OKS thresholds whose curves are highlighted and labelled."""
_MIN_LABEL_DISTANCE = 15.0
"""Minimum vertical distance between labels in px."""


def draw_curves(curves: PrecisionRecall, thresholds: Floats) -> str:
    """Return an SVG with one curve for each threshold; the curves of HIGHLIGHTED_OKS are labelled."""
    highlighted = [int(np.abs(thresholds - oks).argmin()) for oks in HIGHLIGHTED_OKS]
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="precision-recall curves at ten OKS thresholds">'
    ]
    parts += _axes()
    for row in [*(i for i in range(len(thresholds)) if i not in highlighted), *highlighted]:
        if curves.recall[row] >= 0:
            css_class = "curve main" if row in highlighted else "curve"
            parts.append(f'<path class="{css_class}" d="{_path(curves.precision[row])}"/>')
    parts += _labels([row for row in highlighted if curves.recall[row] >= 0], curves, thresholds)
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
    """Return the SVG path of a curve, up to the first recall with a precision of 0."""
    shown = min(int(np.count_nonzero(precision > 0)) + 1, len(precision))
    points = [f"{_x(x):.1f} {_y(y):.1f}" for x, y in zip(RECALL_LEVELS[:shown], precision[:shown], strict=True)]
    return "M" + "L".join(points)


def _labels(rows: list[int], curves: PrecisionRecall, thresholds: Floats) -> list[str]:
    """Return the label of each curve at its last positive precision, moved down if labels would overlap."""
    ends = sorted((_last_point(curves.precision[row]), row) for row in rows)
    ends.sort(key=lambda end: end[0][1])
    parts, text_y = [], -_MIN_LABEL_DISTANCE
    for (x, y), row in ends:
        text_y = max(y + 4, text_y + _MIN_LABEL_DISTANCE)
        parts.append(f'<text class="name" x="{x + 6:.1f}" y="{text_y:.1f}">OKS {thresholds[row]:.2f}</text>')
    return parts


def _last_point(precision: Floats) -> tuple[float, float]:
    """Return x, y of the last recall with a positive precision."""
    reached = np.flatnonzero(precision > 0)
    last = int(reached[-1]) if len(reached) else 0
    return _x(float(RECALL_LEVELS[last])), _y(float(precision[last]))
