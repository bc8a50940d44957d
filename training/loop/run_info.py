"""run.json: command, versions, machines, training set and recipe of every session of a run.

A session lasts from the start of the training process to its end. The fields of run.json describe the latest session;
`earlier` lists the previous ones, oldest first.
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
_HOST_NAME_BYTES = 64


def record_session(run: Path, config: Config, shards: Path, world: World, done: int) -> None:
    """Write run.json on rank 0 for a session that starts after `done` steps; a collective call."""
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


def add_session(previous: Mapping[str, Any] | None, session: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of run.json with a new session, and all previous ones in `earlier`."""
    if previous is None:
        return {**session, "earlier": []}
    last = {name: value for name, value in previous.items() if name != "earlier"}
    return {**session, "earlier": [*previous.get("earlier", []), last]}


def describe_environment(world: World, hosts: Sequence[str]) -> dict[str, Any]:
    """Return hosts, device and platform of a session; `hosts` holds the host name of each process."""
    name = str(ms.hal.get_device_name(0, world.device))
    return {
        "hosts": list(dict.fromkeys(hosts)),
        "processes": world.size,
        "device": world.device if name == world.device else f"{world.device} {name}",
        "platform": platform.platform(),
        "cores": usable_cores(),
    }


def describe_shards(shards: Path, manifest: Manifest) -> dict[str, Any]:
    """Return folder, number of records and fingerprint of the training set; moving the set keeps the fingerprint."""
    return {"folder": str(shards), "records": manifest.records, "fingerprint": manifest.fingerprint}


def versions() -> dict[str, str]:
    """Return the versions of this project, Python and the libraries that influence training results."""
    libraries = {name: importlib.metadata.version(name) for name in _LIBRARIES}
    return {"project": _project_version(), "python": platform.python_version(), **libraries}


def _project_version() -> str:
    """Return the version in the source tree, or else that of the installed package."""
    tree = ROOT / "pyproject.toml"
    if tree.is_file():
        match = re.search(r'^version = "(.+)"$', tree.read_text(encoding="utf-8"), re.MULTILINE)
        return match[1] if match else ""
    return importlib.metadata.version("openpose-mindspore")


def git_state(root: Path) -> dict[str, Any] | None:
    """Return the commit of a source tree and whether tracked files differ; None if `root` is no repository root."""
    top_level = _git(root, "rev-parse", "--show-toplevel")
    commit = _git(root, "rev-parse", "HEAD")
    if not top_level or not commit or not Path(top_level).samefile(root):
        return None
    return {"commit": commit, "dirty": bool(_git(root, "status", "--porcelain", "--untracked-files=no"))}


def _git(root: Path, *arguments: str) -> str | None:
    """Return the output of git; None if it is not installed or fails."""
    try:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def gather_host_names(world: World) -> list[str]:
    """Return the host name of each process by rank, truncated to 64 bytes; a collective call."""
    name = platform.node().encode()[:_HOST_NAME_BYTES].ljust(_HOST_NAME_BYTES, b"\0")
    gathered = world.all_gather(np.frombuffer(name, dtype=np.int64)).tobytes()
    names = [gathered[start : start + _HOST_NAME_BYTES] for start in range(0, len(gathered), _HOST_NAME_BYTES)]
    return [name.rstrip(b"\0").decode(errors="replace") for name in names]


def _read(path: Path) -> dict[str, Any] | None:
    """Return the content of run.json, or None. A file that cannot be parsed is renamed to run.json.damaged."""
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
