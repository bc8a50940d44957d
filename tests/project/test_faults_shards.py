"""A part of `make faults` for every day: shards that are damaged, and builds that are disturbed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.scenarios.shards import DAMAGES, damage_sets
from tests.faults.report import Findings, Line, format_table
from tests.faults.scenarios.builds import changing_sources, hostile_places, kill_builds, two_builds


def test_every_kind_of_damage_is_found_and_mended(tmp_path: Path) -> None:
    findings = damage_sets(1, len(DAMAGES), tmp_path)
    assert findings.failures == []
    assert findings.cases == len(DAMAGES)
    assert "verify misses 0" in findings.figures


@pytest.mark.parametrize("suite", [kill_builds, changing_sources, two_builds])
def test_a_disturbed_build_ends_as_an_undisturbed_one(suite, tmp_path: Path) -> None:
    findings = suite(1, 1, tmp_path)
    assert findings.failures == []
    assert findings.cases == 1


def test_no_room_is_one_line_and_no_set(tmp_path: Path) -> None:
    findings = hostile_places(1, 3, tmp_path)
    if findings.skipped:
        pytest.skip(findings.skipped[0])
    assert findings.failures == []
    assert findings.cases == 5


def test_the_table_counts_cases_and_failures() -> None:
    findings = Findings(figures=["3 MB"])
    findings.count("first", None)
    findings.count("second", "lost")
    assert findings.failures == ["second: lost"]
    assert format_table([Line("read", "bits", findings, 2.4)]).splitlines() == [
        "| promise | suite | cases | failures | time | figure |",
        "|---------|-------|-------|----------|------|--------|",
        "| read    | bits  | 2     | 1        | 2 s  | 3 MB   |",
    ]
