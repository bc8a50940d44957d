"""Where processes that train together wait for each other for as long as it takes.

On CPU, a process that waits in one of MindSpore's collectives gives up after half a minute, whatever it is told, and
evaluation, or the compilation of its graphs, may take one process minutes longer than another. Files in the run's
folder, which all of them share, are waited for without end; whoever launched the processes ends them if one dies.
"""

from __future__ import annotations

import secrets
import time
from pathlib import Path

import numpy as np

from pipeline.system.files import write_atomically
from training.distributed.world import World

PREFIX = ".barrier-"
"""Of the files' names, which are gone when a barrier is over."""
POLL = 0.05
"""s between looks for the others' files."""


class FileBarrier:
    """The processes of a run, seen from one of them.

    Attributes:
        rank: of this process.
        size: how many there are.
    """

    def __init__(self, run: Path, world: World) -> None:
        """Every process makes one, at about the same time as the others."""
        self.run = run
        self.world = world
        self.rank = world.rank
        self.size = world.size
        if self.rank == 0:
            # before the others know the name, for none of theirs may go
            for left in run.glob(f"{PREFIX}*"):
                left.unlink()
        self.name = int(world.all_gather(np.array([secrets.randbits(62)], dtype=np.int64))[0])
        self.number = 0

    def all_gather(self, data: bytes) -> list[bytes]:
        """What each process gives, by rank; every process has to call this, sooner or later."""
        if self.size == 1:
            return [data]
        self.number += 1
        files = [self.run / f"{PREFIX}{self.name:016x}-{self.number}-{rank}" for rank in range(self.size)]
        write_atomically(files[self.rank], data)
        for file in files:
            while not file.exists():
                time.sleep(POLL)
        everything = [file.read_bytes() for file in files]
        self.world.all_gather(np.zeros(1, dtype=np.int64))  # nobody is still reading
        files[self.rank].unlink()
        return everything
