"""Back ends that run the tasks of a build: worker processes of this machine, or the workers of a Dask cluster.

Both are joblib back ends. The workers of a cluster read the images and write the shards themselves, so the sources and
the output folder must be on a file system that every worker mounts at the same path. This is checked before the build
is planned.
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

from pipeline.build.staging import images_being_read
from pipeline.errors import InputError

_CONTINUE_ADVICE = "run the same command again to write the missing shards"
_MAX_NAMED_IMAGES = 4
_ADDRESS = re.compile(r"(\w+://)?[^\s:/]+:\d+")

CONNECT_TIMEOUT = 10
"""Timeout in seconds for the connection to the scheduler, and then for the first worker to be available."""

STALL_TIMEOUT = 600.0
"""Timeout in seconds for the next finished shard on a cluster; the build then ends with an error."""


@contextlib.contextmanager
def dask_cluster(scheduler: str, folders: Sequence[Path], out: Path) -> Iterator[int]:
    """Run the tasks of joblib on a Dask cluster within the context.

    Args:
        scheduler: address of the scheduler, HOST:PORT.
        folders: absolute paths of folders that every worker must be able to read.
        out: absolute path of the output folder, where every worker must be able to write. It is created.

    Yields:
        The number of tasks that the cluster runs in parallel.

    Raises:
        InputError: Dask is not installed, the scheduler does not respond, there is no worker, or a worker cannot access
            a folder.
    """
    try:
        from distributed import Client
        from joblib import parallel_config
    except ImportError:
        raise InputError("--backend dask: Dask is not installed: pip install .[cluster]") from None
    for name in ("distributed", "distributed.client"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # errors are reported by InputError, in one line
    if not _ADDRESS.fullmatch(scheduler):
        raise InputError(f"--scheduler {scheduler}: expected HOST:PORT, such as 10.0.0.1:8786")
    try:
        client: Any = Client(scheduler, timeout=CONNECT_TIMEOUT, set_as_default=False)  # type: ignore[no-untyped-call]
    except OSError:
        raise InputError(
            f"--scheduler {scheduler}: no response from a Dask scheduler within {CONNECT_TIMEOUT} s"
        ) from None
    with client:
        try:
            client.wait_for_workers(1, timeout=CONNECT_TIMEOUT)
        except TimeoutError:
            raise InputError(
                f"--scheduler {scheduler}: no worker connected within {CONNECT_TIMEOUT} s: start workers in this "
                f"project's folder by python -m dask worker {scheduler}"
            ) from None
        _check_scheduler(client, scheduler)
        _check_workers(client, folders, out)
        with parallel_config("dask", client=client):
            yield sum(client.nthreads().values())


def stall_timeout() -> float | None:
    """Return the timeout in seconds for the next finished shard, or None without a cluster.

    A cluster that has lost all its workers waits for new workers without an error.
    """
    from joblib.parallel import get_active_backend

    backend, _ = get_active_backend()
    return STALL_TIMEOUT if type(backend).__name__ == "DaskDistributedBackend" else None


@contextlib.contextmanager
def worker_failures_as_input_errors(out: Path) -> Iterator[None]:
    """Raise the errors of joblib for killed workers and lost clusters as an InputError with a message of one line."""
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    cluster = sys.modules.get("distributed")
    killed = (TerminatedWorkerError, cluster.KilledWorker) if cluster else (TerminatedWorkerError,)
    lost = (cluster.CancelledError, TimeoutError) if cluster else (TimeoutError,)
    try:
        yield
    except killed:
        cause = f"a worker was killed (out of memory?){_describe_reading(out)}"
        raise InputError(f"{out}: {cause}: {_CONTINUE_ADVICE}") from None
    except lost:
        raise InputError(f"{out}: lost the connection to the scheduler or to all workers: {_CONTINUE_ADVICE}") from None


def _describe_reading(out: Path) -> str:
    names = images_being_read(out)
    if not names:
        return ""
    more = f" and {len(names) - _MAX_NAMED_IMAGES} more" if len(names) > _MAX_NAMED_IMAGES else ""
    return f" while {', '.join(names[:_MAX_NAMED_IMAGES])}{more} {'was' if len(names) == 1 else 'were'} being read"


def check_folders_exist(folders: Sequence[Path]) -> None:
    """Raise InputError if a folder does not exist for this process, which may be a worker on another machine."""
    for folder in folders:
        if not folder.is_dir():
            raise InputError(
                f"worker on {os.uname().nodename}: {folder} does not exist: sources and output must be on a file "
                "system that all workers share"
            )


def _check_workers(client: Any, folders: Sequence[Path], out: Path) -> None:
    """Check that every worker can access the folders, and that it sees a file that was just created in `out`."""
    out.mkdir(parents=True, exist_ok=True)
    token = out / f".shared.{secrets.token_hex(8)}"
    token.touch()
    try:
        problems: dict[str, Any] = client.run(find_worker_problem, list(folders), token, on_error="return")
    finally:
        token.unlink()
    for address, problem in problems.items():
        if problem:
            raise InputError(f"worker {address}: {problem}{_import_advice(problem)}")


def _check_scheduler(client: Any, scheduler: str) -> None:
    """Check that the scheduler can import this project. If it cannot unpickle tasks, joblib waits forever."""
    try:
        client.run_on_scheduler(_do_nothing)
    except Exception as error:
        raise InputError(f"--scheduler {scheduler}: {error}{_import_advice(error)}") from None


def _do_nothing() -> None:
    """A function of this project that the scheduler has to import."""


def _import_advice(problem: object) -> str:
    return ": start it in this project's folder by python -m dask …" if "No module named" in str(problem) else ""


def find_worker_problem(folders: Sequence[Path], token: Path) -> str:
    """Check that this worker can run tasks; return a description of the problem, or an empty string."""
    import cv2  # noqa: F401
    import simplejpeg  # noqa: F401

    from pipeline.storage.mindrecord_writer import load_backend

    load_backend()
    try:
        check_folders_exist([*folders, token.parent])
    except InputError as error:
        return str(error)
    if not token.exists():
        return f"{token.parent} is a different folder here: the output must be on a file system that all workers share"
    return "" if os.access(token.parent, os.W_OK) else f"{token.parent}: no permission to write to this folder"
