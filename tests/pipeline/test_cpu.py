"""Default numbers of processes and threads."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from pipeline.system import cpu
from tests.support.coco_folder import ROOT


def test_default_threads_are_a_ranks_share_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    for usable, ranks, expected in ((2, 1, 2), (2, 8, 1), (24, 8, 3), (192, 8, 16), (192, 1, 16)):
        monkeypatch.setattr(cpu, "usable_cores", lambda usable=usable: usable)
        assert cpu.default_threads(ranks) == expected


def test_default_workers_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    for usable, expected in ((1, 1), (8, 8), (160, 32)):
        monkeypatch.setattr(cpu, "usable_cores", lambda usable=usable: usable)
        assert cpu.default_workers() == expected


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_usable_cores_respect_affinity_and_environment() -> None:
    code = """
import os
from pipeline.system.cpu import usable_cores
unrestricted = usable_cores()
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
print(unrestricted, usable_cores())
"""
    environment = {name: value for name, value in os.environ.items() if name != "LOKY_MAX_CPU_COUNT"}
    for limit in ({}, {"LOKY_MAX_CPU_COUNT": "1"}):
        result = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env=environment | limit, capture_output=True, text=True, check=True
        )
        unrestricted, restricted = map(int, result.stdout.split())
        assert restricted == 1
        assert (unrestricted == 1) == bool(limit)
