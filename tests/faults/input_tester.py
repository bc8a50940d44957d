"""Counting how calls on bad input end."""

from __future__ import annotations

import warnings
from collections.abc import Callable

from pipeline.errors import InputError
from tests.faults.report import Findings

LONGEST = 2000
"""Characters of a message, at most; a message that holds the input whole is of no use."""


class Trial:
    """Counts how calls end: each has to succeed, or to raise an InputError in one line."""

    def __init__(self) -> None:
        self.findings = Findings()
        self.accepted = 0

    def run(self, case: str, call: Callable[[], object], *more: Callable[[], str | None]) -> None:
        """Count a case: how the call ends, and what further functions find wrong."""
        problem = self._ending(call)
        for check_more in more:
            problem = problem or check_more()
        self.findings.count(case, problem)

    def _ending(self, call: Callable[[], object]) -> str | None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                call()
        except InputError as error:
            message = str(error)
            if "\n" in message or len(message) > LONGEST:
                return f"{len(message)} characters, {message.count(chr(10))} line breaks: {message[:100]!r}"
            return None
        except Exception as error:
            return f"{type(error).__name__}: {str(error)[:200]}"
        self.accepted += 1
        return None

    def result(self) -> Findings:
        """What was found."""
        self.findings.figures.append(f"{self.accepted:,} accepted, the others refused in one line")
        return self.findings
