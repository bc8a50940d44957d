"""Read: damage to a set is found, named and mended, and nothing else is written again."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from click.testing import CliRunner

from pipeline.errors import InputError
from pipeline.storage.manifest import FILE_NAME, Manifest
from pipeline.storage.records import VERSION
from pipeline.verify import main as verify
from tests.faults.report import Findings
from tests.faults.sets import build_here, contents, make_source

Chance = np.random.Generator
Damage = Callable[[Path, Path, Chance], Sequence[str]]
"""Damages a set, given a second set of the same shape; returns the files that have to be named."""


def _any_file(folder: Path, chance: Chance, ending: str = "") -> Path:
    names = [name for shard in Manifest.read(folder).shards for name in (shard.file, shard.index)]
    return folder / str(chance.choice([name for name in names if name.endswith(ending)]))


def _flip(path: Path, chance: Chance) -> Sequence[str]:
    data = bytearray(path.read_bytes())
    for at in chance.integers(0, len(data), int(chance.integers(1, 4))):
        data[at] ^= 1 << int(chance.integers(8))
    changed = bytes(data) != path.read_bytes()
    path.write_bytes(data if changed else b"")
    return [path.name]


def flip_data(folder: Path, _: Path, chance: Chance) -> Sequence[str]:
    return _flip(_any_file(folder, chance, ".mindrecord"), chance)


def flip_index(folder: Path, _: Path, chance: Chance) -> Sequence[str]:
    return _flip(_any_file(folder, chance, ".db"), chance)


def truncate(folder: Path, _: Path, chance: Chance) -> Sequence[str]:
    path = _any_file(folder, chance)
    os.truncate(path, int(chance.integers(0, path.stat().st_size)))
    return [path.name]


def grow(folder: Path, _: Path, chance: Chance) -> Sequence[str]:
    path = _any_file(folder, chance)
    with path.open("ab") as file:
        file.write(chance.bytes(int(chance.integers(1, 5000))))
    return [path.name]


def remove(folder: Path, _: Path, chance: Chance) -> Sequence[str]:
    path = _any_file(folder, chance)
    path.unlink()
    return [path.name]


def add_stranger(folder: Path, _: Path, chance: Chance) -> Sequence[str]:
    path = _any_file(folder, chance)
    stranger = path.name.replace("shard-0000", "shard-0001")
    shutil.copy2(path, folder / stranger)
    return [stranger]


def rename_shard(folder: Path, _: Path, chance: Chance) -> Sequence[str]:
    path = _any_file(folder, chance, ".mindrecord")
    new = path.name.replace("shard-0000", "shard-0002")
    for ending in ("", ".db"):
        (folder / (path.name + ending)).rename(folder / (new + ending))
    return [path.name, path.name + ".db", new, new + ".db"]


def swap_shards(folder: Path, _: Path, chance: Chance) -> Sequence[str]:
    first, second = (str(name) for name in chance.permutation([s.file for s in Manifest.read(folder).shards])[:2])
    for ending in ("", ".db"):
        (folder / (first + ending)).rename(folder / "between")
        (folder / (second + ending)).rename(folder / (first + ending))
        (folder / "between").rename(folder / (second + ending))
    return [first, second]


def delete_rows(folder: Path, _: Path, chance: Chance) -> Sequence[str]:
    path = _any_file(folder, chance, ".db")
    keep_time = bool(chance.integers(2))
    before = path.stat()
    database = sqlite3.connect(path)
    with database:
        database.execute("DELETE FROM INDEXES WHERE ROW_ID = ?", (int(chance.integers(0, 4)),))
    database.close()
    if keep_time:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    return [path.name]


def mix_sets(folder: Path, other: Path, chance: Chance) -> Sequence[str]:
    path = _any_file(folder, chance, ".mindrecord")
    for name in (path.name, path.name + ".db", path.with_suffix(".json").name):
        shutil.copy2(other / name, folder / name)
    return [path.name]


def manifest_of_another_set(folder: Path, other: Path, _: Chance) -> Sequence[str]:
    shutil.copy2(other / FILE_NAME, folder / FILE_NAME)
    return [Manifest.read(folder).shards[0].file]


def manifest_of_another_version(folder: Path, _: Path, chance: Chance) -> Sequence[str]:
    content = json.loads((folder / FILE_NAME).read_bytes())
    content["format"] = [VERSION - 1, VERSION + 1, 99, str(VERSION), None, VERSION + 0.5][int(chance.integers(6))]
    (folder / FILE_NAME).write_text(json.dumps(content))
    return [FILE_NAME]


def truncate_manifest(folder: Path, _: Path, chance: Chance) -> Sequence[str]:
    path = folder / FILE_NAME
    os.truncate(path, int(chance.integers(0, path.stat().st_size - 2)))
    return [FILE_NAME]


DAMAGES: tuple[Damage, ...] = (
    flip_data,
    flip_index,
    truncate,
    grow,
    remove,
    add_stranger,
    rename_shard,
    swap_shards,
    delete_rows,
    mix_sets,
    manifest_of_another_set,
    manifest_of_another_version,
    truncate_manifest,
)


def damage_sets(seed: int, cases: int, folder: Path) -> Findings:
    """Damage copies of a set, kind after kind: each is found by `verify` and mended by building again."""
    coco = make_source(folder / "coco")
    sound, other = folder / "sound", folder / "other"
    build_here(coco, sound)
    build_here(coco, other, "--min-keypoints", 3, "--keep-empty", per_shard=8)
    expected = contents(sound)
    findings = Findings()
    noticed = rewritten = 0
    for case in range(cases):
        kind = DAMAGES[case % len(DAMAGES)]
        copy = Path(shutil.copytree(sound, folder / "set"))
        named = kind(copy, other, np.random.default_rng((seed, case)))
        noticed += _is_refused(copy, hash_all=False)
        before = _versions(copy)
        problem = _missed(copy, named) or _mend(coco, copy, expected)
        written = [name for name, version in _versions(copy).items() if before.get(name) != version]
        rewritten += len(written)
        sound_ones = set(written) - {name.removesuffix(".db") for name in named}
        if not problem and sound_ones and named[0] in expected and kind is not manifest_of_another_set:
            problem = f"building again also wrote {', '.join(sorted(sound_ones))}"
        findings.count(f"{kind.__name__} (case {case})", problem)
        shutil.rmtree(copy)
    findings.figures.append(f"verify misses {sum('verify' in failure for failure in findings.failures)}")
    findings.figures.append(f"training notices {noticed} by size and time alone")
    findings.figures.append(f"{rewritten / max(cases, 1):.1f} of 3 shards written again")
    return findings


def _versions(folder: Path) -> dict[str, tuple[int, int]]:
    found = ((path.name, path.stat()) for path in folder.glob("*.mindrecord"))
    return {name: (info.st_ino, info.st_mtime_ns) for name, info in found}


def _is_refused(folder: Path, *, hash_all: bool) -> bool:
    """Whether training does not begin, and says why in one line."""
    try:
        Manifest.load(folder, hash_all=hash_all, hash_modified=True)
    except InputError as error:
        return "\n" not in str(error)
    return False


def _missed(folder: Path, named: Sequence[str]) -> str | None:
    """What `verify`, or training with its option, does not find."""
    result = CliRunner().invoke(verify, [str(folder)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        return f"verify raised {result.exception!r}"
    missed = [name for name in named if f"{folder / name}: " not in result.output]
    if result.exit_code != 1 or missed:
        return f"verify ended with {result.exit_code} and did not name {', '.join(missed)}"
    return None if _is_refused(folder, hash_all=True) else "training --verify would begin"


def _mend(coco: Path, folder: Path, expected: dict[str, str]) -> str | None:
    """Build again; what is wrong with the set after that."""
    result = build_here(coco, folder)
    if result.exit_code:
        return f"building again ended with {result.exit_code}: {result.output[-200:]}"
    after = contents(folder)
    if after != expected:
        different = sorted(name for name in after.keys() | expected.keys() if after.get(name) != expected.get(name))
        return f"building again left other bytes in {', '.join(different)}"
    return None
