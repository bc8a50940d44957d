"""A short version of `make faults`: damaged shards and interrupted builds."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.report import FaultReport, TableRow, format_table
from tests.faults.scenarios.builds import changing_images, concurrent_builds, kill_builds, unwritable_disks
from tests.faults.scenarios.shards import DAMAGES, damage_shards


def test_every_kind_of_damage_is_detected_and_repaired(tmp_path: Path) -> None:
    report = damage_shards(1, len(DAMAGES), tmp_path)
    assert report.failures == []
    assert report.cases == len(DAMAGES)
    assert "verify misses 0" in report.figures


@pytest.mark.parametrize("suite", [kill_builds, changing_images, concurrent_builds])
def test_an_interrupted_build_gives_the_same_set(suite, tmp_path: Path) -> None:
    report = suite(1, 1, tmp_path)
    assert report.failures == []
    assert report.cases == 1


def test_an_unwritable_disk_gives_a_one_line_error_and_no_set(tmp_path: Path) -> None:
    report = unwritable_disks(1, 3, tmp_path)
    if report.skipped:
        pytest.skip(report.skipped[0])
    assert report.failures == []
    assert report.cases == 5


def test_the_table_counts_cases_and_failures() -> None:
    report = FaultReport(figures=["3 MB"])
    report.add_case("first", None)
    report.add_case("second", "lost")
    assert report.failures == ["second: lost"]
    assert format_table([TableRow("read", "bits", report, 2.4)]).splitlines() == [
        "| area | suite | cases | failures | time | figures |",
        "|------|-------|-------|----------|------|---------|",
        "| read | bits  | 2     | 1        | 2 s  | 3 MB    |",
    ]
