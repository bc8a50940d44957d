"""Start several training processes through MindSpore's msrun, wait for them, and leave none behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import click
import psutil

from pipeline.errors import InputError

GRACE = 60.0
"""s that workers have to save and end after a signal."""
ERROR_LINES = 15
"""Last lines of a failed worker's log that are shown."""
CLUSTER_TIMEOUT = 120
"""s that workers wait for each other at the start."""


def launched() -> bool:
    """Whether msrun started this process as one of several."""
    return os.environ.get("MS_ROLE") == "MS_WORKER"


def launch(processes: int, out: Path) -> int:
    """Run this very command in `processes` workers on this machine.

    Each worker writes OUT/logs/worker_N.log; that of rank 0 also goes to this terminal. SIGINT and SIGTERM are passed
    on to the workers, which save and end.

    Returns:
        The exit code: 0 if every worker ended well, 130 after SIGINT, else that of the failure.

    Raises:
        InputError: msrun is not there.
    """
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    msrun = shutil.which("msrun", path=path)
    if msrun is None:
        raise InputError("msrun: not found beside Python; it comes with MindSpore: run make setup")
    logs = out / "logs"
    shutil.rmtree(logs, ignore_errors=True)
    logs.mkdir(parents=True)
    command = [msrun, f"--worker_num={processes}", f"--local_worker_num={processes}", "--join=True"]
    command += [f"--master_port={_free_port()}", f"--cluster_time_out={CLUSTER_TIMEOUT}", f"--log_dir={logs}"]
    # msrun looks up "python" itself, in a PATH that begins with this Python's folder
    command += ["python", "-m", "training.train", *sys.argv[1:]]
    watched = "1" if sys.stderr.isatty() else "0"
    environment = os.environ | {"PATH": path, "PROGRESS_WATCHED": watched, "PYTHONUNBUFFERED": "1"}
    with (logs / "msrun.log").open("wb") as log:
        parent = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
        )
    return _Watch(parent, logs).until_the_end()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class _Watch:
    """Looks after msrun and its workers until all of them are gone."""

    def __init__(self, parent: subprocess.Popen[bytes], logs: Path) -> None:
        self.parent = parent
        self.logs = logs
        self.family: dict[int, psutil.Process] = {}
        self.signal = 0
        self.deadline = float("inf")

    def until_the_end(self) -> int:
        """Show rank 0's log while the workers run; returns the exit code."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._pass_on)
        shown = 0
        try:
            while self.parent.poll() is None and time.monotonic() < self.deadline:
                self._look()
                shown = self._show(shown)
                time.sleep(0.2)
            self._show(shown)
        finally:
            self._end_all()
        return self._exit_code()

    def _look(self) -> None:
        """Remember every descendant: a worker has a session of its own and would outlive msrun."""
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in psutil.Process(self.parent.pid).children(recursive=True):
                self.family.setdefault(process.pid, process)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        self.deadline = min(self.deadline, time.monotonic() + GRACE)
        self._look()
        for process in self._workers():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def _workers(self) -> Iterator[psutil.Process]:
        for process in self.family.values():
            with contextlib.suppress(psutil.Error):
                if process.is_running() and process.environ().get("MS_ROLE") == "MS_WORKER":
                    yield process

    def _show(self, shown: int) -> int:
        """Copy what is new in rank 0's log to the terminal; returns how far it has been shown."""
        path = self.logs / "worker_0.log"
        if not path.is_file():
            return shown
        with path.open("rb") as log:
            log.seek(shown)
            text = log.read()
        sys.stderr.write(text.decode("utf-8", errors="replace"))
        sys.stderr.flush()
        return shown + len(text)

    def _end_all(self) -> None:
        self._look()
        family = [process for process in self.family.values() if process.is_running()]
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(family, timeout=10)
        self.parent.kill()
        self.parent.wait()

    def _exit_code(self) -> int:
        if self.signal:
            return 128 + signal.SIGINT if self.signal == signal.SIGINT else 0
        if self.parent.returncode == 0:
            return 0
        self._explain()
        return 1

    def _explain(self) -> None:
        """Print the last lines of the logs that tell what went wrong, other than rank 0's, which was shown."""
        click.echo(f"Error: a worker failed; all logs are in {self.logs}", err=True)
        for log in sorted(self.logs.glob("worker_*.log")):
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
            if log.name != "worker_0.log" and any("Error" in line for line in lines):
                click.echo(f"--- {log}", err=True)
                click.echo("\n".join(lines[-ERROR_LINES:]), err=True)
                return
