"""A short version of `make faults`: soak tests, and checkpoints on a full disk."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.faults.report import FaultReport
from tests.faults.scenarios.soak import EPOCHS, ProcessMeter, decode_maps, read_rank
from tests.faults.scenarios.training import full_disk
from tests.support import tiny


def test_decoding_does_not_leak(tmp_path: Path) -> None:
    report = decode_maps(1, 300, tmp_path)
    assert report.failures == []
    assert report.cases == 300


def test_reading_does_not_leak(tiny_shards: Path) -> None:
    samples, meter = read_rank(tiny_shards, 1, 0, 2)
    assert samples == EPOCHS * tiny.RECORDS // 2
    report = FaultReport(samples)
    meter.report_to("rank 0", report)
    assert report.failures == []


def test_memory_growth_and_open_files_are_reported() -> None:
    report = FaultReport()
    meter = ProcessMeter(counts=list(range(100)), megabytes=[100.0 + n for n in range(100)], handles=[5] * 99 + [9])
    meter.report_to("worker", report)
    assert report.failures == ["worker: memory grew by 49 MB over 49 units of work", "worker: 4 more open files"]
    assert report.figures == ["worker: 199 MB, +1000.000 MB per 1,000, +4 open files"]


def test_a_meter_measures_its_process() -> None:
    meter = ProcessMeter()
    with open(os.devnull) as file:  # noqa: PTH123
        meter.sample(0)
        assert not file.closed
    meter.sample(1)
    assert meter.handles[0] == meter.handles[1] + 1
    assert meter.megabytes[0] > 10


def test_the_last_checkpoint_survives_a_full_disk(tmp_path: Path) -> None:
    report = full_disk(1, 3, tmp_path)
    if report.skipped:
        pytest.skip(report.skipped[0])
    assert report.failures == []
    assert report.cases == 3
