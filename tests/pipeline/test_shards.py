"""Build sets of shards: reproducible bytes, failed and interrupted builds, and reuse of finished shards."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from joblib import parallel_config

from pipeline.annotations.coco import annotation_file
from pipeline.build.build_set import build
from pipeline.build.plan import BuildOptions, make_plan
from pipeline.errors import InputError
from pipeline.shards import main
from pipeline.storage.manifest import Manifest
from pipeline.storage.records import unpack
from tests.support.coco_folder import image, jpeg, mixed, person, write

ROOT = Path(__file__).resolve().parents[2]


def _bytes(folder: Path) -> dict[str, str]:
    """Return the hash of every file; the path of the source in the manifest is ignored."""
    found = {}
    for path in folder.iterdir():
        data = path.read_bytes()
        if path.name == "manifest.json":
            content = json.loads(data)
            for source in content["sources"]:
                source["coco"] = ""
            data = json.dumps(content).encode()
        found[path.name] = hashlib.sha256(data).hexdigest()
    return found


def _rows(folder: Path) -> list[dict[str, Any]]:
    from mindspore.dataset import MindDataset

    files = [str(path) for path in Manifest.load(folder).files(folder)]
    return list(MindDataset(files, shuffle=False).create_dict_iterator(num_epochs=1, output_numpy=True))


def _run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def _build(folder: Path, out: Path, *more: object) -> Result:
    return _run("--coco", folder, "--split", "train", "--out", out, "--workers", 1, *more)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("coco"), mixed(48))


@pytest.fixture(scope="module")
def reference(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete build in small shards."""
    out = tmp_path_factory.mktemp("reference") / "train"
    assert _build(folder, out, "--records-per-shard", 4).exit_code == 0
    return out


def test_records_contain_images_and_annotations(folder: Path, reference: Path) -> None:
    expected = [entry for index, entry in enumerate(mixed(48)["images"]) if index % 4 in (0, 1)]
    rows = _rows(reference)
    assert [int(row["image_id"]) for row in rows] == [entry["id"] for entry in expected]
    pictures = {picture.image_id: picture for _, picture in planned_images(folder)}
    for row, entry in zip(rows, expected, strict=True):
        annotation, data = unpack(row)
        assert data.tobytes() == (folder / "train" / entry["file_name"]).read_bytes()
        expected_annotation = pictures[entry["id"]].annotation()
        assert annotation.truth == expected_annotation.truth
        assert annotation.ignore == expected_annotation.ignore
        assert annotation.keypoints.tolist() == expected_annotation.keypoints.tolist()


def planned_images(folder: Path) -> list[Any]:
    plan = make_plan([(folder, "train")], BuildOptions(keep_empty=True))
    return [pair for task in plan.tasks for pair in task.images]


def test_manifest_describes_the_shards(folder: Path, reference: Path) -> None:
    manifest = Manifest.load(reference)
    assert (manifest.records, manifest.people, manifest.images_with_people, manifest.max_people) == (24, 24, 24, 1)
    assert [shard.records for shard in manifest.shards] == [4] * 6
    assert manifest.verify(reference, hash_all=True) == []
    source = manifest.sources[0]
    assert source.json_sha256 == hashlib.sha256(annotation_file(folder, "train").read_bytes()).hexdigest()
    assert {path.name for path in reference.iterdir()} == {"manifest.json"} | {
        f"shard-{number:05d}.{ending}" for number in range(6) for ending in ("mindrecord", "mindrecord.db", "json")
    }


