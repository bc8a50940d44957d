"""Damaged shard sets: the damage must be detected, named and repaired, without rewriting the intact shards."""

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
from tests.faults.report import FaultReport
from tests.faults.shard_sets import build_in_process, create_source, file_hashes

Generator = np.random.Generator
Damage = Callable[[Path, Path, Generator], Sequence[str]]
"""Damages a set, given a second set with the same number of shards; returns the files that `verify` must name."""


def _any_file(folder: Path, rng: Generator, ending: str = "") -> Path:
    names = [name for shard in Manifest.read(folder).shards for name in (shard.file, shard.index)]
    return folder / str(rng.choice([name for name in names if name.endswith(ending)]))


def _flip_bits(path: Path, rng: Generator) -> Sequence[str]:
    data = bytearray(path.read_bytes())
    for at in rng.integers(0, len(data), int(rng.integers(1, 4))):
        data[at] ^= 1 << int(rng.integers(8))
    mutate_tree = bytes(data) != path.read_bytes()
    path.write_bytes(data if mutate_tree else b"")
    return [path.name]


def flip_data(folder: Path, _: Path, rng: Generator) -> Sequence[str]:
    return _flip_bits(_any_file(folder, rng, ".mindrecord"), rng)


def flip_index(folder: Path, _: Path, rng: Generator) -> Sequence[str]:
    return _flip_bits(_any_file(folder, rng, ".db"), rng)


def truncate(folder: Path, _: Path, rng: Generator) -> Sequence[str]:
    path = _any_file(folder, rng)
    os.truncate(path, int(rng.integers(0, path.stat().st_size)))
    return [path.name]


def grow(folder: Path, _: Path, rng: Generator) -> Sequence[str]:
    path = _any_file(folder, rng)
    with path.open("ab") as file:
        file.write(rng.bytes(int(rng.integers(1, 5000))))
    return [path.name]


def remove(folder: Path, _: Path, rng: Generator) -> Sequence[str]:
    path = _any_file(folder, rng)
    path.unlink()
    return [path.name]


def add_unlisted_shard(folder: Path, _: Path, rng: Generator) -> Sequence[str]:
    path = _any_file(folder, rng)
    stranger = path.name.replace("shard-0000", "shard-0001")
    shutil.copy2(path, folder / stranger)
    return [stranger]


def rename_shard(folder: Path, _: Path, rng: Generator) -> Sequence[str]:
    path = _any_file(folder, rng, ".mindrecord")
    new = path.name.replace("shard-0000", "shard-0002")
    for ending in ("", ".db"):
        (folder / (path.name + ending)).rename(folder / (new + ending))
    return [path.name, path.name + ".db", new, new + ".db"]


def swap_shards(folder: Path, _: Path, rng: Generator) -> Sequence[str]:
    first, second = (str(name) for name in rng.permutation([s.file for s in Manifest.read(folder).shards])[:2])
    for ending in ("", ".db"):
        (folder / (first + ending)).rename(folder / "between")
        (folder / (second + ending)).rename(folder / (first + ending))
        (folder / "between").rename(folder / (second + ending))
    return [first, second]


def delete_rows(folder: Path, _: Path, rng: Generator) -> Sequence[str]:
    path = _any_file(folder, rng, ".db")
    keep_time = bool(rng.integers(2))
    before = path.stat()
    database = sqlite3.connect(path)
    with database:
        database.execute("DELETE FROM INDEXES WHERE ROW_ID = ?", (int(rng.integers(0, 4)),))
    database.close()
    if keep_time:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    return [path.name]


def copy_shard_of_another_set(folder: Path, other: Path, rng: Generator) -> Sequence[str]:
    path = _any_file(folder, rng, ".mindrecord")
    for name in (path.name, path.name + ".db", path.with_suffix(".json").name):
        shutil.copy2(other / name, folder / name)
    return [path.name]


def replace_manifest(folder: Path, other: Path, _: Generator) -> Sequence[str]:
    shutil.copy2(other / FILE_NAME, folder / FILE_NAME)
    return [Manifest.read(folder).shards[0].file]


