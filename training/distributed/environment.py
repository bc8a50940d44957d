"""Environment variables that describe how msrun and the launcher started a process."""

from __future__ import annotations

import os

OUTPUT_IS_TERMINAL = "OPENPOSE_OUTPUT_IS_TERMINAL"
"""Environment variable; 1 if the launcher copies a worker's output, which is a log file, to a terminal."""

LOCAL_WORLD_SIZE = "OPENPOSE_LOCAL_WORLD_SIZE"
"""Environment variable; number of workers on this machine."""

LAUNCHER_PID = "OPENPOSE_LAUNCHER_PID"
"""Environment variable; process id of the launcher that started this process through msrun."""


def launched_by_msrun() -> bool:
    """Return True if msrun started this process, as a worker or as the scheduler that connects the workers."""
    return os.environ.get("MS_ROLE") in ("MS_WORKER", "MS_SCHED")


def local_world_size(world_size: int) -> int:
    """Return the number of workers on this machine; `world_size` if the launcher did not set it."""
    return int(os.environ.get(LOCAL_WORLD_SIZE, world_size))
