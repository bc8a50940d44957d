"""Barrier and all-gather without a timeout, through files in the folder of the run.

On CPU, MindSpore's collectives fail after 30 s of waiting, and no option changes that. Evaluation or graph compilation
can take one process minutes longer than another. The processes therefore wait for files in the run folder, which all of
them share. If a process dies, the launcher ends the others.
"""

from __future__ import annotations

import secrets
import time
from pathlib import Path

import numpy as np

from pipeline.system.files import write_atomically
from training.distributed.world import World

PREFIX = ".barrier-"
"""Prefix of the file names. The files are removed at the end of each barrier."""
POLL_INTERVAL = 0.05
"""Seconds between two checks for the files of the other processes."""


class FileBarrier:
    """Barrier among all processes of a run.

    Attributes:
        rank: rank of this process.
        size: number of processes.
    """

    def __init__(self, run: Path, world: World) -> None:
        """Create the barrier in the run folder `run`; a collective call, so every process has to make it."""
        self.run = run
        self.world = world
        self.rank = world.rank
        self.size = world.size
        if self.rank == 0:
            # remove files of a killed run before the other processes learn the token and write files of their own
            for leftover in run.glob(f"{PREFIX}*"):
                leftover.unlink()
        self.token = int(world.all_gather(np.array([secrets.randbits(62)], dtype=np.int64))[0])
        self.count = 0

    def all_gather(self, data: bytes) -> list[bytes]:
        """Return the `data` of all processes, ordered by rank; a collective call that waits without a timeout."""
        if self.size == 1:
            return [data]
        self.count += 1
        files = [self.run / f"{PREFIX}{self.token:016x}-{self.count}-{rank}" for rank in range(self.size)]
        write_atomically(files[self.rank], data)
        for file in files:
            while not file.exists():
                time.sleep(POLL_INTERVAL)
        gathered = [file.read_bytes() for file in files]
        self.world.all_gather(np.zeros(1, dtype=np.int64))  # wait until every process has read the files
        files[self.rank].unlink()
        return gathered
