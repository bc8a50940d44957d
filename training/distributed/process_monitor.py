"""Look after msrun and its workers: show what they say, pass signals on, explain a failure, leave none behind."""

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

from pipeline.system.signals import StopSignal
from training.distributed.environment import LAUNCHER_PID

GRACE = 600.0
"""s that workers have to save and end after a signal; one that compiles its graph, on a busy machine, takes minutes."""
MAX_ERROR_LINES = 15
"""Last lines of a failed worker's log that are shown."""
ALONE = 60.0
"""s that workers have to end once their scheduler is gone; those that wait for a lost device might not for an hour."""
POLL = 0.2
"""s between looks at the workers and their logs."""
MSRUN_LOG = "msrun.log"

_EXIT = re.compile(r"Worker process (\d+) exit with exception\. Error code: (-?\d+)")
_NOISE = re.compile(rb"\[INFO\] DISTRIBUTED\(.*\n")
_MINDSPORES = re.compile(r"\[(?:INFO|WARNING|ERROR|CRITICAL|EXCEPTION)\] ?[A-Z_]+\(\d+[:,]")
_RULE = re.compile(r"-{20,}")


def extract_error_lines(text: str) -> list[str]:
    """The last lines of a worker's log that tell a person what went wrong.

    MindSpore appends the place in its own sources to its errors, and logs what follows from them; both are left out
    unless nothing else is there.
    """
    lines = [line for line in text.splitlines() if line.strip()]
    return (list(_of_people(lines)) or lines)[-MAX_ERROR_LINES:]


def _of_people(lines: list[str]) -> Iterator[str]:
    inside = False
    for line in lines:
        if "(For framework developers)" in line:
            inside = True
        elif inside and not _RULE.fullmatch(line) and not line.startswith("mindspore/"):
            inside = False
        if not inside and not _RULE.fullmatch(line) and not _MINDSPORES.match(line):
            yield line


@dataclass(frozen=True)
class _Failure:
    """A worker that did not end well: its rank, or None if it was gone too quickly to be known, and its exit code."""

    rank: int | None
    code: int


