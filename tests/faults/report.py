"""Result of a fault suite, and the table with the results of all suites."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class FaultReport:
    """Result of a suite.

    Attributes:
        cases: number of cases that were run.
        failures: one line per failed case.
        figures: measured numbers with their units.
        skipped: reasons why cases could not be run.
    """

    cases: int = 0
    failures: list[str] = field(default_factory=list)
    figures: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def add_case(self, case: str, problem: str | None) -> None:
        """Count a case; `problem` describes its failure, or is None if it passed."""
        self.cases += 1
        if problem:
            self.failures.append(f"{case}: {problem}")


@dataclass(frozen=True)
class TableRow:
    """A row of the table: area of the project, suite, its result, and its run time in seconds."""

    area: str
    suite: str
    report: FaultReport
    seconds: float

    def cells(self) -> tuple[str, ...]:
        """Return the text of each column."""
        report = self.report
        figure = "; ".join([*report.figures, *(f"skipped: {reason}" for reason in report.skipped)])
        return self.area, self.suite, f"{report.cases:,}", str(len(report.failures)), f"{self.seconds:.0f} s", figure

    def to_json(self) -> dict[str, Any]:
        """Return the row as an entry of the JSON file."""
        return {"promise": self.area, "suite": self.suite, "findings": asdict(self.report), "seconds": self.seconds}


TABLE_HEADER = ("area", "suite", "cases", "failures", "time", "figures")


def format_table(lines: Sequence[TableRow]) -> str:
    """Format a Markdown table with aligned columns, as in the README."""
    rows = [TABLE_HEADER, *(line.cells() for line in lines)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(TABLE_HEADER))]
    text = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    text.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(text)
