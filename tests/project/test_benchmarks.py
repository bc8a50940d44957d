"""Benchmarks: they run and return all numbers. The tests do not check the speed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from pipeline.images.decode import decode_image
from pipeline.synthetic import generate
from tests.benchmarks.__main__ import main, ratios, shard_numbers
from tests.benchmarks.online import STAGES, measure_online, measure_stages
from tests.benchmarks.repeat import add_noise
from tests.benchmarks.table import flatten, format_table
from tests.benchmarks.targets import PEOPLE, measure_targets


def test_nested_numbers_are_flattened_and_text_is_skipped():
    numbers = {"a": 1, "b": {"c": 2.5, "d": {"e": 3}}, "word": "x", "yes": True}
    assert dict(flatten(numbers)) == {"a": 1, "b.c": 2.5, "b.d.e": 3}


def test_a_table_with_an_earlier_run_has_ratios():
    now = {"machine": {"cores": 2}, "fast": 30.0, "ms": {"new": 1.5, "old": 4.0}}
    old = {"machine": {"cores": 9}, "fast": 20.0, "ms": {"old": 8.0}}
    lines = [line.split() for line in format_table(now, old).splitlines()]
    assert lines == [
        ["now", "before", "ratio"],
        ["fast", "30", "20", "1.50"],
        [],
        ["ms.new", "1.5", "-", "-"],
        ["ms.old", "4", "8", "0.50"],
    ]
    assert [line.split() for line in format_table(now).splitlines()] == [
        ["fast", "30"],
        [],
        ["ms.new", "1.5"],
        ["ms.old", "4"],
    ]


def test_ratios_and_host_budget():
    rates = {"decode_only_2_threads": 1000.0, "pipeline_2_threads": 560.0, "pipeline_targets_2_threads": 500.0}
    assert ratios(rates) == {
        "pipeline_of_decode_only": 0.56,
        "pipeline_targets_of_decode_only": 0.5,
        "host_budget": {
            "samples_per_s_for_8_devices_at_35": 280,
            "cores_for_8_devices_at_35": 1.0,
            "samples_per_s_for_8_devices_at_250": 2000,
            "cores_for_8_devices_at_250": 7.1,
        },
    }


def test_shard_numbers_by_workers_and_stage():
    worker = {"per_second": 520.04, "start_seconds": 0.3, "peak_mb": 91.2}
    found = {
        "workers": {1: worker, 2: {**worker, "per_second": 950.0, "peak_mb": 80.0}},
        "stages_ms": {"read": 0.04567},
    }
    assert shard_numbers(found) == {
        "shards_1_worker": 520.0,
        "shards_2_workers": 950.0,
        "shards_start_s": 0.3,
        "shards_worker_peak_mb": 91,
        "shard_ms": {"read": 0.046},
    }


def test_pipeline_and_stages_are_measured(tiny_shards: Path):
    online = measure_online(tiny_shards, rounds=1, records=20)
    rates = {name for name in online if "thread" in name}
    assert rates == {
        "decode_only_1_thread",
        "decode_only_2_threads",
        "decode_only_turbojpeg_2_threads",
        "pipeline_1_thread",
        "pipeline_2_threads",
        "pipeline_4_threads",
        "pipeline_targets_2_threads",
    }
    assert all(online[name] > 0 for name in rates)
    image, keypoints, mask = 368 * 368 * 3, 32 * 18 * 3 * 4, 46 * 46
    assert online["bytes_per_sample"] == image + keypoints + mask
    assert online["bytes_per_sample_with_targets"] == image + keypoints + mask + 57 * 46 * 46 * 4
    stages = measure_stages(tiny_shards, records=20)
    assert set(stages) == {"reading", "between"} | {label for _, _, label in STAGES}
    assert stages["decode"] > 0
    assert stages["targets"] > 0


def test_noise_makes_files_as_large_as_photographs(tmp_path: Path):
    generate(tmp_path / "generated", train=2, val=0, size=640, workers=1)
    pictures = tmp_path / "generated" / "train2017"
    before = {path: decode_image(path.read_bytes()) for path in pictures.iterdir()}
    add_noise(pictures)
    for path, image in before.items():
        assert 100_000 < path.stat().st_size < 250_000
        assert 2 < np.abs(decode_image(path.read_bytes()).astype(int) - image).mean() < 8


def test_targets_are_measured_on_host_and_device():
    found = measure_targets(repeats=2, batch=2)
    assert set(found["targets_numpy_ms_by_people"]) == {str(number) for number in PEOPLE}
    assert found["targets_numpy_ms"] == found["targets_numpy_ms_by_people"]["4"] > 0
    assert found["targets_device_ms"] > 0


@pytest.mark.parametrize("content", [None, "nonsense", "[1]"])
def test_an_invalid_file_to_compare_is_reported_in_one_line(tmp_path: Path, content: str | None):
    old = tmp_path / "old.json"
    if content is not None:
        old.write_text(content)
    result = CliRunner().invoke(main, ["--compare", str(old), "--out", str(tmp_path / "bench.json")])
    assert result.exit_code == 2
    assert result.stderr.startswith(f"Error: {old}: ")
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "bench.json").exists()