class ProcessMonitor:
    """Looks after msrun and its workers until all of them are gone.

    Args:
        parent: msrun.
        logs: folder of its log and of the workers'.
        signals: whether SIGINT or SIGTERM has come.
        first: rank of the first worker on this machine, whose log goes to the terminal.
    """

    def __init__(self, parent: subprocess.Popen[bytes], logs: Path, signals: StopSignal, first: int = 0) -> None:
        self.parent = parent
        self.logs = logs
        self.signals = signals
        self.first = first
        self.family: dict[int, psutil.Process] = {}
        self.ranks: dict[int, int] = {}
        self.told: set[int] = set()
        self.scheduler: psutil.Process | None = None
        self.deadline = self.alone = float("inf")
        self.late = False
        self.shown = 0

    def wait_for_workers(self) -> int:
        """Show the first worker's log while the workers run; returns the exit code."""
        try:
            while self.parent.poll() is None and self._may_go_on():
                self._look()
                self._pass_on()
                self._show()
                time.sleep(POLL)
        finally:
            self._end_all()
        self._show(everything=True)
        return self._exit_code()

    def _may_go_on(self) -> bool:
        """Whether there is something to wait for; after a failure msrun itself would wait half a minute."""
        now = time.monotonic()
        self.late = now > self.deadline
        if _is_gone(self.scheduler):
            self.alone = min(self.alone, now + ALONE)
        return not (self._failure() or self.late or now > self.alone or self.signals.count > 1)

    def _look(self) -> None:
        """Remember every descendant: a worker has a session of its own and would outlive msrun."""
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in psutil.Process(self.parent.pid).children(recursive=True):
                self.family.setdefault(process.pid, process)
        for process in self.family.values():
            if process.pid not in self.ranks:
                with contextlib.suppress(psutil.Error):
                    environment = process.environ()
                    if environment.get("MS_ROLE") == "MS_WORKER":
                        self.ranks[process.pid] = int(environment["RANK_ID"])
                    elif environment.get("MS_ROLE") == "MS_SCHED" and self.first == 0:  # others leave that to machine 0
                        self.scheduler = process

    def _pass_on(self) -> None:
        """Send the signal that came, if any, to every worker that has not got it yet."""
        if not self.signals.number:
            return
        self.deadline = min(self.deadline, time.monotonic() + GRACE)
        for pid in self.ranks.keys() - self.told:
            self.told.add(pid)
            with contextlib.suppress(psutil.NoSuchProcess):
                self.family[pid].send_signal(self.signals.number)

    def _show(self, everything: bool = False) -> None:
        """Copy what is new in the first worker's log to the terminal: whole lines, or whatever there is."""
        path = worker_log(self.logs, self.first)
        if not path.is_file():
            return
        with path.open("rb") as log:
            log.seek(self.shown)
            text = log.read()
        if not everything:
            text = text[: max(text.rfind(b"\n"), text.rfind(b"\r")) + 1]
        self.shown += len(text)
        sys.stderr.write(_NOISE.sub(b"", text).decode("utf-8", errors="replace"))
        sys.stderr.flush()

    def _failure(self) -> _Failure | None:
        """The worker of which msrun says that it failed first."""
        match = _EXIT.search(_read(self.logs / MSRUN_LOG))
        return _Failure(self.ranks.get(int(match[1])), int(match[2])) if match else None

    def _end_all(self) -> None:
        self._look()
        self.parent.kill()
        self.parent.wait()
        # where msrun ended just after it had started a worker, nobody saw whose child that was
        strays = {process.pid: process for process in psutil.process_iter() if _launched_here(process)}
        family = [process for process in (self.family | strays).values() if process.is_running()]
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(family, timeout=10)

    def _exit_code(self) -> int:
        failure, stop = self._failure(), self.signals.number
        if self.late:
            click.echo(
                f"Error: the workers did not end within {GRACE:.0f} s and were killed; logs: {self.logs}", err=True
            )
            return 1
        if self.signals.count > 1:
            click.echo("Killed; the run goes on from its last checkpoint with --resume", err=True)
            return 128 + stop
        if failure is None and time.monotonic() > self.alone:
            self._explain("the scheduler ended before the workers", self.logs / "scheduler.log")
            return 1
        if failure is None:
            if self.parent.returncode and not stop:
                self._explain("msrun failed", self.logs / MSRUN_LOG)
                return 1
            return 128 + signal.SIGINT if stop == signal.SIGINT else 0
        self._explain_worker(failure)
        return failure.code if failure.code > 0 else 128 - failure.code

    def _explain_worker(self, failure: _Failure) -> None:
        how = f"exit code {failure.code}" if failure.code > 0 else signal.Signals(-failure.code).name
        name = "a worker" if failure.rank is None else f"worker {failure.rank}"
        rank = self.first if failure.rank is None else failure.rank
        self._explain(f"{name} ended with {how}", worker_log(self.logs, rank))

    def _explain(self, what: str, log: Path) -> None:
        """Print what failed and the last lines of its log, unless they were shown already."""
        click.echo(f"Error: {what}; all logs are in {self.logs}", err=True)
        if log != worker_log(self.logs, self.first) and log.is_file():
            click.echo("\n".join([f"--- {log}", *extract_error_lines(_read(log))]), err=True)


def _launched_here(process: psutil.Process) -> bool:
    """Whether this process launched that one through msrun."""
    try:
        return process.environ().get(LAUNCHER_PID) == str(os.getpid())
    except (psutil.Error, OSError):
        return False


def worker_log(logs: Path, rank: int) -> Path:
    """Where a worker's output goes; msrun names it so."""
    return logs / f"worker_{rank}.log"


def _is_gone(process: psutil.Process | None) -> bool:
    """Whether a process was there and has ended; its parent need not have noticed."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process is not None and process.status() == psutil.STATUS_ZOMBIE
    return True


def _read(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")
