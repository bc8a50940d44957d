"""Processes that end when the process they work for is gone, however that process ended."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from typing import Any

_POLL_SECONDS = 0.2


def has_ended(pid: int) -> bool:
    """Whether the process `pid` has ended; a zombie, which its parent has not waited for, counts as ended."""
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    return True


def exit_with_process(pid: int) -> None:
    """Kill this process as soon as the process `pid` is gone. A daemon thread polls; returns at once."""
    threading.Thread(target=_kill_self_after, args=(pid,), name="exit_with_process", daemon=True).start()


def _kill_self_after(pid: int) -> None:
    while not has_ended(pid):
        time.sleep(_POLL_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


def exit_with_parent_options() -> dict[str, Any]:
    """Options of `joblib.Parallel` that make its worker processes end when this process is killed.

    By default they would wait five minutes for more work, and finish their tasks in the folder of the next build.

    Returns:
        The options for the loky back end; an empty dict for other back ends, whose workers are not ours.
    """
    from joblib.parallel import get_active_backend

    backend, _ = get_active_backend()
    return (
        {"initializer": exit_with_process, "initargs": (os.getpid(),)}
        if type(backend).__name__ == "LokyBackend"
        else {}
    )
