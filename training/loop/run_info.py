"""run.json: with what a run was made, this time and every time before.

Its own fields tell of the session that runs or ran last, a stretch between start and end of the process; those of
earlier sessions stand whole in `earlier`, oldest first.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np

from pipeline.storage.manifest import Manifest
from pipeline.system.cpu import usable_cores
from pipeline.system.files import write_atomically
from training.config import Config
from training.distributed.world import World

FILE_NAME = "run.json"
ROOT = Path(__file__).resolve().parents[2]

_LIBRARIES = ("mindspore", "numpy", "opencv-python-headless", "simplejpeg")
_NAME_BYTES = 64


def record_session(run: Path, config: Config, shards: Path, world: World, done: int) -> None:
    """Write run.json as a session begins after `done` steps; every process has to call this, rank 0 writes."""
    hosts = gather_host_names(world)
    if world.rank == 0:
        session = {
            "step": done,
            "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "command": shlex.join(sys.orig_argv),
            "versions": versions(),
            "git": git_state(ROOT),
            **describe_environment(world, hosts),
            "shards": describe_shards(shards, Manifest.read(shards)),
            "config": config.model_dump(mode="json"),
        }
        path = run / FILE_NAME
        write_atomically(path, json.dumps(add_session(_read(path), session), indent=1) + "\n")


def add_session(before: Mapping[str, Any] | None, session: Mapping[str, Any]) -> dict[str, Any]:
    """What run.json holds with another session: its fields, and in `earlier` all those before."""
    if before is None:
        return {**session, "earlier": []}
    last = {name: value for name, value in before.items() if name != "earlier"}
    return {**session, "earlier": [*before.get("earlier", []), last]}


def describe_environment(world: World, hosts: Sequence[str]) -> dict[str, Any]:
    """Where a session runs; `hosts` names the machine of each process."""
    name = str(ms.hal.get_device_name(0, world.device))
    return {
        "hosts": list(dict.fromkeys(hosts)),
        "processes": world.size,
        "device": world.device if name == world.device else f"{world.device} {name}",
        "platform": platform.platform(),
        "cores": usable_cores(),
    }


def describe_shards(shards: Path, manifest: Manifest) -> dict[str, Any]:
    """Which training set it is: its folder, its size, and the hash in its manifest, the same wherever it lies."""
    return {"folder": str(shards), "records": manifest.records, "fingerprint": manifest.fingerprint}


def versions() -> dict[str, str]:
    """Versions of this project, of Python and of the libraries that decide what is learnt."""
    libraries = {name: importlib.metadata.version(name) for name in _LIBRARIES}
    return {"project": _project_version(), "python": platform.python_version(), **libraries}


def _project_version() -> str:
    """Of the source tree, or of the package installed from it."""
    tree = ROOT / "pyproject.toml"
    if tree.is_file():
        match = re.search(r'^version = "(.+)"$', tree.read_text(encoding="utf-8"), re.MULTILINE)
        return match[1] if match else ""
    return importlib.metadata.version("openpose-mindspore")


def git_state(root: Path) -> dict[str, Any] | None:
    """The commit of a source tree and whether its files differ from it; None if `root` is no repository's root."""
    top = _git(root, "rev-parse", "--show-toplevel")
    commit = _git(root, "rev-parse", "HEAD")
    if not top or not commit or not Path(top).samefile(root):
        return None
    return {"commit": commit, "dirty": bool(_git(root, "status", "--porcelain", "--untracked-files=no"))}


def _git(root: Path, *arguments: str) -> str | None:
    """What git answers, None where it is not there or fails."""
    try:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def gather_host_names(world: World) -> list[str]:
    """Name of each process's machine, by rank; names are cut after 64 bytes."""
    name = platform.node().encode()[:_NAME_BYTES].ljust(_NAME_BYTES, b"\0")
    gathered = world.all_gather(np.frombuffer(name, dtype=np.int64)).tobytes()
    names = [gathered[start : start + _NAME_BYTES] for start in range(0, len(gathered), _NAME_BYTES)]
    return [name.rstrip(b"\0").decode(errors="replace") for name in names]


def _read(path: Path) -> dict[str, Any] | None:
    """What run.json holds, None if there is none; one that cannot be read is kept under another name."""
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        content = None
    if not isinstance(content, dict):
        path.replace(path.with_name(f"{path.name}.damaged"))
        return None
    return content
