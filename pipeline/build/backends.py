"""Where the tasks of a build run: in processes of this machine, or on the workers of a Dask cluster.

Both are joblib's backends. A cluster's workers read the pictures and write the shards themselves, so sources and
output have to be on a file system that all of them mount at the same place; that is checked before anything is planned.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import InputError

_CONTINUES = "the same command continues with the missing shards"
_ADDRESS = re.compile(r"(\w+://)?[^\s:/]+:\d+")

CONNECT_TIMEOUT = 10
"""How long a scheduler may take to answer, and after that a first worker to be there."""

STALL_TIMEOUT = 600.0
"""A cluster that finishes no shard for so long is given up."""


@contextlib.contextmanager
def dask_cluster(scheduler: str, folders: Sequence[Path], out: Path) -> Iterator[int]:
    """Let joblib run its tasks on a Dask cluster.

    Args:
        scheduler: its address, HOST:PORT.
        folders: absolute paths that every worker has to see.
        out: absolute path where every worker has to write; is made.

    Yields:
        The number of tasks that the cluster runs at once.

    Raises:
        InputError: Dask is not installed, nobody answers, there is no worker, or one of them does not see a folder.
    """
    try:
        from distributed import Client
        from joblib import parallel_config
    except ImportError:
        raise InputError("--backend dask: Dask is not installed: pip install .[cluster]") from None
    for name in ("distributed", "distributed.client"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what goes wrong is said in one line, by us
    if not _ADDRESS.fullmatch(scheduler):
        raise InputError(f"--scheduler {scheduler}: expected HOST:PORT, such as 10.0.0.1:8786")
    try:
        client: Any = Client(scheduler, timeout=CONNECT_TIMEOUT, set_as_default=False)  # type: ignore[no-untyped-call]
    except OSError:
        raise InputError(
            f"--scheduler {scheduler}: no Dask scheduler answers there within {CONNECT_TIMEOUT} s"
        ) from None
    with client:
        try:
            client.wait_for_workers(1, timeout=CONNECT_TIMEOUT)
        except TimeoutError:
            raise InputError(
                f"--scheduler {scheduler}: no worker is there after {CONNECT_TIMEOUT} s: start some in this project's "
                f"folder by python -m dask worker {scheduler}"
            ) from None
        _check_scheduler(client, scheduler)
        _check_workers(client, folders, out)
        with parallel_config("dask", client=client):
            yield sum(client.nthreads().values())


def stall_timeout() -> float | None:
    """How long to wait for a next finished shard: a cluster that has lost all its workers waits for new ones."""
    from joblib.parallel import get_active_backend

    backend, _ = get_active_backend()
    return STALL_TIMEOUT if type(backend).__name__ == "DaskDistributedBackend" else None


@contextlib.contextmanager
def worker_failures_as_input_errors(out: Path) -> Iterator[None]:
    """Turn what joblib raises when workers die, or a cluster goes away, into an InputError in one line."""
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    cluster = sys.modules.get("distributed")
    killed = (TerminatedWorkerError, cluster.KilledWorker) if cluster else (TerminatedWorkerError,)
    gone = (cluster.CancelledError, TimeoutError) if cluster else (TimeoutError,)
    try:
        yield
    except killed:
        raise InputError(f"{out}: a worker was killed (out of memory?): {_CONTINUES}") from None
    except gone:
        raise InputError(f"{out}: the scheduler or all workers are gone: {_CONTINUES}") from None


def check_folders_exist(folders: Sequence[Path]) -> None:
    """Raise InputError where this process does not see a folder: it may be a worker on another machine."""
    for folder in folders:
        if not folder.is_dir():
            raise InputError(
                f"worker on {os.uname().nodename}: {folder} is not there: sources and output have to be on a file "
                "system that all workers share"
            )


def _check_workers(client: Any, folders: Sequence[Path], out: Path) -> None:
    """Ask every worker whether it sees the folders, and in `out` what was just written there."""
    out.mkdir(parents=True, exist_ok=True)
    token = out / f".shared.{secrets.token_hex(8)}"
    token.touch()
    try:
        answers: dict[str, Any] = client.run(find_worker_problem, list(folders), token, on_error="return")
    finally:
        token.unlink()
    for address, problem in answers.items():
        if problem:
            raise InputError(f"worker {address}: {problem}{_advice(problem)}")


def _check_scheduler(client: Any, scheduler: str) -> None:
    """The scheduler unpacks tasks, too; where it cannot, joblib would wait for ever."""
    try:
        client.run_on_scheduler(_nothing)
    except Exception as error:
        raise InputError(f"--scheduler {scheduler}: {error}{_advice(error)}") from None


def _nothing() -> None:
    """To be imported."""


def _advice(problem: object) -> str:
    return ": start it in this project's folder by python -m dask …" if "No module named" in str(problem) else ""


def find_worker_problem(folders: Sequence[Path], token: Path) -> str:
    """What keeps this worker from the work; empty if nothing does."""
    import cv2  # noqa: F401
    import simplejpeg  # noqa: F401

    from pipeline.storage.mindrecord_writer import load_backend

    load_backend()
    try:
        check_folders_exist([*folders, token.parent])
    except InputError as error:
        return str(error)
    if not token.exists():
        return f"{token.parent} is another folder here: the output has to be on a file system that all workers share"
    return "" if os.access(token.parent, os.W_OK) else f"{token.parent}: not allowed to write here"
