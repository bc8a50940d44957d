"""List of the fault suites, and how to run one."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from tests.faults.report import FaultReport

SuiteFunction = Callable[[int, int, Path], FaultReport]
"""Runs the cases of a suite; arguments: random seed, number of cases, and an empty folder for temporary files."""


@dataclass(frozen=True)
class Suite:
    """A fault suite.

    Attributes:
        area: part of the project that is tested.
        function: "module:function" in tests.faults.scenarios.
        cases: default number of cases.
        memory: maximum resident memory of the suite's process in MB; None if other processes do the work.
    """

    area: str
    function: str
    cases: int
    memory: int | None = None

    @property
    def name(self) -> str:
        """Name on the command line and in the table: the function's name with hyphens."""
        return self.function.partition(":")[2].replace("_", "-")

    def run(self, seed: int, cases: int) -> FaultReport:
        """Run the suite in this process, with a temporary folder."""
        module, _, name = self.function.partition(":")
        run: SuiteFunction = getattr(import_module(f"tests.faults.scenarios.{module}"), name)
        with tempfile.TemporaryDirectory(prefix="openpose-faults-") as folder:
            report = run(seed, cases, Path(folder))
        if self.memory:
            peak = peak_memory()
            report.figures.append(f"{peak} of {self.memory} MB memory")
            if peak > self.memory:
                report.failures.append(f"used {peak} MB of memory; the limit is {self.memory} MB")
        return report


def peak_memory() -> int:
    """Return the peak resident memory of this process in MB; getrusage would include memory of the parent process."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) >> 10


SUITES = (
    Suite("build", "builds:kill_builds", 50),
    Suite("build", "builds:unwritable_disks", 20),
    Suite("build", "builds:concurrent_builds", 10),
    Suite("build", "builds:changing_images", 20),
    Suite("read", "shards:damage_shards", 260),
    Suite("train", "training:kill_training", 16),
    Suite("train", "training:kill_ranks", 4),
    Suite("train", "training:full_disk", 20),
    Suite("input", "inputs:annotations", 3000, memory=1000),
    Suite("input", "inputs:images", 2000, memory=1000),
    Suite("input", "inputs:recipes", 1500, memory=1000),
    Suite("input", "inputs:manifests", 1500, memory=1000),
    Suite("input", "inputs:results", 1500, memory=1000),
    Suite("input", "checkpoints:checkpoints", 1500, memory=1000),
    Suite("input", "checkpoints:weights", 2000, memory=1000),
    Suite("input", "checkpoints:graph_metadata", 500, memory=1000),
    Suite("load", "soak:build_shards", 30_000),
    Suite("load", "soak:read_epochs", 60_000),
    Suite("load", "soak:decode_maps", 20_000),
)
