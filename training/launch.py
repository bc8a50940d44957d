"""Start several training processes through MindSpore's msrun, wait for them, and leave none behind."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import psutil

from pipeline.errors import InputError
from training.callbacks import WATCHED, StopSignal

GRACE = 600.0
"""s that workers have to save and end after a signal; one that compiles its graph, on a busy machine, takes minutes."""
ERROR_LINES = 15
"""Last lines of a failed worker's log that are shown."""
CLUSTER_TIMEOUT = 120
"""s that workers wait for each other at the start."""
POLL = 0.2
"""s between looks at the workers and their logs."""

_EXIT = re.compile(r"Worker process (\d+) exit with exception\. Error code: (-?\d+)")
_NOISE = re.compile(rb"\[INFO\] DISTRIBUTED\(.*\n")


def launched() -> bool:
    """Whether msrun started this process: a worker, or the scheduler that brings the workers together."""
    return os.environ.get("MS_ROLE") in ("MS_WORKER", "MS_SCHED")


def launch(processes: int, out: Path, arguments: Sequence[str], signals: StopSignal) -> int:
    """Run `python -m training.train` in `processes` workers on this machine.

    Each worker writes OUT/logs/worker_N.log; that of rank 0 also goes to this terminal. SIGINT and SIGTERM are passed
    on to the workers, which save and end.

    Args:
        processes: how many workers.
        out: folder of the run.
        arguments: of the command that each worker runs.
        signals: whether SIGINT or SIGTERM has come.

    Returns:
        The exit code: 0 if every worker ended well, 130 after SIGINT, else that of the worker that failed first; 128 +
        N if signal N killed it.

    Raises:
        InputError: msrun is not there.
    """
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    msrun = shutil.which("msrun", path=path)
    if msrun is None:
        raise InputError("msrun: not found beside Python; it comes with MindSpore: run make setup")
    logs = out / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    for old in (*logs.glob("worker_*.log"), logs / "scheduler.log"):
        old.unlink(missing_ok=True)
    command = [msrun, f"--worker_num={processes}", f"--local_worker_num={processes}", "--join=True"]
    command += [f"--master_port={_free_port()}", f"--cluster_time_out={CLUSTER_TIMEOUT}", f"--log_dir={logs}"]
    # a worker that does not exist: the logs are shown from here
    command += [f"--tail_worker_log={processes}"]
    # msrun looks up "python" itself, in a PATH that begins with this Python's folder
    command += ["python", "-m", "training.train", *arguments]
    watched = "1" if sys.stderr.isatty() else "0"
    environment = os.environ | {"PATH": path, WATCHED: watched, "PYTHONUNBUFFERED": "1"}
    with (logs / "msrun.log").open("wb") as log:
        parent = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
        )
    return Watch(parent, logs, signals).until_the_end()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(frozen=True)
class _Failure:
    """A worker that did not end well: its rank, or None if it was gone too quickly to be known, and its exit code."""

    rank: str | None
    code: int


class Watch:
    """Looks after msrun and its workers until all of them are gone."""

    def __init__(self, parent: subprocess.Popen[bytes], logs: Path, signals: StopSignal) -> None:
        self.parent = parent
        self.logs = logs
        self.signals = signals
        self.family: dict[int, psutil.Process] = {}
        self.ranks: dict[int, str] = {}
        self.told: set[int] = set()
        self.deadline = float("inf")
        self.late = False
        self.shown = 0

    def until_the_end(self) -> int:
        """Show rank 0's log while the workers run; returns the exit code."""
        try:
            # after a failure msrun would wait half a minute for the scheduler to notice
            while self.parent.poll() is None and not self._failure() and not self.late:
                self.late = time.monotonic() > self.deadline
                self._look()
                self._pass_on()
                self._show()
                time.sleep(POLL)
        finally:
            self._end_all()
        self._show(everything=True)
        return self._exit_code()

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
                        self.ranks[process.pid] = environment["RANK_ID"]

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
        """Copy what is new in rank 0's log to the terminal: whole lines, or whatever there is."""
        path = self.logs / "worker_0.log"
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
        text = (self.logs / "msrun.log").read_text(encoding="utf-8", errors="replace")
        match = _EXIT.search(text)
        return _Failure(self.ranks.get(int(match[1])), int(match[2])) if match else None

    def _end_all(self) -> None:
        self._look()
        family = [process for process in self.family.values() if process.is_running()]
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.parent.kill()
        self.parent.wait()
        psutil.wait_procs(family, timeout=10)

    def _exit_code(self) -> int:
        failure, stop = self._failure(), self.signals.number
        if self.late:
            click.echo(
                f"Error: the workers did not end within {GRACE:.0f} s and were killed; logs: {self.logs}", err=True
            )
            return 1
        if failure is None:
            if self.parent.returncode and not stop:
                self._explain("msrun failed", self.logs / "msrun.log")
                return 1
            return 128 + signal.SIGINT if stop == signal.SIGINT else 0
        self._explain_worker(failure)
        return failure.code if failure.code > 0 else 128 - failure.code

    def _explain_worker(self, failure: _Failure) -> None:
        how = f"exit code {failure.code}" if failure.code > 0 else signal.Signals(-failure.code).name
        name = "a worker" if failure.rank is None else f"worker {failure.rank}"
        self._explain(f"{name} ended with {how}", self.logs / f"worker_{failure.rank or 0}.log")

    def _explain(self, what: str, log: Path) -> None:
        """Print what failed and the last lines of its log, unless they were shown already."""
        click.echo(f"Error: {what}; all logs are in {self.logs}", err=True)
        if log.name != "worker_0.log" and log.is_file():
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
            click.echo("\n".join([f"--- {log}", *lines[-ERROR_LINES:]]), err=True)
