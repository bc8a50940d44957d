"""What a suite of faults finds, and the table of all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class Findings:
    """What came of a suite.

    Attributes:
        cases: faults tried.
        failures: a line for each that was not met as promised.
        figures: what was measured on the way, each with its unit.
        skipped: why cases were left out, where they could not be tried.
    """

    cases: int = 0
    failures: list[str] = field(default_factory=list)
    figures: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def count(self, case: str, problem: str | None) -> None:
        """Count a case, and what was wrong with it."""
        self.cases += 1
        if problem:
            self.failures.append(f"{case}: {problem}")


@dataclass(frozen=True)
class Line:
    """A line of the table: a promise, the suite that tries it, what it found and the seconds it took."""

    promise: str
    suite: str
    findings: Findings
    seconds: float

    def cells(self) -> tuple[str, ...]:
        """The columns."""
        found = self.findings
        figure = "; ".join([*found.figures, *(f"left out: {reason}" for reason in found.skipped)])
        return self.promise, self.suite, f"{found.cases:,}", str(len(found.failures)), f"{self.seconds:.0f} s", figure


HEAD = ("promise", "suite", "cases", "failures", "time", "figure")


def format_table(lines: Sequence[Line]) -> str:
    """The table in Markdown, columns aligned, as the README carries it."""
    rows = [HEAD, *(line.cells() for line in lines)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    text = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    text.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(text)
