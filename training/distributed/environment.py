"""Environment variables that tell a process how msrun and the launcher started it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass

OUTPUT_IS_TERMINAL = "OPENPOSE_OUTPUT_IS_TERMINAL"
"""Environment variable, 1 where somebody watches the output although it is not a terminal, as a launcher's worker's."""

LOCAL_WORLD_SIZE = "OPENPOSE_LOCAL_WORLD_SIZE"
"""Environment variable: how many workers this machine has."""


def launched_by_msrun() -> bool:
    """Whether msrun started this process: a worker, or the scheduler that brings the workers together."""
    return os.environ.get("MS_ROLE") in ("MS_WORKER", "MS_SCHED")


def local_world_size(total: int) -> int:
    """How many of `total` processes this machine has."""
    return int(os.environ.get(LOCAL_WORLD_SIZE, total))


LAUNCHER_PID = "OPENPOSE_LAUNCHER_PID"
"""Environment variable: id of the process that launched this one through msrun."""
