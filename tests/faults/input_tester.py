"""Check that calls with invalid input succeed or raise a one-line InputError."""

from __future__ import annotations

import warnings
from collections.abc import Callable

from pipeline.errors import InputError
from tests.faults.report import FaultReport

MAX_MESSAGE_LENGTH = 2000
"""Maximum length of an error message in characters; a message must not repeat the whole input."""


class InputTester:
    """Runs calls and reports every call that neither succeeds nor raises a one-line InputError."""

    def __init__(self) -> None:
        self.report = FaultReport()
        self.accepted = 0

    def run(self, case: str, call: Callable[[], object], *more: Callable[[], str | None]) -> None:
        """Run a case.

        Args:
            case: name of the case in the report.
            call: call to check.
            more: further checks; each returns a description of the problem, or None.
        """
        problem = self._problem(call)
        for check in more:
            problem = problem or check()
        self.report.add_case(case, problem)

    def _problem(self, call: Callable[[], object]) -> str | None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                call()
        except InputError as error:
            message = str(error)
            if "\n" in message or len(message) > MAX_MESSAGE_LENGTH:
                return f"{len(message)} characters, {message.count(chr(10))} line breaks: {message[:100]!r}"
            return None
        except Exception as error:
            return f"{type(error).__name__}: {str(error)[:200]}"
        self.accepted += 1
        return None

    def result(self) -> FaultReport:
        """Return the report of all cases."""
        self.report.figures.append(f"{self.accepted:,} accepted, the others rejected with a one-line error")
        return self.report
