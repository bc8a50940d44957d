"""Sets of images as devices write them: formats, EXIF orientation, large pictures, and a worker that dies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from pipeline.build.staging import STAGING_FOLDER, images_being_read, note_progress
from pipeline.loading.batches import create_batches
from pipeline.loading.collate import unpack_sample
from pipeline.shards import main
from pipeline.storage.manifest import Manifest
from pipeline.storage.mindrecord_reader import read_rows
from pipeline.storage.records import EVAL_COLUMNS, unpack
from tests.support.coco_folder import CATEGORY, ROOT, image, jpeg, person, write
from tests.support.image_kinds import READABLE, encode, with_orientation

PAINTED = (200, 40)
"""x, y px of a bright spot in the upright picture of 240x160 px; the left wrist of its person."""


def _painted(height: int = 160, width: int = 240, at: tuple[int, int] = PAINTED) -> np.ndarray:
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[at[1] - 3 : at[1] + 4, at[0] - 3 : at[0] + 4] = 255
    return pixels


def _person(image_id: int, scale: float = 1.0) -> dict[str, Any]:
    annotation = person(10 * image_id, image_id, area=15000.0 * scale**2)
    keypoints = [[(20 + 9 * i) * scale, (30 + 5 * i) * scale, 2] for i in range(17)]
    keypoints[9] = [PAINTED[0] * scale, PAINTED[1] * scale, 2]  # the left wrist
    annotation["keypoints"] = [value for keypoint in keypoints for value in keypoint]
    annotation["bbox"] = [20 * scale, 25 * scale, 200 * scale, 110 * scale]
    return annotation


def _build(folder: Path, out: Path, *options: object) -> Result:
    arguments = ["--coco", folder, "--split", "train", "--out", out, "--workers", 1, *options]
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def _coco(folder: Path, sizes: dict[int, tuple[int, int]], files: dict[int, bytes], scale: float = 1.0) -> Path:
    """Write a COCO folder with one person in each image; sizes are the annotated (height, width)."""
    images = [image(image_id, *size) for image_id, size in sizes.items()]
    people = [_person(image_id, scale) for image_id in sizes]
    write(folder, {"images": images, "annotations": people, "categories": [CATEGORY]}, pictures=False)
    for image_id, data in files.items():
        (folder / "train" / f"{image_id:012d}.jpg").write_bytes(data)
    return folder


def _brightest(pixels: np.ndarray) -> tuple[float, float]:
    rows, columns = np.nonzero(pixels.sum(axis=2) > 600)
    return float(columns.mean()), float(rows.mean())


@pytest.mark.parametrize(
    ("kind", "counts"),
    [
        ("PNG", {"PNG": 1}),
        ("WebP lossless", {"WebP": 1}),
        ("BMP", {"BMP": 1}),
        ("TIFF", {"TIFF": 1}),
        ("JPEG CMYK", {}),
        ("JPEG wrong scan", {}),
    ],
)
def test_every_format_is_stored_as_its_own_bytes(kind: str, counts: dict[str, int], tmp_path: Path) -> None:
    folder = _coco(tmp_path / "coco", {1: (60, 80)}, {1: READABLE[kind]()})
    assert _build(folder, tmp_path / "set").exit_code == 0
    manifest = Manifest.load(tmp_path / "set")
    (row,) = read_rows(tmp_path / "set", manifest, EVAL_COLUMNS, range(1))
    assert unpack(row)[1].tobytes() == READABLE[kind]()
    assert manifest.counts == counts
    (batch,) = create_batches(
        tmp_path / "set", size=64, batch_size=1, max_people=2, seed=0, epoch=0, augment=None, threads=1
    )
    assert batch["image"].std() > 10


@pytest.mark.parametrize("orientation", range(1, 9))
def test_annotations_of_the_turned_picture_fit_it(orientation: int, tmp_path: Path) -> None:
    """The wrist is where the spot is painted, in the sample and in the batch."""
    from pipeline.images.exif import turn

    inverse = {6: 8, 8: 6}.get(orientation, orientation)
    data = with_orientation(encode("JPEG", turn(_painted(), inverse), quality=95), orientation)
    folder = _coco(tmp_path / "coco", {1: (160, 240)}, {1: data})
    result = _build(folder, tmp_path / "set")
    assert result.exit_code == 0, result.output
    manifest = Manifest.load(tmp_path / "set")
    assert manifest.options["exif"] == "apply"
    assert manifest.counts.get("turned", 0) == (orientation != 1)
    assert manifest.counts.get("ambiguous", 0) == (orientation in (2, 3, 4))
    assert ("--exif ignore" in result.stderr) == (orientation in (2, 3, 4))
    (row,) = read_rows(tmp_path / "set", manifest, EVAL_COLUMNS, range(1))
    sample = unpack_sample(row, manifest.exif)
    assert _brightest(sample.image) == pytest.approx(PAINTED, abs=0.6)
    (batch,) = create_batches(
        tmp_path / "set", size=240, batch_size=1, max_people=2, seed=0, epoch=0, augment=None, threads=1
    )
    spot = _brightest(batch["image"][0])
    assert np.abs(batch["keypoints"][0, 0, :, :2] - spot).max(axis=1).min() < 1.5


def test_annotations_of_the_stored_picture_win_where_only_it_fits(tmp_path: Path) -> None:
    data = with_orientation(encode("JPEG", _painted(), quality=95), 6)
    folder = _coco(tmp_path / "coco", {1: (160, 240)}, {1: data})
    assert _build(folder, tmp_path / "set").exit_code == 0
    manifest = Manifest.load(tmp_path / "set")
    assert manifest.counts == {}
    (row,) = read_rows(tmp_path / "set", manifest, EVAL_COLUMNS, range(1))
    assert _brightest(unpack_sample(row, manifest.exif).image) == pytest.approx(PAINTED, abs=0.6)


def test_exif_can_be_ignored_and_a_refusal_names_it(tmp_path: Path) -> None:
    upside_down = with_orientation(encode("JPEG", _painted(), quality=95), 3)
    folder = _coco(tmp_path / "coco", {1: (160, 240)}, {1: upside_down})
    result = _build(folder, tmp_path / "set", "--exif", "ignore")
    assert result.exit_code == 0
    assert "Warning" not in result.stderr
    manifest = Manifest.load(tmp_path / "set")
    assert manifest.exif == "ignore"
    (row,) = read_rows(tmp_path / "set", manifest, EVAL_COLUMNS, range(1))
    assert _brightest(unpack_sample(row, manifest.exif).image) == pytest.approx(PAINTED, abs=0.6)
    other = _coco(tmp_path / "other", {1: (160, 241)}, {1: with_orientation(encode("JPEG", _painted()), 6)})
    result = _build(other, tmp_path / "refused")
    assert result.exit_code == 2
    assert "is 240x160 px (160x240 px as its EXIF orientation 6 shows it), but 241x160 px in" in result.stderr


def test_sets_of_earlier_versions_ignore_the_orientation(tmp_path: Path) -> None:
    """Their manifests have no rule, and their annotations refer to the stored picture."""
    data = with_orientation(encode("JPEG", _painted(), quality=95), 3)
    _build(_coco(tmp_path / "coco", {1: (160, 240)}, {1: data}), tmp_path / "set", "--exif", "ignore")
    path = tmp_path / "set" / "manifest.json"
    content = json.loads(path.read_text())
    for name in ("exif", "max_side"):
        del content["options"][name]
    del content["fingerprint"]
    content.pop("counts", None)
    path.write_text(json.dumps(content))
    assert Manifest.load(tmp_path / "set").exif == "ignore"


def test_large_pictures_are_stored_smaller_with_their_annotations(tmp_path: Path) -> None:
    from pipeline.images.exif import turn

    pixels = np.repeat(np.repeat(_painted(), 4, axis=0), 4, axis=1)
    files = {
        1: encode("JPEG", pixels),
        2: encode("JPEG", _painted()),
        3: with_orientation(encode("JPEG", turn(pixels, 8)), 6),
    }
    folder = _coco(tmp_path / "coco", {1: (640, 960), 3: (640, 960)}, {1: files[1], 3: files[3]}, scale=4)
    small = _coco(tmp_path / "small", {2: (160, 240)}, {2: files[2]})
    arguments = ["--coco", folder, "--split", "train", "--coco", small, "--split", "train", "--max-side", 240]
    result = CliRunner().invoke(main, [str(argument) for argument in (*arguments, "--out", tmp_path / "set")])
    assert result.exit_code == 0, result.output
    assert "2 stored smaller" in result.output
    manifest = Manifest.load(tmp_path / "set")
    assert manifest.counts == {"reduced": 2, "turned": 1}
    for row in read_rows(tmp_path / "set", manifest, EVAL_COLUMNS, range(3)):
        annotation, data = unpack(row)
        sample = unpack_sample(row, manifest.exif)
        assert sample.image.shape == (160, 240, 3) == (annotation.height, annotation.width, 3)
        assert _brightest(sample.image) == pytest.approx(PAINTED, abs=0.6)
        wrist = np.array(annotation.truth[0]["keypoints"]).reshape(17, 3)[9]
        assert wrist[:2] == pytest.approx(PAINTED, abs=0.5)
        assert annotation.truth[0]["area"] == pytest.approx(15000)
        assert annotation.truth[0]["bbox"] == pytest.approx([20, 25, 200, 110])
        assert (data.tobytes() == files[2]) == (annotation.image_id == 2)


@pytest.mark.parametrize("compressed", [False, True], ids=["polygon", "runs"])
def test_ignored_regions_shrink_with_their_picture(compressed: bool, tmp_path: Path) -> None:
    crowd = person(5, 1, labelled=0, crowd=1)
    crowd["bbox"] = [320, 160, 320, 160]
    if compressed:
        mask = np.zeros((640, 960), np.uint8)
        mask[160:320, 320:640] = 1
        columns = mask.T.ravel()
        edges = np.flatnonzero(columns[1:] != columns[:-1]) + 1
        crowd["segmentation"] = {"size": [640, 960], "counts": np.diff([0, *edges, columns.size]).tolist()}
    else:
        crowd["segmentation"] = [[320, 160, 640, 160, 640, 320, 320, 320]]
    content = {"images": [image(1, 640, 960)], "annotations": [_person(1, 4), crowd], "categories": [CATEGORY]}
    folder = write(tmp_path / "coco", content, pictures=False)
    (folder / "train" / f"{1:012d}.jpg").write_bytes(jpeg(640, 960))
    assert _build(folder, tmp_path / "set", "--max-side", 240).exit_code == 0
    (row,) = read_rows(tmp_path / "set", Manifest.load(tmp_path / "set"), EVAL_COLUMNS, range(1))
    rows, columns = np.nonzero(unpack_sample(row).ignore)
    # 40 to 80 px down, 80 to 160 px across, dilated by 16 px
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == pytest.approx((24, 95, 64, 175), abs=1)


def test_the_images_that_dead_workers_were_reading_are_named(tmp_path: Path) -> None:
    for name, images in (("shard-00000-a", ["x/first.jpg", "x/b.jpg"]), ("shard-00001-b", ["x/with space ä.jpg"])):
        folder = tmp_path / STAGING_FOLDER / name
        folder.mkdir(parents=True)
        with note_progress(folder) as note:
            for path in images:
                note(path)
    assert images_being_read(tmp_path) == ["x/b.jpg", "x/with space ä.jpg"]
    assert images_being_read(tmp_path / "none") == []


def test_a_killed_worker_ends_the_build_with_the_name_of_its_image(tmp_path: Path) -> None:
    """The worker kills itself at an image of seven bytes, as a decoder does that corrupts memory."""
    folder = _coco(tmp_path / "coco", {1: (60, 80)}, {1: READABLE["JPEG"]()})
    content = {"images": [image(i) for i in range(100, 140)], "annotations": [_person(i) for i in range(100, 140)]}
    write(folder, {**content, "categories": [CATEGORY]})
    code = (
        "import os, signal\n"
        "import pipeline.build.write_shard as module\n"
        "check = module.check_image\n"
        "def check_or_die(data):\n"
        "    if len(data) == 7: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return check(data)\n"
        "module.check_image = check_or_die\n"
    )
    (tmp_path / "sitecustomize.py").write_text(code)
    (folder / "train" / f"{117:012d}.jpg").write_bytes(b"7 bytes")
    command = [sys.executable, "-m", "pipeline.shards", "--coco", folder, "--split", "train", "--workers", "2"]
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    result = subprocess.run(
        [*map(str, command), "--out", str(tmp_path / "set")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2, result.stderr
    assert "a worker was killed (out of memory?) while " in result.stderr
    assert f"{117:012d}.jpg" in result.stderr
    assert "Traceback" not in result.stderr


def test_stats_name_formats_and_turned_pictures(tmp_path: Path) -> None:
    from pipeline.stats import main as stats

    files = {
        1: READABLE["PNG"](),
        2: with_orientation(READABLE["JPEG"](), 3),
        3: READABLE["JPEG"](),
        4: READABLE["BMP"](),
    }
    folder = _coco(tmp_path / "coco", dict.fromkeys(files, (60, 80)), files)
    assert _build(folder, tmp_path / "set").exit_code == 0
    result = CliRunner().invoke(stats, [str(tmp_path / "set"), "--scan"])
    words = [line.split() for line in result.output.splitlines()]
    for name, count in (("JPEG", "2"), ("PNG", "1"), ("BMP", "1")):
        (line,) = (line for line in words if line[:1] == [name])
        assert line[1:3] == [count, "pictures,"]
        assert float(line[3]) > 0
    assert ["turned", "1"] in [line[:2] for line in words]
    figures = json.loads(CliRunner().invoke(stats, [str(tmp_path / "set"), "--json"]).output)
    assert figures["formats"] == {"JPEG": 2, "PNG": 1, "BMP": 1}
    assert (figures["turned"], figures["reduced"]) == (1, 0)
