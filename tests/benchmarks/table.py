"""Format benchmark results as a table, alone or compared with an earlier run."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

ABOUT = "machine"
"""Key of the entry that describes machine, software and data; it holds text, not numbers."""


def flatten(numbers: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Yield (name, number) for every number; nested names are joined by dots."""
    for name, value in numbers.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{prefix}{name}", value


def format_table(numbers: Mapping[str, Any], old: Mapping[str, Any] | None = None) -> str:
    """Format one line per number; with `old`, add the earlier value and the ratio new / old.

    Args:
        numbers: content of bench.json.
        old: content of an earlier bench.json.
    """
    earlier = dict(flatten({name: value for name, value in (old or {}).items() if name != ABOUT}))
    rows = [("", "now", "before", "ratio")] if old else []
    for name, value in flatten({name: value for name, value in numbers.items() if name != ABOUT}):
        before = earlier.get(name)
        ratio = f"{value / before:.2f}" if before else "-"
        rows.append((name, _format_number(value), "-" if before is None else _format_number(before), ratio))
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
    """Return the part of a name before the dot; a blank line separates such groups in the table."""
    head, point, _ = name.partition(".")
    return head if point else ""


def _format_number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
