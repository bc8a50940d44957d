"""Supervision of msrun and its workers: copy output, forward signals, report failures, leave no process behind.

msrun (MindSpore 2.8.0) does not do this: after Ctrl-C it exits with code 0, after SIGTERM its workers go on, each in a
session of its own, and after a failed worker it waits half a minute before it ends the others.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import psutil

from pipeline.system.processes import has_ended
from pipeline.system.signals import StopSignal
from training.distributed.environment import LAUNCHER_PID

STOP_TIMEOUT = 600.0
"""Timeout in seconds for the workers to save and end after a signal; compiling a graph can take them minutes."""
SCHEDULER_LOSS_TIMEOUT = 60.0
"""Timeout in seconds for the workers to end after their scheduler has ended; a worker that waits for a lost device may
not end for an hour."""
MAX_ERROR_LINES = 15
"""Number of last lines of a failed worker's log to print."""
POLL_INTERVAL = 0.2
"""Seconds between two checks of the workers and their logs."""
MSRUN_LOG = "msrun.log"

_WORKER_FAILURE = re.compile(r"Worker process (\d+) exit with exception\. Error code: (-?\d+)")
_CONNECTION_INFO = re.compile(rb"\[INFO\] DISTRIBUTED\(.*\n")
_MINDSPORE_LOG_LINE = re.compile(r"\[(?:INFO|WARNING|ERROR|CRITICAL|EXCEPTION)\] ?[A-Z_]+\(\d+[:,]")
_SEPARATOR_LINE = re.compile(r"-{20,}")


def extract_error_lines(text: str) -> list[str]:
    """Return the last lines of a worker's log that help a user to find the cause of a failure.

    MindSpore appends locations in its own source code to its errors, and logs errors that follow from the first. Both
    are removed, unless the log holds nothing else.
    """
    lines = [line for line in text.splitlines() if line.strip()]
    return (list(_without_mindspore_details(lines)) or lines)[-MAX_ERROR_LINES:]


def _without_mindspore_details(lines: list[str]) -> Iterator[str]:
    in_details = False
    for line in lines:
        if "(For framework developers)" in line:
            in_details = True
        elif in_details and not _SEPARATOR_LINE.fullmatch(line) and not line.startswith("mindspore/"):
            in_details = False
        if not in_details and not _SEPARATOR_LINE.fullmatch(line) and not _MINDSPORE_LOG_LINE.match(line):
            yield line


@dataclass(frozen=True)
class _Failure:
    """A failed worker.

    Attributes:
        rank: rank of the worker; None if it ended before its rank could be read.
        code: exit code; -N if signal N killed it.
    """

    rank: int | None
    code: int