def change_manifest_version(folder: Path, _: Path, rng: Generator) -> Sequence[str]:
    content = json.loads((folder / FILE_NAME).read_bytes())
    content["format"] = [VERSION - 1, VERSION + 1, 99, str(VERSION), None, VERSION + 0.5][int(rng.integers(6))]
    (folder / FILE_NAME).write_text(json.dumps(content))
    return [FILE_NAME]


def truncate_manifest(folder: Path, _: Path, rng: Generator) -> Sequence[str]:
    path = folder / FILE_NAME
    os.truncate(path, int(rng.integers(0, path.stat().st_size - 2)))
    return [FILE_NAME]


DAMAGES: tuple[Damage, ...] = (
    flip_data,
    flip_index,
    truncate,
    grow,
    remove,
    add_unlisted_shard,
    rename_shard,
    swap_shards,
    delete_rows,
    copy_shard_of_another_set,
    replace_manifest,
    change_manifest_version,
    truncate_manifest,
)


def damage_shards(seed: int, cases: int, folder: Path) -> FaultReport:
    """Damage copies of a set in all ways: `verify` must detect each damage, and another build must repair it."""
    coco = create_source(folder / "coco")
    reference, other = folder / "intact", folder / "other"
    build_in_process(coco, reference)
    build_in_process(coco, other, "--min-keypoints", 3, "--keep-empty", per_shard=8)
    expected = file_hashes(reference)
    report = FaultReport()
    detected = rewritten = 0
    for case in range(cases):
        kind = DAMAGES[case % len(DAMAGES)]
        copy = Path(shutil.copytree(reference, folder / "set"))
        named = kind(copy, other, np.random.default_rng((seed, case)))
        detected += _is_rejected(copy, hash_all=False)
        before = _file_versions(copy)
        problem = _detection_problem(copy, named) or _rebuild_problem(coco, copy, expected)
        written = [name for name, version in _file_versions(copy).items() if before.get(name) != version]
        rewritten += len(written)
        intact = set(written) - {name.removesuffix(".db") for name in named}
        if not problem and intact and named[0] in expected and kind is not replace_manifest:
            problem = f"the repairing build also rewrote {', '.join(sorted(intact))}"
        report.add_case(f"{kind.__name__} (case {case})", problem)
        shutil.rmtree(copy)
    report.figures.append(f"verify misses {sum('verify' in failure for failure in report.failures)}")
    report.figures.append(f"training detects {detected} by file size and time only")
    report.figures.append(f"{rewritten / max(cases, 1):.1f} of 3 shards rewritten on average")
    return report


def _file_versions(folder: Path) -> dict[str, tuple[int, int]]:
    found = ((path.name, path.stat()) for path in folder.glob("*.mindrecord"))
    return {name: (info.st_ino, info.st_mtime_ns) for name, info in found}


def _is_rejected(folder: Path, *, hash_all: bool) -> bool:
    """Return True if training rejects the set with a one-line error."""
    try:
        Manifest.load(folder, hash_all=hash_all, hash_modified=True)
    except InputError as error:
        return "\n" not in str(error)
    return False


def _detection_problem(folder: Path, named: Sequence[str]) -> str | None:
    """Return what `verify`, or training with --verify, does not detect, or None."""
    result = CliRunner().invoke(verify, [str(folder)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        return f"verify raised {result.exception!r}"
    missed = [name for name in named if f"{folder / name}: " not in result.output]
    if result.exit_code != 1 or missed:
        return f"verify had exit code {result.exit_code} and did not name {', '.join(missed)}"
    return None if _is_rejected(folder, hash_all=True) else "training --verify accepts the set"


def _rebuild_problem(coco: Path, folder: Path, expected: dict[str, str]) -> str | None:
    """Build again; return what is wrong with the set afterwards, or None."""
    result = build_in_process(coco, folder)
    if result.exit_code:
        return f"the repairing build had exit code {result.exit_code}: {result.output[-200:]}"
    after = file_hashes(folder)
    if after != expected:
        different = sorted(name for name in after.keys() | expected.keys() if after.get(name) != expected.get(name))
        return f"after the repairing build, bytes differ in {', '.join(different)}"
    return None
