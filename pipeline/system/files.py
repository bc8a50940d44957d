"""What new files have in common."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path


def set_default_permissions(path: Path) -> None:
    """Give a file the permissions that any new file in its folder gets; MindSpore creates its own 0600 or 0400.

    A new file tells them. Asking for the umask would mean to change it, for all threads.
    """
    usual = path.with_name(f"{path.name}.mode")
    try:
        usual.touch()
        path.chmod(usual.stat().st_mode & 0o777)
    finally:
        usual.unlink(missing_ok=True)


def file_sha256(path: Path) -> str:
    """Hash of a file's content, as hexadecimal digits; the file is streamed."""
    digest = hashlib.sha256()
    buffer = bytearray(1 << 16)  # stays in the cache between reading and hashing
    view = memoryview(buffer)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(view[:count])
    return digest.hexdigest()


def json_sha256(content: object) -> str:
    """Hash of what a json file holds, whatever the order of its keys, as hexadecimal digits."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file, text as UTF-8, beside its place and rename it there."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
