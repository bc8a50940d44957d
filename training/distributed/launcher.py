"""Start training processes through MindSpore's msrun, on this machine of one or several, and wait for them."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from pipeline.errors import InputError
from pipeline.system.processes import exit_with_process
from pipeline.system.signals import StopSignal
from training.distributed.environment import LAUNCHER_PID, LOCAL_WORLD_SIZE, OUTPUT_IS_TERMINAL
from training.distributed.hosts import Cluster
from training.distributed.process_monitor import MSRUN_LOG, ProcessMonitor

CLUSTER_TIMEOUT = 600
"""s that workers wait for each other at the start: on a machine that is busy, or on others that are still to start."""


def exit_with_launcher(cluster: Cluster) -> None:
    """What a process that msrun started does first: it ends with the one that launched it.

    The scheduler that msrun starts on every machine with the master's address goes at once if this is not machine 0,
    as where several machines are played on one.
    """
    if os.environ.get("MS_ROLE") == "MS_SCHED" and cluster.host_rank > 0:
        raise SystemExit(0)
    launcher = os.environ.get(LAUNCHER_PID)
    if launcher:
        exit_with_process(int(launcher))


def launch(cluster: Cluster, out: Path, arguments: Sequence[str], signals: StopSignal) -> int:
    """Run `python -m training.train` in this machine's workers.

    Worker N writes OUT/logs/worker_N.log, on one of several machines OUT/logs/node_K/worker_N.log; that of the
    machine's first also goes to this terminal. SIGINT and SIGTERM are passed on to the workers, which save and end.

    Args:
        cluster: the machines.
        out: folder of the run.
        arguments: of the command that each worker runs.
        signals: whether SIGINT or SIGTERM has come.

    Returns:
        The exit code: 0 if every worker ended well, 130 after SIGINT, else that of the worker that failed first; 128 +
        N if signal N killed it.

    Raises:
        InputError: msrun is not there, or the master's port is taken.
    """
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    msrun = shutil.which("msrun", path=path)
    if msrun is None:
        raise InputError("msrun: not found beside Python; it comes with MindSpore: run make setup")
    logs = out / "logs" if cluster.hosts == 1 else out / "logs" / f"node_{cluster.host_rank}"
    options = _msrun_options(cluster, logs)
    logs.mkdir(parents=True, exist_ok=True)
    for old in (*logs.glob("worker_*.log"), logs / "scheduler.log"):
        old.unlink(missing_ok=True)
    # msrun looks up "python" itself, in a PATH that begins with this Python's folder; without -- it would read on
    command = [msrun, *options, "--", "python", "-m", "training.train", *arguments]
    environment = os.environ | {
        "PATH": path,
        "PYTHONUNBUFFERED": "1",
        OUTPUT_IS_TERMINAL: "1" if sys.stderr.isatty() else "0",
        LAUNCHER_PID: str(os.getpid()),
        LOCAL_WORLD_SIZE: str(cluster.processes_per_host),
    }
    with (logs / MSRUN_LOG).open("wb") as log:
        parent = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
        )
    if cluster.hosts > 1:
        click.echo(_announcement(cluster), err=True)
    code = ProcessMonitor(parent, logs, signals, first=cluster.local_ranks[0]).wait_for_workers()
    if code and cluster.hosts > 1 and not signals.number:
        click.echo(f"Where another machine failed first, its logs tell: {logs.parent}/node_*", err=True)
    return code


def _announcement(cluster: Cluster) -> str:
    """Which part of the run this machine has; machine 0 shows how the run goes."""
    first, last = cluster.local_ranks[0], cluster.local_ranks[-1]
    workers = f"worker {first}" if first == last else f"workers {first} to {last}"
    role = "waits for the others" if cluster.host_rank == 0 else f"machine 0, {cluster.master}, tells of the run"
    return f"Machine {cluster.host_rank} of {cluster.hosts}: {workers}; {role}"


def _msrun_options(cluster: Cluster, logs: Path) -> list[str]:
    options = {
        "worker_num": cluster.world_size,
        "local_worker_num": cluster.processes_per_host,
        "join": True,
        "master_addr": cluster.master,
        "master_port": _port(cluster),
        "cluster_time_out": CLUSTER_TIMEOUT,
        "log_dir": logs,
        # a worker that does not exist: the logs are shown from here
        "tail_worker_log": cluster.world_size,
    }
    if cluster.hosts > 1:
        options["node_rank"] = cluster.host_rank
    return [f"--{name}={value}" for name, value in options.items()]


def _port(cluster: Cluster) -> int:
    """The master's port; InputError if this is the master and it is taken."""
    if cluster.port is not None and cluster.host_rank > 0:
        return cluster.port
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((cluster.master, cluster.port or 0))
        except OSError as error:
            raise InputError(
                f"--master-port {cluster.port}: {error.strerror} at {cluster.master}; give another one on all machines"
            ) from error
        port: int = probe.getsockname()[1]
        return port
