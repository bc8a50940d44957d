"""The manifest: invalid manifests, damaged files, and the exit codes of pipeline.verify."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from pipeline.build.build_set import build
from pipeline.build.plan import BuildOptions
from pipeline.errors import InputError
from pipeline.storage.manifest import FileProblem, Manifest, find_sets
from pipeline.system.files import write_atomically
from pipeline.verify import main
from tests.support.coco_folder import mixed, write


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("original")
    build([(write(folder / "coco", mixed(16)), "train")], folder / "set", BuildOptions(records_per_shard=4), workers=1)
    return folder / "set"


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "set"))


def _verify(*folders: Path) -> tuple[int, str]:
    result = CliRunner().invoke(main, [str(folder) for folder in folders])
    assert "Traceback" not in result.output
    return result.exit_code, result.output


def test_load_is_the_inverse_of_save(folder: Path) -> None:
    manifest = Manifest.load(folder)
    before = (folder / "manifest.json").read_bytes()
    manifest.save(folder)
    assert (folder / "manifest.json").read_bytes() == before
    assert Manifest.load(folder) == manifest
    assert manifest.files(folder) == [folder / "shard-00000.mindrecord", folder / "shard-00001.mindrecord"]
    assert _verify(folder) == (0, f"{folder}: intact: 2 shards, 8 records\n")


def test_fingerprint_depends_on_the_content_only(folder: Path) -> None:
    manifest = Manifest.load(folder)
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text.replace(manifest.sources[0].coco, "elsewhere"))
    assert Manifest.load(folder).fingerprint == manifest.fingerprint
    changed = replace(manifest, shards=(replace(manifest.shards[0], sha256="0" * 64), *manifest.shards[1:]))
    assert changed.fingerprint != manifest.fingerprint


def test_any_changed_number_in_a_manifest_is_an_error(folder: Path) -> None:
    path = folder / "manifest.json"
    text = path.read_text()
    for at in [match.start() for match in re.finditer(r"\b\d+\b", text)][::7]:
        path.write_text(f"{text[:at]}{(int(text[at]) + 1) % 10}{text[at + 1 :]}")
        with pytest.raises(InputError, match=r"manifest\.json"):
            Manifest.load(folder)


def test_damaged_result_files_are_rebuilt(folder: Path, original: Path) -> None:
    path, sound = folder / "shard-00001.json", (folder / "shard-00001.json").read_text()
    for damaged in (sound.replace('"records": 4', '"records": 5'), sound[:-9], "[]", "{}", '{"sha256": 3}', "\0"):
        assert damaged != sound
        path.write_text(damaged)
        (folder / "manifest.json").unlink()
        build([(original.parent / "coco", "train")], folder, BuildOptions(records_per_shard=4), workers=1)
        assert path.read_text() == sound
        assert (folder / "manifest.json").read_bytes() == (original / "manifest.json").read_bytes()


def test_missing_manifest_names_the_next_command(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InputError) as caught:
            Manifest.load(folder)
        assert str(caught.value) == f"{folder}: no manifest.json: run make shards"
        assert _verify(folder)[0] == 1


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.write_bytes(data)


def _delete_row(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("DELETE FROM INDEXES WHERE ROW_ID = 1")
    database.close()


def _swap(path: Path) -> None:
    other = path.with_name(path.name.replace("00001", "00000"))
    data = path.read_bytes()
    path.write_bytes(other.read_bytes())
    other.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        *itertools.product(("shard-00001.mindrecord", "shard-00001.mindrecord.db"), (_cut, _flip, _swap, Path.unlink)),
        ("shard-00001.mindrecord.db", _delete_row),
    ],
)
def test_verify_finds_damage(folder: Path, damage: Callable[[Path], None], name: str) -> None:
    damage(folder / name)
    code, output = _verify(folder)
    assert code == 1
    assert f"{folder / name}: " in output
    assert "run make shards again" in output


@pytest.mark.parametrize("damage", [_cut, Path.unlink])
@pytest.mark.parametrize("name", ["shard-00001.mindrecord", "shard-00000.mindrecord.db"])
def test_loading_finds_missing_files_and_sizes(folder: Path, damage: Callable[[Path], None], name: str) -> None:
    damage(folder / name)
    with pytest.raises(InputError, match="run make shards again") as caught:
        Manifest.load(folder)
    assert str(caught.value).startswith(f"{folder / name}: ")


def test_a_hundred_flipped_bits_are_found(folder: Path) -> None:
    manifest, rng = Manifest.load(folder), np.random.default_rng(0)
    names = [name for shard in manifest.shards for name in (shard.file, shard.index)]
    for _ in range(100):
        path = folder / names[rng.integers(len(names))]
        data = bytearray(path.read_bytes())
        at, bit = int(rng.integers(len(data))), 1 << int(rng.integers(8))
        for expected in ([path.name], []):
            data[at] ^= bit
            path.write_bytes(data)
            assert [damage.file for damage in manifest.verify(folder, hash_all=True)] == expected


def _damage_at(path: Path, when: int) -> None:
    _flip(path)
    os.utime(path, ns=(when, when))


def test_files_modified_after_the_manifest_are_hashed(folder: Path) -> None:
    written = (folder / "manifest.json").stat().st_mtime_ns
    path = folder / "shard-00001.mindrecord"
    _damage_at(path, written)
    Manifest.load(folder, hash_modified=True)
    with pytest.raises(InputError, match=r"shard-00001\.mindrecord: has changed"):
        Manifest.load(folder, hash_all=True)
    os.utime(path, ns=(written + 1, written + 1))
    Manifest.load(folder)
    with pytest.raises(InputError, match=r"shard-00001\.mindrecord: has changed"):
        Manifest.load(folder, hash_modified=True)
    _flip(path)
    Manifest.load(folder, hash_modified=True)


def test_renamed_files_are_reported(folder: Path) -> None:
    (folder / "shard-00001.mindrecord").rename(folder / "shard-00007.mindrecord")
    assert Manifest.read(folder).verify(folder, hash_all=False) == [
        FileProblem("shard-00001.mindrecord", "is missing"),
        FileProblem("shard-00007.mindrecord", "is not in the manifest"),
    ]


def test_links_out_of_the_set_are_reported(folder: Path, tmp_path: Path) -> None:
    path = folder / "shard-00000.mindrecord"
    path.rename(tmp_path / "outside")
    path.symlink_to(tmp_path / "outside")
    with pytest.raises(InputError, match="symbolic link that points outside its folder"):
        Manifest.load(folder)


def _set(*path: str | int, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(data: Any) -> None:
        for key in path[:-1]:
            data = data[key]
        if value is KeyError:
            del data[path[-1]]
        else:
            data[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (_set("format", value=99), "format 99, this program reads format 2"),
        (_set("shards", 0, "file", value="../../etc/passwd"), "is not a shard name"),
        (_set("shards", 0, "file", value="shard-00001.mindrecord"), "two entries have the same file"),
        (_set("shards", 0, "bytes", value=-1), "bytes is '-1', expected int"),
        (_set("shards", 0, "records", value=5), "records: 8, but the shards hold 9"),
        (_set("shards", 0, "sha256", value="abc"), "64 hexadecimal digits"),
        (_set("shards", 0, "sha256", value=KeyError), "each entry must be an object with file, records"),
        (_set("shards", value={}), "shards: expected a list"),
        (_set("shards", value=[1]), "each entry must be an object"),
        (_set("records", value="8"), "records: 8, but"),
        (_set("tally", "keypoints", "nose", value=[1, 2]), "tally.keypoints"),
        (_set("tally", "people", value=True), "tally.people"),
        (_set("tally", value=KeyError), "tally: expected an object"),
        (_set("options", value=KeyError), "options: expected an object"),
        (_set("sources", 0, "json_sha256", value=3), "sources: json_sha256"),
        (_set("skipped", value=[{"file_name": "x"}]), "skipped: each entry"),
    ],
)
def test_invalid_manifest_is_reported_in_one_line(folder: Path, change: Callable[[Any], None], expected: str) -> None:
    data = json.loads((folder / "manifest.json").read_bytes())
    change(data)
    (folder / "manifest.json").write_text(json.dumps(data))
    with pytest.raises(InputError) as caught:
        Manifest.load(folder)
    assert expected in str(caught.value)
    assert str(caught.value).startswith(f"{folder / 'manifest.json'}: ")
    code, output = _verify(folder)
    assert code == 1
    assert expected in output


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[]", b"[" * 100_000, b'{"format": 1'])
def test_other_content_is_not_a_manifest(folder: Path, content: bytes) -> None:
    (folder / "manifest.json").write_bytes(content)
    with pytest.raises(InputError, match=r"manifest\.json: "):
        Manifest.load(folder)


def test_verify_checks_every_set_below_a_folder(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "deep" / "er" / "set")
    assert find_sets(tmp_path) == [tmp_path / "deep" / "er" / "set", folder]
    _flip(folder / "shard-00000.mindrecord")
    code, output = _verify(tmp_path)
    assert code == 1
    assert f"{tmp_path / 'deep' / 'er' / 'set'}: intact" in output
    assert "1 damaged set: " in output


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    write_atomically(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "new \ud800")
    assert path.read_text() == "old"
    assert [item.name for item in tmp_path.iterdir()] == ["manifest.json"]
