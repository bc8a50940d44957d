"""The benchmark's numbers as lines of text, alone or beside those of an earlier run."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

ABOUT = "machine"
"""The entry that says what was measured on and with, rather than a number."""


def flat(numbers: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Every number with its name, nested names joined by points."""
    for name, value in numbers.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{prefix}{name}", value


def format_table(numbers: Mapping[str, Any], old: Mapping[str, Any] | None = None) -> str:
    """One line a number; with `old`, its earlier value and how many times that the new one is.

    Args:
        numbers: what bench.json holds.
        old: what an earlier bench.json holds.
    """
    earlier = dict(flat({name: value for name, value in (old or {}).items() if name != ABOUT}))
    rows = [("", "now", "before", "ratio")] if old else []
    for name, value in flat({name: value for name, value in numbers.items() if name != ABOUT}):
        before = earlier.get(name)
        ratio = f"{value / before:.2f}" if before else "-"
        rows.append((name, _short(value), "-" if before is None else _short(before), ratio))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    columns = 4 if old else 2
    lines: list[str] = []
    for before, row in itertools.pairwise([rows[0], *rows]):
        if _group(before[0]) != _group(row[0]):
            lines.append("")
        cells = zip(row[1:columns], widths[1:], strict=False)
        lines.append("  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in cells)]))
    return "\n".join(lines)


def _group(name: str) -> str:
    """Names with a point belong to what stands before it; blank lines set such groups apart."""
    head, point, _ = name.partition(".")
    return head if point else ""


def _short(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
