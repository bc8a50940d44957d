"""Small shard sets for the fault suites, and functions to compare them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from click.testing import CliRunner, Result

from pipeline.shards import main
from pipeline.storage.manifest import FILE_NAME
from tests.support.coco_folder import mixed, write

PICTURES = 24
"""Number of images; half of them have a trainable person, which gives three shards with four records each."""


def create_source(folder: Path, pictures: int = PICTURES) -> Path:
    """Create a COCO folder."""
    return write(folder, mixed(pictures))


def build_arguments(coco: Path, out: Path, *more: object) -> list[str]:
    """Return the options of pipeline.shards."""
    return ["--coco", str(coco), "--split", "train", "--out", str(out), *map(str, more)]


def build_in_process(coco: Path, out: Path, *more: object, per_shard: int = 4) -> Result:
    """Run pipeline.shards in this process, without worker processes."""
    options = ("--workers", 1, "--records-per-shard", per_shard, *more)
    return CliRunner().invoke(main, build_arguments(coco, out, *options))


def file_hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file in a set; the path of the source in the manifest is ignored."""
    found = {}
    for path in sorted(folder.rglob("*")):
        data = b"" if path.is_dir() else path.read_bytes()
        if path.name == FILE_NAME:
            content = json.loads(data)
            content["sources"] = [{**source, "coco": ""} for source in content["sources"]]
            data = json.dumps(content).encode()
        found[str(path.relative_to(folder))] = hashlib.sha256(data).hexdigest()
    return found


def command_problem(result: Result, codes: tuple[int, ...] = (0, 2)) -> str | None:
    """Return what is wrong with the end of a command, or None.

    The exit code must be one of `codes`, and an error (exit code 2) must be one line.
    """
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        return f"{type(result.exception).__name__}: {str(result.exception)[:200]}"
    if result.exit_code not in codes:
        return f"exit code {result.exit_code}: {result.output[-200:]}"
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    if result.exit_code == 2 and (len(errors) != 1 or not result.stderr.endswith(f"{errors[0]}\n")):
        return f"not one line: {result.stderr[-200:]!r}"
    return None
