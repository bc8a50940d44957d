"""Start the training processes of this machine through MindSpore's msrun, and wait until they end."""

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
"""Timeout in seconds for all workers to connect; long, because other machines may start later or be busy."""


def exit_with_launcher(cluster: Cluster) -> None:
    """Make this process, which msrun started, exit when its launcher exits.

    msrun starts a scheduler on every machine that has the master's address. Only that of machine 0 is needed; a second
    one, as in a test that runs two machines on one, exits here at once.
    """
    if os.environ.get("MS_ROLE") == "MS_SCHED" and cluster.host_rank > 0:
        raise SystemExit(0)
    launcher = os.environ.get(LAUNCHER_PID)
    if launcher:
        exit_with_process(int(launcher))


def launch(cluster: Cluster, out: Path, arguments: Sequence[str], signals: StopSignal) -> int:
    """Run `python -m training.train` in every worker of this machine.

    Worker N writes its output to OUT/logs/worker_N.log, or to OUT/logs/node_K/worker_N.log if there are several
    machines. The output of the machine's first worker is also copied to the terminal. SIGINT and SIGTERM are forwarded
    to the workers, which save a checkpoint and end.

    Args:
        cluster: the machines.
        out: folder of the run.
        arguments: Command-line arguments of `training.train` for each worker.
        signals: SIGINT and SIGTERM received by this process.

    Returns:
        The exit code: 0 if every worker succeeded, 130 after SIGINT, else that of the worker that failed first, which
        is 128 + N if signal N killed it.

    Raises:
        InputError: msrun is not installed, or the port of the master is in use.
    """
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    msrun = shutil.which("msrun", path=path)
    if msrun is None:
        raise InputError("msrun: not found; it is part of MindSpore, so install the dependencies with: make setup")
    logs = out / "logs" if cluster.hosts == 1 else out / "logs" / f"node_{cluster.host_rank}"
    options = _msrun_options(cluster, logs)
    logs.mkdir(parents=True, exist_ok=True)
    for old in (*logs.glob("worker_*.log"), logs / "scheduler.log"):
        old.unlink(missing_ok=True)
    # msrun finds "python" through PATH, which begins with the folder of this interpreter; "--" ends msrun's own options
    command = [msrun, *options, "--", "python", "-m", "training.train", *arguments]
    environment = os.environ | {
        "PATH": path,
        "PYTHONUNBUFFERED": "1",
        OUTPUT_IS_TERMINAL: "1" if sys.stderr.isatty() else "0",
        LAUNCHER_PID: str(os.getpid()),
        LOCAL_WORLD_SIZE: str(cluster.processes_per_host),
    }
    with (logs / MSRUN_LOG).open("wb") as log:
        msrun_process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
        )
    if cluster.hosts > 1:
        click.echo(_describe_role(cluster), err=True)
    code = ProcessMonitor(msrun_process, logs, signals, first_rank=cluster.local_ranks[0]).wait_for_workers()
    if code and cluster.hosts > 1 and not signals.number:
        click.echo(f"Another machine may have failed first; see its logs in {logs.parent}/node_*", err=True)
    return code


def _describe_role(cluster: Cluster) -> str:
    """Return one line with the workers of this machine, and where the progress of the run is shown."""
    first, last = cluster.local_ranks[0], cluster.local_ranks[-1]
    workers = f"worker {first}" if first == last else f"workers {first} to {last}"
    if cluster.host_rank == 0:
        role = "waiting for the other machines"
    else:
        role = f"progress is shown on machine 0, {cluster.master}"
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
        # the rank of no worker: msrun shall print no log, because ProcessMonitor does
        "tail_worker_log": cluster.world_size,
    }
    if cluster.hosts > 1:
        options["node_rank"] = cluster.host_rank
    return [f"--{name}={value}" for name, value in options.items()]


def _port(cluster: Cluster) -> int:
    """Return the port of the master. On the master itself, raise InputError if the port is in use."""
    if cluster.port is not None and cluster.host_rank > 0:
        return cluster.port
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((cluster.master, cluster.port or 0))
        except OSError as error:
            raise InputError(
                f"--master-port {cluster.port}: {error.strerror} at {cluster.master}; give another port on all machines"
            ) from error
        port: int = probe.getsockname()[1]
        return port
