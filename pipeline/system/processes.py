"""Worker processes that end when the process that started them ends, for whatever reason that one ended."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from typing import Any

import psutil

_POLL_INTERVAL = 0.2
"""Seconds between two checks of the watched process."""


def has_ended(process: psutil.Process) -> bool:
    """Return True if `process` has ended. A zombie, whose parent has not yet waited for it, counts as ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    return True


def exit_with_process(pid: int) -> None:
    """Kill this process as soon as the process `pid` has ended. Return at once; a daemon thread polls `pid`."""
    threading.Thread(target=_kill_self_after, args=(pid,), name="exit_with_process", daemon=True).start()


def _kill_self_after(pid: int) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)  # held, so that another process that gets the same pid is not mistaken for it
        while not has_ended(process):
            time.sleep(_POLL_INTERVAL)
    os.kill(os.getpid(), signal.SIGKILL)


def exit_with_parent_options() -> dict[str, Any]:
    """Return options of `joblib.Parallel` that end its worker processes when this process is killed.

    Without these options, loky workers wait five minutes for more tasks, and may write their results into the folder
    of the next build.

    Returns:
        The options for the loky back end; an empty dict for other back ends, which do not start worker processes here.
    """
    from joblib.parallel import get_active_backend

    backend, _ = get_active_backend()
    if type(backend).__name__ != "LokyBackend":
        return {}
    return {"initializer": exit_with_process, "initargs": (os.getpid(),)}