def test_bytes_do_not_depend_on_workers_or_paths(folder: Path, reference: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    moved.symlink_to(folder)
    result = _run(
        "--coco", moved, "--split", "train", "--out", tmp_path / "three", "--workers", 3, "--records-per-shard", 4
    )
    assert result.exit_code == 0, result.output
    assert _bytes(tmp_path / "three") == _bytes(reference)
    assert Manifest.load(tmp_path / "three").fingerprint == Manifest.load(reference).fingerprint
    with parallel_config(backend="threading", n_jobs=2):
        build([(folder, "train")], tmp_path / "threads", BuildOptions(records_per_shard=4))
    assert _bytes(tmp_path / "threads") == _bytes(reference)


def test_files_have_the_mode_that_the_umask_gives(reference: Path, folder: Path, tmp_path: Path) -> None:
    usual = tmp_path / "usual"
    usual.touch()
    modes = {stat.S_IMODE(path.stat().st_mode) for path in reference.iterdir()}
    assert modes == {stat.S_IMODE(usual.stat().st_mode)}


def test_shards_are_small_on_disk(reference: Path) -> None:
    assert max(path.stat().st_size for path in reference.iterdir()) < 3 << 20


def test_complete_set_is_not_rebuilt(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    assert _build(folder, out).exit_code == 0
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    result = _build(folder, out)
    assert result.output.count("\n") == 1
    assert "complete and unchanged" in result.output
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before
    assert "unchanged" not in _build(folder, out, "--force").output
    assert "unchanged" not in _build(folder, out, "--min-keypoints", 12).output
    assert Manifest.load(out).options["min_keypoints"] == 12


def test_changed_source_is_rebuilt(tmp_path: Path) -> None:
    folder, out = write(tmp_path / "coco", mixed(40)), tmp_path / "set"
    assert _build(folder, out, "--records-per-shard", 4).exit_code == 0
    assert len(Manifest.load(out).shards) == 5
    write(folder, mixed(8))
    assert _build(folder, out, "--records-per-shard", 4).exit_code == 0
    assert Manifest.load(out).records == 4
    assert len(list(out.glob("*.mindrecord"))) == 1


def test_only_damaged_shards_are_written_again(folder: Path, reference: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    assert _build(folder, out, "--records-per-shard", 4).exit_code == 0
    data = bytearray((out / "shard-00002.mindrecord").read_bytes())
    data[70_000] ^= 1
    (out / "shard-00002.mindrecord").write_bytes(data)
    (out / "shard-00004.mindrecord.db").unlink()
    result = _build(folder, out, "--records-per-shard", 4)
    assert "4 shards kept" in result.output
    assert _bytes(out) == _bytes(reference)


def test_killed_build_is_continued(folder: Path, reference: Path, tmp_path: Path) -> None:
    big, out, reference_out = write(tmp_path / "coco", mixed(240)), tmp_path / "set", tmp_path / "reference_out"
    options = ("--records-per-shard", 2)
    command = [sys.executable, "-m", "pipeline.shards", "--coco", big, "--split", "train", "--out", out, "--workers", 2]
    process = subprocess.Popen(
        [*map(str, command), *map(str, options)], cwd=ROOT, start_new_session=True, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    while len(list(out.glob("shard-*.json"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    finished = len(list(out.glob("shard-*.json")))
    assert 3 <= finished < 60
    with pytest.raises(InputError, match=r"no manifest\.json: run make shards"):
        Manifest.load(out)
    result = _build(big, out, *options)
    assert result.exit_code == 0, result.output
    kept = int(result.output.split(" shards kept")[0].rsplit(" ", 1)[1])
    assert finished <= kept < 60
    assert _build(big, reference_out, *options).exit_code == 0
    assert _bytes(out) == _bytes(reference_out)


def test_all_bad_images_are_reported_or_skipped(tmp_path: Path) -> None:
    folder, out = write(tmp_path / "coco", mixed(16)), tmp_path / "set"
    assert _build(folder, out).exit_code == 0
    names = [entry["file_name"] for entry in mixed(16)["images"]]
    (folder / "train" / names[0]).unlink()
    (folder / "train" / names[1]).write_bytes(b"")
    (folder / "train" / names[4]).write_bytes(jpeg(48, 64)[:-400])
    (folder / "train" / names[5]).write_bytes(jpeg(20, 64))
    (folder / "train" / names[8]).unlink()
    (folder / "train" / names[8]).symlink_to(folder / "train" / names[9])
    (folder / "train" / names[9]).write_bytes((folder / "train" / names[9]).read_bytes())
    result = _build(folder, out, "--force")
    assert result.exit_code == 2
    assert f"5 bad pictures: {folder / 'train' / names[0]}: is missing; " in result.output
    assert f"{names[1]}: an empty file; " in result.output
    assert f"{names[4]}: damaged JPEG: " in result.output
    assert "Traceback" not in result.output
    assert not (out / "manifest.json").exists()
    result = _build(folder, out, "--on-bad-image", "skip")
    assert result.exit_code == 0, result.output
    assert "5 bad pictures skipped" in result.output
    manifest = Manifest.load(out)
    assert manifest.records == 3
    assert [picture.file_name for picture in manifest.skipped] == [names[i] for i in (0, 1, 4, 5, 8)]
    assert manifest.skipped[3].problem == "is 64x20 px, but 69x48 px in the annotations"


def test_no_good_image_is_an_error_even_when_skipping(tmp_path: Path) -> None:
    folder = write(tmp_path / "coco", mixed(4), pictures=False)
    result = _build(folder, tmp_path / "set", "--on-bad-image", "skip")
    assert result.exit_code == 2
    assert "every picture is bad" in result.output


def test_pictures_without_people(tmp_path: Path) -> None:
    folder = write(tmp_path / "coco", mixed(9), "val")
    out = tmp_path / "set"
    assert _run("--coco", folder, "--split", "val", "--out", out, "--workers", 1).exit_code == 0
    assert Manifest.load(out).records == 9
    assert Manifest.load(out).images_with_people == 5
    assert [len(unpack(row)[0].keypoints) for row in _rows(out)] == [1, 1, 0, 0, 1, 1, 0, 0, 1]
    empty = {**mixed(3), "annotations": []}
    write(folder, empty, "train")
    result = _build(folder, tmp_path / "none")
    assert result.exit_code == 2
    assert "no picture with a trainable person (--keep-empty keeps the others)" in result.output
    assert _build(folder, tmp_path / "none", "--keep-empty").exit_code == 0


def test_a_picture_larger_than_the_usual_page(tmp_path: Path) -> None:
    content = {**mixed(1), "images": [image(1, 1200, 1400)], "annotations": [person(1, 1)]}
    folder, out = write(tmp_path / "coco", content), tmp_path / "set"
    noise = os.urandom(1 << 21)
    path = folder / "train" / content["images"][0]["file_name"]
    data = path.read_bytes()
    comments = b"".join(b"\xff\xfe\xff\xfe" + noise[at : at + 65532] for at in range(0, 1 << 21, 65536))
    path.write_bytes(data[:2] + comments + data[2:])
    assert _build(folder, out).exit_code == 0
    (row,) = _rows(out)
    assert unpack(row)[1].tobytes() == path.read_bytes()


def test_only_one_build_at_a_time_in_a_folder(folder: Path, tmp_path: Path) -> None:
    with (tmp_path / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write("process 17 on somewhere")
        file.flush()
        result = _build(folder, tmp_path)
    assert result.exit_code == 2
    assert "process 17 on somewhere is building this set" in result.output
    assert _build(folder, tmp_path).exit_code == 0
    assert not (tmp_path / ".lock").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--coco", "nowhere", "--split", "train"], "person_keypoints_train.json: no such file"),
        (
            ["--coco", "a", "--coco", "b", "--split", "x", "--split", "y", "--split", "z"],
            "give both the same number of times",
        ),
        (["--coco", "a", "--split", "x", "--workers", "0"], "--workers"),
        (["--coco", "a"], "no source: give --coco and --split"),
    ],
)
def test_invalid_input_is_reported_in_one_line(tmp_path: Path, arguments: list[str], expected: str) -> None:
    result = _run("--out", tmp_path / "set", *arguments)
    assert result.exit_code == 2
    assert expected in result.output
    assert "Traceback" not in result.output


def test_real_pictures(coco_mini: Path, tmp_path: Path) -> None:
    result = _run("--coco", coco_mini, "--split", "train2017", "--out", tmp_path, "--workers", 1)
    assert result.exit_code == 0, result.output
    assert "25 pictures, 72 people, 2 shards" in result.output
    assert Manifest.load(tmp_path).max_people == 11


def test_links_are_followed_inside_the_picture_folder_and_elsewhere_on_request(tmp_path: Path) -> None:
    """Links make subsets: to pictures of the same folder, or to those of another one."""
    content = mixed(4)
    folder = write(tmp_path / "coco", content)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    pictures = folder / "train"
    first, second = (pictures / entry["file_name"] for entry in content["images"][:2])
    (pictures / "inside").mkdir()
    first.rename(pictures / "inside" / "a.jpg")
    first.symlink_to(pictures / "inside" / "a.jpg")
    assert _build(folder, tmp_path / "inside").exit_code == 0
    second.rename(elsewhere / "b.jpg")
    second.symlink_to(elsewhere / "b.jpg")
    refused = _build(folder, tmp_path / "set")
    assert refused.exit_code == 2
    assert f"{second}: a symbolic link points outside the image folder, to {elsewhere / 'b.jpg'}" in refused.stderr
    for options in (("--allow-links-to", elsewhere), ("--follow-links",)):
        result = _build(folder, tmp_path / options[0].strip("-"), *options)
        assert result.exit_code == 0, result.output
        assert Manifest.load(tmp_path / options[0].strip("-")).records == 2
    assert _build(folder, tmp_path / "set", "--allow-links-to", tmp_path / "coco").exit_code == 2


def test_a_folder_of_other_files_is_refused_and_a_refused_build_leaves_no_folder(folder: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "holiday.jpg").write_bytes(b"mine")
    result = _build(folder, photos)
    assert result.exit_code == 2
    assert f"{photos}: holds other files (holiday.jpg) and no set: choose a new or empty --out" in result.stderr
    assert [path.name for path in photos.iterdir()] == ["holiday.jpg"]
    result = _run("--coco", tmp_path / "none", "--split", "train", "--out", tmp_path / "deep" / "set")
    assert result.exit_code == 2
    assert not (tmp_path / "deep").exists()
