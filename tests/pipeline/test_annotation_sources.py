"""Several sources in one set: the source of each record, repeated images and unique image ids."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from pipeline import stats
from pipeline.annotations.sources import NEW_ID_OFFSET, splits_from_options
from pipeline.build.build_set import build
from pipeline.build.plan import BuildOptions
from pipeline.errors import InputError
from pipeline.shards import main
from pipeline.storage.manifest import Manifest
from pipeline.storage.records import unpack
from tests.support.coco_folder import CATEGORY, image, jpeg, mixed, person, write


def _run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def _rows(folder: Path) -> list[dict[str, Any]]:
    from mindspore.dataset import MindDataset

    files = [str(path) for path in Manifest.load(folder).files(folder)]
    return list(MindDataset(files, shuffle=False).create_dict_iterator(num_epochs=1, output_numpy=True))


def _kept(folder: Path) -> list[tuple[int, int, str]]:
    return [(int(row["source"]), int(row["image_id"]), str(row["file_name"])) for row in _rows(folder)]


def _folder(root: Path, split: str, ids: range, *, prefix: str = "", seed: int = 0) -> Path:
    """Write a COCO folder with one person in every image; equal ids and seeds give equal images."""
    images = [{**image(image_id), "file_name": f"{prefix}{image_id:012d}.jpg"} for image_id in ids]
    people = [person(10 * image_id, image_id) for image_id in ids]
    content = {"images": images, "annotations": people, "categories": [CATEGORY]}
    write(root, content, split, pictures=False)
    for entry in images:
        (root / split / entry["file_name"]).write_bytes(jpeg(48, 64, 1000 * seed + entry["id"]))
    return root


def test_repeated_images_with_other_names_are_left_out(tmp_path: Path) -> None:
    newer = _folder(tmp_path / "2017", "train2017", range(1, 7))
    older = _folder(tmp_path / "2014", "train2014", range(4, 10), prefix="COCO_train2014_")
    out = tmp_path / "set"
    result = _run("--coco", newer, "--split", "train2017", "--coco", older, "--split", "train2014", "--out", out)
    assert result.exit_code == 0, result.output
    assert "9 pictures, 9 people" in result.output
    assert "3 repeated left out" in result.output
    assert _kept(out) == [
        *((0, number, f"{number:012d}.jpg") for number in range(1, 7)),
        *((1, number, f"COCO_train2014_{number:012d}.jpg") for number in range(7, 10)),
    ]
    sources = Manifest.load(out).sources
    assert [(source.coco, source.split) for source in sources] == [(str(newer), "train2017"), (str(older), "train2014")]
    assert [(source.records, source.people, source.repeated, source.renumbered) for source in sources] == [
        (6, 6, 0, 0),
        (3, 3, 3, 0),
    ]


def test_other_images_with_used_ids_get_new_ids(tmp_path: Path) -> None:
    coco, own = _folder(tmp_path / "coco", "train", range(1, 5)), _folder(tmp_path / "own", "mine", range(3, 7), seed=1)
    again = _folder(tmp_path / "again", "mine", range(4, 6), seed=1)
    sources = [(coco, "train"), (own, "mine"), (again, "mine")]
    build(sources, tmp_path / "set", BuildOptions(), workers=1)
    assert [(source, image_id) for source, image_id, _ in _kept(tmp_path / "set")] == [
        *((0, number) for number in range(1, 5)),
        *((1, number) for number in (NEW_ID_OFFSET + 3, NEW_ID_OFFSET + 4, 5, 6)),
    ]
    for row in _rows(tmp_path / "set"):
        annotation, data = unpack(row)
        assert {truth["image_id"] for truth in annotation.truth} == {annotation.image_id}
        folder = (coco / "train", own / "mine")[int(row["source"])]
        assert data.tobytes() == (folder / annotation.file_name).read_bytes()
    assert [(source.repeated, source.renumbered) for source in Manifest.load(tmp_path / "set").sources] == [
        (0, 0),
        (0, 2),
        (2, 0),
    ]


def test_ids_that_cannot_be_made_unique_are_an_error(tmp_path: Path) -> None:
    coco = _folder(tmp_path / "coco", "train", range(1, 2))
    _folder(tmp_path / "coco", "far", range(NEW_ID_OFFSET * 2 + 1, NEW_ID_OFFSET * 2 + 2))
    own = _folder(tmp_path / "own", "mine", range(1, 2), seed=1)
    with pytest.raises(
        InputError, match=r"mine/000000000001\.jpg: other images use its id 1 and its new id 2000000000001"
    ):
        build([(coco, "train"), (coco, "far"), (own, "mine")], tmp_path / "set", BuildOptions(), workers=1)


def test_custom_annotation_files(tmp_path: Path) -> None:
    coco = _folder(tmp_path / "coco", "train2017", range(1, 4))
    own = write(tmp_path / "own", mixed(4), "jpg")
    labels = (own / "annotations" / "person_keypoints_jpg.json").rename(tmp_path / "labels.json")
    out = tmp_path / "set"
    own_options = ("--annotations", labels, "--pictures", own / "jpg")
    result = _run("--coco", coco, "--split", "train2017", *own_options, "--out", out, "--workers", 1)
    assert result.exit_code == 0, result.output
    assert [(source, image_id) for source, image_id, _ in _kept(out)] == [(0, 1), (0, 2), (0, 3), (1, 100), (1, 101)]
    assert [source.annotations for source in Manifest.load(out).sources] == [
        "person_keypoints_train2017.json",
        "labels.json",
    ]
    unchanged = _run("--coco", coco, "--split", "train2017", *own_options, "--out", out)
    assert "complete and unchanged" in unchanged.output
    alone = _run(*own_options, "--out", tmp_path / "alone", "--workers", 1)
    assert "2 pictures, 2 people" in alone.output


def test_bad_images_are_not_counted_in_their_source(tmp_path: Path) -> None:
    first, second = _folder(tmp_path / "a", "train", range(1, 4)), _folder(tmp_path / "b", "train", range(4, 8))
    (second / "train" / f"{5:012d}.jpg").unlink()
    build([(first, "train"), (second, "train")], tmp_path / "set", BuildOptions(skip_bad=True), workers=1)
    assert [(source.records, source.people) for source in Manifest.load(tmp_path / "set").sources] == [(3, 3), (3, 3)]


def test_stats_show_the_sources(tmp_path: Path) -> None:
    newer = _folder(tmp_path / "2017", "train2017", range(1, 7))
    older = _folder(tmp_path / "2014", "train2014", range(4, 10))
    build([(newer, "train2017"), (older, "train2014")], tmp_path / "set", BuildOptions(), workers=1)
    text = CliRunner().invoke(stats.main, [str(tmp_path / "set")]).output
    assert f"{6:>12}{6:>10}   {newer}/train2017, person_keypoints_train2017.json\n" in text
    assert f"{3:>12}{3:>10}   {older}/train2014, person_keypoints_train2014.json, 3 repeated left out\n" in text
    figures = json.loads(CliRunner().invoke(stats.main, ["--json", str(tmp_path / "set")]).output)
    assert [(source["split"], source["records"]) for source in figures["sources"]] == [
        ("train2017", 6),
        ("train2014", 3),
    ]


def test_folders_and_splits_are_combined(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    assert splits_from_options([a], ["x", "y"], [], []) == [(a, "x", None), (a, "y", None)]
    assert splits_from_options([a, b], ["x"], [], []) == [(a, "x", None), (b, "x", None)]
    assert splits_from_options([a], ["x"], [tmp_path / "l.json"], [b]) == [
        (a, "x", None),
        (tmp_path, "b", tmp_path / "l.json"),
    ]
    with pytest.raises(InputError, match="--coco is given 2 times and --split 3 times"):
        splits_from_options([a, b], ["x", "y", "z"], [], [])
    with pytest.raises(InputError, match="--annotations is given 1 times and --pictures 0 times"):
        splits_from_options([], [], [a], [])
    with pytest.raises(InputError, match="no source: give --coco and --split"):
        splits_from_options([], [], [], [])
