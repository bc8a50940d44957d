"""A part of `make faults` for every day: what stays flat under load, and runs that are disturbed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.faults.report import Findings
from tests.faults.soak import EPOCHS, Meter, decode_maps, read_rank
from tests.faults.training import full_disk
from tests.support import tiny


def test_decoding_stays_flat(tmp_path: Path) -> None:
    findings = decode_maps(1, 300, tmp_path)
    assert findings.failures == []
    assert findings.cases == 300


def test_reading_stays_flat(tiny_shards: Path) -> None:
    samples, meter = read_rank(tiny_shards, 1, 0, 2)
    assert samples == EPOCHS * tiny.RECORDS // 2
    findings = Findings(samples)
    meter.judge("rank 0", findings)
    assert findings.failures == []


def test_growth_and_open_files_are_noticed() -> None:
    findings = Findings()
    meter = Meter(counts=list(range(100)), megabytes=[100.0 + n for n in range(100)], handles=[5] * 99 + [9])
    meter.judge("worker", findings)
    assert findings.failures == ["worker: grew by 49 MB over 49", "worker: 4 file handles more"]
    assert findings.figures == ["worker: 199 MB, +1000.000 MB per 1,000, +4 file handles"]


def test_a_meter_looks_at_its_process() -> None:
    meter = Meter()
    with open(os.devnull) as file:  # noqa: PTH123
        meter.sample(0)
        assert not file.closed
    meter.sample(1)
    assert meter.handles[0] == meter.handles[1] + 1
    assert meter.megabytes[0] > 10


def test_a_disk_that_is_full_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    findings = full_disk(1, 3, tmp_path)
    if findings.skipped:
        pytest.skip(findings.skipped[0])
    assert findings.failures == []
    assert findings.cases == 3
