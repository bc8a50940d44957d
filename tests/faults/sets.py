"""Small sets of shards to be damaged, and what they must look like afterwards."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from click.testing import CliRunner, Result

from pipeline.shards import main
from pipeline.storage.manifest import FILE_NAME
from tests.support.coco_folder import mixed, write

PICTURES = 24
"""Of which half have a trainable person; four to a shard make three shards."""


def make_source(folder: Path, pictures: int = PICTURES) -> Path:
    """A COCO folder."""
    return write(folder, mixed(pictures))


def arguments(coco: Path, out: Path, *more: object) -> list[str]:
    """Options of pipeline.shards."""
    return ["--coco", str(coco), "--split", "train", "--out", str(out), *map(str, more)]


def build_here(coco: Path, out: Path, *more: object, per_shard: int = 4) -> Result:
    """Run pipeline.shards in this process, without further ones."""
    options = ("--workers", 1, "--records-per-shard", per_shard, *more)
    return CliRunner().invoke(main, arguments(coco, out, *options))


def contents(folder: Path) -> dict[str, str]:
    """Hash of everything in a set; where its source lay does not count."""
    found = {}
    for path in sorted(folder.rglob("*")):
        data = b"" if path.is_dir() else path.read_bytes()
        if path.name == FILE_NAME:
            content = json.loads(data)
            content["sources"] = [{**source, "coco": ""} for source in content["sources"]]
            data = json.dumps(content).encode()
        found[str(path.relative_to(folder))] = hashlib.sha256(data).hexdigest()
    return found


def broken_promise(result: Result, codes: tuple[int, ...] = (0, 2)) -> str | None:
    """What is wrong with how a command ended: it has to be a code of `codes`, and one line where it is no success."""
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        return f"{type(result.exception).__name__}: {str(result.exception)[:200]}"
    if result.exit_code not in codes:
        return f"exit code {result.exit_code}: {result.output[-200:]}"
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    if result.exit_code == 2 and (len(errors) != 1 or not result.stderr.endswith(f"{errors[0]}\n")):
        return f"not one line: {result.stderr[-200:]!r}"
    return None