class ProcessMonitor:
    """Supervises msrun and its workers until all of them have ended.

    Args:
        msrun: the process of msrun.
        logs: folder with the logs of msrun and of the workers.
        signals: SIGINT and SIGTERM received by this process.
        first_rank: rank of the first worker on this machine, whose log is copied to the terminal.
    """

    def __init__(self, msrun: subprocess.Popen[bytes], logs: Path, signals: StopSignal, first_rank: int = 0) -> None:
        self.msrun = msrun
        self.logs = logs
        self.signals = signals
        self.first_rank = first_rank
        self.descendants: dict[int, psutil.Process] = {}
        self.ranks: dict[int, int] = {}
        self.signalled: set[int] = set()
        self.scheduler: psutil.Process | None = None
        self.stop_deadline = self.scheduler_loss_deadline = float("inf")
        self.timed_out = False
        self.copied_bytes = 0

    def wait_for_workers(self) -> int:
        """Copy the log of the first worker to the terminal until all workers have ended; return the exit code."""
        try:
            while self.msrun.poll() is None and self._should_wait():
                self._find_descendants()
                self._forward_signal()
                self._copy_log()
                time.sleep(POLL_INTERVAL)
        finally:
            self._kill_all()
        self._copy_log(partial_line=True)
        return self._exit_code()

    def _should_wait(self) -> bool:
        """Return False after a failure, a timeout or a second signal; after a failure msrun would wait another 30 s."""
        now = time.monotonic()
        self.timed_out = now > self.stop_deadline
        if self.scheduler is not None and has_ended(self.scheduler):
            self.scheduler_loss_deadline = min(self.scheduler_loss_deadline, now + SCHEDULER_LOSS_TIMEOUT)
        scheduler_lost = now > self.scheduler_loss_deadline
        return not (self._first_failure() or self.timed_out or scheduler_lost or self.signals.count > 1)

    def _find_descendants(self) -> None:
        """Record every descendant of msrun: each worker is in a session of its own and would outlive msrun."""
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in psutil.Process(self.msrun.pid).children(recursive=True):
                self.descendants.setdefault(process.pid, process)
        for process in self.descendants.values():
            if process.pid not in self.ranks:
                with contextlib.suppress(psutil.Error):
                    environment = process.environ()
                    if environment.get("MS_ROLE") == "MS_WORKER":
                        self.ranks[process.pid] = int(environment["RANK_ID"])
                    elif environment.get("MS_ROLE") == "MS_SCHED" and self.first_rank == 0:  # only machine 0 needs one
                        self.scheduler = process

    def _forward_signal(self) -> None:
        """Send the last received signal to every worker that has not got it yet."""
        if not self.signals.number:
            return
        self.stop_deadline = min(self.stop_deadline, time.monotonic() + STOP_TIMEOUT)
        for pid in self.ranks.keys() - self.signalled:
            self.signalled.add(pid)
            with contextlib.suppress(psutil.NoSuchProcess):
                self.descendants[pid].send_signal(self.signals.number)

    def _copy_log(self, partial_line: bool = False) -> None:
        """Copy new lines of the first worker's log to the terminal; with `partial_line`, an incomplete one as well."""
        path = worker_log(self.logs, self.first_rank)
        if not path.is_file():
            return
        with path.open("rb") as log:
            log.seek(self.copied_bytes)
            text = log.read()
        if not partial_line:
            text = text[: max(text.rfind(b"\n"), text.rfind(b"\r")) + 1]
        self.copied_bytes += len(text)
        sys.stderr.write(_CONNECTION_INFO.sub(b"", text).decode("utf-8", errors="replace"))
        sys.stderr.flush()

    def _first_failure(self) -> _Failure | None:
        """Return the worker that failed first according to the log of msrun."""
        match = _WORKER_FAILURE.search(_read(self.logs / MSRUN_LOG))
        return _Failure(self.ranks.get(int(match[1])), int(match[2])) if match else None

    def _kill_all(self) -> None:
        self._find_descendants()
        self.msrun.kill()
        self.msrun.wait()
        # a worker that msrun started just before it ended was never seen as its child
        strays = {process.pid: process for process in psutil.process_iter() if _was_launched_here(process)}
        running = [process for process in (self.descendants | strays).values() if process.is_running()]
        for process in running:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(running, timeout=10)

    def _exit_code(self) -> int:
        """Report why the workers ended, unless they succeeded; return the exit code."""
        failure, stop = self._first_failure(), self.signals.number
        if self.timed_out:
            click.echo(
                f"Error: the workers did not end within {STOP_TIMEOUT:.0f} s and were killed; logs: {self.logs}",
                err=True,
            )
            return 1
        if self.signals.count > 1:
            click.echo("Killed; continue from the last checkpoint with --resume", err=True)
            return 128 + stop
        if failure is None and time.monotonic() > self.scheduler_loss_deadline:
            self._report_failure("the scheduler ended before the workers", self.logs / "scheduler.log")
            return 1
        if failure is None:
            if self.msrun.returncode and not stop:
                self._report_failure("msrun failed", self.logs / MSRUN_LOG)
                return 1
            return 128 + signal.SIGINT if stop == signal.SIGINT else 0
        self._report_worker_failure(failure)
        return failure.code if failure.code > 0 else 128 - failure.code

    def _report_worker_failure(self, failure: _Failure) -> None:
        cause = f"exit code {failure.code}" if failure.code > 0 else signal.Signals(-failure.code).name
        name = "a worker" if failure.rank is None else f"worker {failure.rank}"
        rank = self.first_rank if failure.rank is None else failure.rank
        self._report_failure(f"{name} ended with {cause}", worker_log(self.logs, rank))

    def _report_failure(self, what: str, log: Path) -> None:
        """Print what failed and the last lines of its log, unless that log was copied to the terminal already."""
        click.echo(f"Error: {what}; all logs are in {self.logs}", err=True)
        if log != worker_log(self.logs, self.first_rank) and log.is_file():
            click.echo("\n".join([f"--- {log}", *extract_error_lines(_read(log))]), err=True)


def _was_launched_here(process: psutil.Process) -> bool:
    """Return True if this process launched `process` through msrun."""
    try:
        return process.environ().get(LAUNCHER_PID) == str(os.getpid())
    except (psutil.Error, OSError):
        return False


def worker_log(logs: Path, rank: int) -> Path:
    """Return the path of a worker's log; msrun defines the name."""
    return logs / f"worker_{rank}.log"


def _read(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")
