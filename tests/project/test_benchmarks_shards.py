"""Benchmarks of planning and writing shards."""

from __future__ import annotations

import json
from pathlib import Path

from pipeline.annotations.coco import read_coco
from tests.benchmarks.repeat import repeat_coco
from tests.benchmarks.shards import measure_planning, measure_shards
from tests.support.coco_folder import mixed, write


def test_a_folder_is_repeated(tmp_path: Path) -> None:
    coco = write(tmp_path / "coco", mixed(5))
    for trainable_only in (False, True):
        out = repeat_coco(coco, "train", 12, tmp_path / str(trainable_only), trainable_only=trainable_only)
        annotations = read_coco(out, "train")
        assert [annotation.image_id for annotation in annotations] == list(range(1, 13))
        assert all((out / "train" / annotation.file_name).stat().st_size for annotation in annotations)
        people = [len(annotation.keypoints) for annotation in annotations]
        assert people == ([1] * 12 if trainable_only else [1, 1, 0, 0, 1] * 2 + [1, 1])


def test_shards_are_measured(tmp_path: Path) -> None:
    coco = write(tmp_path / "coco", mixed(6))
    found = measure_shards(coco, "train", 40, [1, 2], rounds=1)
    json.dumps(found)
    for count in (1, 2):
        assert found["workers"][count]["per_second"] > 0
        assert 20 < found["workers"][count]["peak_mb"] < 400
    assert set(found["stages_ms"]) == {
        "plan",
        "read",
        "check",
        "annotations and ignore regions",
        "write",
        "index",
        "hash",
    }


def test_planning_is_measured() -> None:
    found = measure_planning(300, generated=20)
    assert (found["records"], found["tasks"]) == (300, 8)
    assert found["json_mb"] > 0.3
