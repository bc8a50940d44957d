"""SIGINT and SIGTERM as requests to stop at the next step."""

from __future__ import annotations

import signal
import sys
import threading

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
"""Signals that request a run to stop."""


class StopSignal:
    """Record of the SIGINT and SIGTERM signals received, so that a run can stop between two steps.

    The signals are blocked, and a thread waits for them with `sigwait`. A Python signal handler would not work:
    MindSpore replaces the handler of SIGINT each time it runs a graph, by one that sends SIGTERM. Create this object
    before any library starts threads, because threads inherit the set of blocked signals.

    Attributes:
        number: number of the last signal received; 0 if none.
        count: number of signals received.
    """

    def __init__(self) -> None:
        self.number = self.count = 0
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)

    def start_watching(self, message: str = "Stopping after the current step") -> None:
        """Record signals from now on, and those pending since this object was created; print `message` for each."""
        threading.Thread(target=self._wait, args=(message,), name="signals", daemon=True).start()

    def _wait(self, message: str) -> None:
        while True:
            self.number = signal.sigwait(STOP_SIGNALS)
            self.count += 1
            sys.stderr.write(f"\n{message}\n")
            sys.stderr.flush()
