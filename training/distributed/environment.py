"""Environment variables that tell a process how msrun and the launcher started it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass

WATCHED = "OPENPOSE_WATCHED"
"""Environment variable, 1 where somebody watches the output although it is not a terminal, as a launcher's worker's."""

LOCAL_PROCESSES = "OPENPOSE_LOCAL_PROCESSES"
"""Environment variable: how many workers this machine has."""


def launched() -> bool:
    """Whether msrun started this process: a worker, or the scheduler that brings the workers together."""
    return os.environ.get("MS_ROLE") in ("MS_WORKER", "MS_SCHED")


def local_processes(total: int) -> int:
    """How many of `total` processes this machine has."""
    return int(os.environ.get(LOCAL_PROCESSES, total))


LAUNCHER = "OPENPOSE_LAUNCHER"
"""Environment variable: id of the process that launched this one through msrun."""
