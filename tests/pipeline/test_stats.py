"""Statistics of sets: manifests, records, known annotations, and the command pipeline.stats."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

from pipeline.build.build_set import build
from pipeline.build.plan import BuildOptions
from pipeline.stats import main, scan
from pipeline.storage.statistics import BOX_EDGES, Statistics
from tests.support.coco_folder import mixed, write

ROOT = Path(__file__).resolve().parents[2]


def _run(*arguments: object) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert "Traceback" not in result.output
    return result


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stats")
    coco = write(folder / "coco", mixed(12))
    build([(coco, "train")], folder / "shards" / "made" / "train", BuildOptions(), workers=1)
    build([(coco, "train")], folder / "shards" / "made" / "val", BuildOptions(keep_empty=True), workers=1)
    return folder / "shards"


def test_statistics_match_the_annotations(sets: Path) -> None:
    figures = json.loads(_run(sets / "made" / "val", "--json").stdout)
    expected = {
        "records": 12,
        "people": 6,
        "images_with_people": 6,
        "max_people": 1,
        "ignored_people": 3,
        "crowds": 3,
        "images_with_ignored": 6,
        "shards": 1,
        "people_per_image": [6, 6],
        "skipped": 0,
    }
    assert {name: figures[name] for name in expected} == expected
    people = [p for p in mixed(12)["annotations"] if p["area"] > 1024 and not p["iscrowd"]]
    labelled = [person["num_keypoints"] for person in people]
    assert figures["keypoints_per_person"] == np.bincount(labelled, minlength=18).tolist()
    nose = [person["keypoints"][2] for person in people]
    assert figures["keypoints"]["nose"] == np.bincount(nose, minlength=3).tolist()
    assert figures["box_width"][BOX_EDGES.index(16)] == 6
    assert figures["box_height"][0] == 6
    assert figures["pixels"] == sum(entry["height"] * entry["width"] for entry in mixed(12)["images"])


def test_a_scan_of_real_records_agrees_with_the_manifest(coco_mini: Path, tmp_path: Path) -> None:
    built = build([(coco_mini, "train2017")], tmp_path, BuildOptions(keep_empty=True), workers=1)
    assert scan(tmp_path, built.manifest) == built.manifest.statistics
    assert built.manifest.statistics.records == 80
    assert built.manifest.statistics.crowds == 5
    assert built.manifest.statistics.picture_bytes == sum(p.stat().st_size for p in (coco_mini / "train2017").iterdir())
    assert _run(tmp_path, "--json").stdout == _run(tmp_path, "--json", "--scan").stdout


def test_json_of_several_sets_has_total_and_each_set(sets: Path) -> None:
    both = json.loads(_run(sets, "--json").stdout)
    assert set(both["sets"]) == {str(sets / "made" / "train"), str(sets / "made" / "val")}
    for name in ("records", "people", "shards", "shard_bytes", "pixels"):
        assert both[name] == sum(one[name] for one in both["sets"].values())
    assert both["max_people"] == 1
    assert both["people_per_image"] == [6, 12]


def test_text_output(sets: Path) -> None:
    text = _run(sets).stdout
    assert f"{sets / 'made' / 'val'}\n  pictures              12   6 with people" in text
    assert "left ankle" in text
    assert "people per picture" in text


def test_default_is_every_set_below_shards(sets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(sets.parent)
    assert json.loads(_run("--json").stdout)["records"] == 18


def test_no_set_names_the_next_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = _run()
    assert result.exit_code == 2
    assert "shards: no set of shards in or below this folder: run make shards" in result.output


def test_plot_is_written(sets: Path, tmp_path: Path) -> None:
    path = tmp_path / "new" / "plot.png"
    result = _run(sets, "--plot", path)
    assert result.exit_code == 0
    picture = cv2.imread(str(path))
    assert picture.shape[0] > 800
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 100
    assert _run(sets, "--plot", tmp_path / "plot.nonsense").exit_code == 2


def test_mindspore_is_not_needed(sets: Path) -> None:
    code = (
        "import sys; sys.modules['mindspore'] = None; sys.argv = ['stats', sys.argv[1], '--json'];"
        "from pipeline.stats import main; main()"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(sets)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert json.loads(result.stdout)["records"] == 18


def test_merged_statistics_equal_those_of_all_records() -> None:
    parts = [Statistics(), Statistics()]
    total = Statistics()
    for index in range(6):
        people = np.full((index, 18, 3), index % 3, np.float32)
        for tally in (parts[index % 2], total):
            tally.add_record(
                keypoints=people,
                boxes=[[0, 0, 30 * index, 900]] * index,
                crowds=1,
                ignored_people=index,
                size=(100, 200 + index),
                ignored_pixels=index * 100,
                picture_bytes=7,
            )
    parts[0].merge(parts[1])
    assert parts[0] == total
    assert Statistics.from_json(json.loads(json.dumps(total.to_json()))) == total
    assert total.max_people == 5
    assert total.people == 15
