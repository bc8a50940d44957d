"""Scores of datasets whose ids are not COCO's: person categories of any id, image ids that are text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from evaluation.evaluate import main
from evaluation.scoring.results import with_ids_of_the_user
from pipeline.build.build_set import build
from pipeline.build.plan import BuildOptions
from pipeline.storage.manifest import Manifest
from tests.support.coco_folder import CATEGORY, image, jpeg, person, write


def source(root: Path, category: int, first_id: int, seed: int, ids: list[Any] | None = None) -> Path:
    """Write a COCO folder with three images of one person each, whose category has the given id."""
    ids = ids or [first_id, first_id + 1, first_id + 2]
    images = [{**image(first_id + i), "id": ids[i]} for i in range(3)]
    people = [{**person(i, ids[i]), "category_id": category} for i in range(3)]
    content = {"images": images, "annotations": people, "categories": [{**CATEGORY, "id": category}]}
    write(root, content, "val", pictures=False)
    for entry in images:
        (root / "val" / entry["file_name"]).write_bytes(jpeg(48, 64, seed))
    return root


def perfect(ids: list[Any], categories: list[int | None]) -> list[dict[str, Any]]:
    results = []
    for image_id, category in zip(ids, categories, strict=True):
        one = {"image_id": image_id, "keypoints": person(1, 1)["keypoints"], "score": 1.0}
        results.append(one if category is None else {**one, "category_id": category})
    return results


def evaluate(results: list[dict[str, Any]], tmp_path: Path, *dataset: object) -> Result:
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results))
    arguments = [
        "--results",
        path,
        *dataset,
        "--json",
        tmp_path / "eval.json",
        "--save-results",
        tmp_path / "saved.json",
    ]
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def average_precision(tmp_path: Path) -> float:
    return float(json.loads((tmp_path / "eval.json").read_text())["AP"])


@pytest.mark.parametrize("category", [3, 1, None])
def test_people_of_any_category_are_scored(tmp_path: Path, category: int | None) -> None:
    coco = source(tmp_path / "coco", 3, 10, 0)
    build([(coco, "val")], tmp_path / "set", BuildOptions(), workers=1)
    results = perfect([10, 11, 12], [category] * 3)
    for dataset in (["--shards", tmp_path / "set"], ["--coco", coco, "--split", "val"]):
        result = evaluate(results, tmp_path, *dataset)
        assert result.exit_code == 0, result.output
        assert average_precision(tmp_path) == pytest.approx(1)
    assert {one["category_id"] for one in json.loads((tmp_path / "saved.json").read_text())} == {3}


def test_sources_keep_their_own_categories(tmp_path: Path) -> None:
    first, second = source(tmp_path / "a", 3, 10, 0), source(tmp_path / "b", 0, 20, 1)
    build([(first, "val"), (second, "val")], tmp_path / "set", BuildOptions(), workers=1)
    ids = [10, 11, 12, 20, 21, 22]
    assert evaluate(perfect(ids, [3, 3, 3, 0, 0, 0]), tmp_path, "--shards", tmp_path / "set").exit_code == 0
    assert average_precision(tmp_path) == pytest.approx(1)
    assert evaluate(perfect(ids, [1] * 6), tmp_path, "--shards", tmp_path / "set").exit_code == 0
    assert average_precision(tmp_path) == pytest.approx(1)
    missing = evaluate(perfect(ids[:3], [3] * 3), tmp_path, "--shards", tmp_path / "set")
    assert missing.exit_code == 0
    assert average_precision(tmp_path) < 0.6
    other = evaluate(perfect(ids, [5] * 6), tmp_path, "--shards", tmp_path / "set")
    assert other.exit_code == 2
    assert "result 0: category_id is 5, expected 0 or 1 or 3" in other.stderr


def test_text_ids_are_kept_in_results(tmp_path: Path) -> None:
    ids = ["b7e1-uuid", "12", "frame 3"]
    coco = source(tmp_path / "coco", 1, 10, 0, ids)
    build([(coco, "val")], tmp_path / "set", BuildOptions(), workers=1)
    assert sorted(Manifest.load(tmp_path / "set").text_ids.values()) == sorted(ids)
    for dataset in (["--shards", tmp_path / "set"], ["--coco", coco, "--split", "val"]):
        result = evaluate(perfect(ids, [1] * 3), tmp_path, *dataset)
        assert result.exit_code == 0, result.output
        assert average_precision(tmp_path) == pytest.approx(1)
        saved = json.loads((tmp_path / "saved.json").read_text())
        assert sorted(one["image_id"] for one in saved) == sorted(ids)


def test_results_of_several_categories_stay_those_of_coco() -> None:
    results = [{"image_id": 1, "category_id": 1}]
    assert with_ids_of_the_user(results, {}, {3}) == [{"image_id": 1, "category_id": 3}]
    assert with_ids_of_the_user(results, {1: "a"}, {3, 4}) == [{"image_id": "a", "category_id": 1}]
    assert with_ids_of_the_user(results, {}, set()) == results
