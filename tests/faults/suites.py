"""Which suites there are, and running one."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from tests.faults.report import Findings

Run = Callable[[int, int, Path], Findings]
"""Tries so many cases, drawn by a seed, in an empty folder."""


@dataclass(frozen=True)
class Suite:
    """A function of this package, the promise of which it tries so many cases, and what memory it may take.

    Attributes:
        promise: what is tried.
        place: module and function.
        cases: how many.
        memory: MB that its process may have resident at most; None where other processes do the work.
    """

    promise: str
    place: str
    cases: int
    memory: int | None = None

    @property
    def name(self) -> str:
        """The function's name, in words."""
        return self.place.partition(":")[2].replace("_", "-")

    def run(self, seed: int, cases: int) -> Findings:
        """Run it here, in a folder that is removed afterwards."""
        module, _, function = self.place.partition(":")
        run: Run = getattr(import_module(f"tests.faults.{module}"), function)
        with tempfile.TemporaryDirectory(prefix="openpose-faults-") as folder:
            findings = run(seed, cases, Path(folder))
        if self.memory:
            peak = peak_memory()
            findings.figures.append(f"{peak} of {self.memory} MB")
            if peak > self.memory:
                findings.failures.append(f"took {peak} MB of memory, {self.memory} are allowed")
        return findings


def peak_memory() -> int:
    """MB that this process had resident at most; getrusage would count what its parent had."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) >> 10


SUITES = (
    Suite("build", "killing:kill_builds", 50),
    Suite("build", "killing:hostile_places", 20),
    Suite("build", "killing:two_builds", 10),
    Suite("build", "killing:changing_sources", 20),
    Suite("read", "damage:damage_sets", 260),
    Suite("train", "training:kill_training", 16),
    Suite("train", "training:kill_ranks", 4),
    Suite("train", "training:full_disk", 20),
    Suite("input", "inputs:annotations", 3000, memory=1000),
    Suite("input", "inputs:pictures", 2000, memory=1000),
    Suite("input", "inputs:recipes", 1500, memory=1000),
    Suite("input", "inputs:manifests", 1500, memory=1000),
    Suite("input", "inputs:results", 1500, memory=1000),
    Suite("input", "checkpoints:checkpoints", 1500, memory=1000),
    Suite("input", "checkpoints:weights", 2000, memory=1000),
    Suite("input", "checkpoints:descriptions", 500, memory=1000),
    Suite("load", "soak:pack_pictures", 30_000),
    Suite("load", "soak:read_epochs", 60_000),
    Suite("load", "soak:decode_maps", 20_000),
)
