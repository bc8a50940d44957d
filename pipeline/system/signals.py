"""SIGINT and SIGTERM as a request to stop at the next step."""

from __future__ import annotations

import signal
import sys
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
"""Signals that ask a run to stop."""


class StopSignal:
    """Which of SIGINT and SIGTERM came, so that a run can save at the next step instead of dying in one.

    They are blocked, and waited for by a thread: with every run of a graph MindSpore installs a handler for SIGINT that
    sends SIGTERM. It has to be made before libraries start threads of their own, which inherit what is blocked.

    Attributes:
        number: of the last signal that came, 0 before.
        count: how many have come.
    """

    def __init__(self) -> None:
        self.number = self.count = 0
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)

    def start_watching(self, answer: str = "Stopping after the next step") -> None:
        """Notice signals from now on, those that came since this object was made included; `answer` is said to each."""
        threading.Thread(target=self._wait, args=(answer,), name="signals", daemon=True).start()

    def _wait(self, answer: str) -> None:
        while True:
            self.number = signal.sigwait(STOP_SIGNALS)
            self.count += 1
            sys.stderr.write(f"\n{answer}\n")
            sys.stderr.flush()
