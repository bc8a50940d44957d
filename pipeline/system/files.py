"""Permissions, hashes and atomic writes of files."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import InputError


def set_default_permissions(path: Path) -> None:
    """Give a file the permissions of a newly created file in its folder. MindSpore creates files with 0600 or 0400.

    The permissions are read from a temporary file: the umask can only be read by changing it, for all threads.
    """
    temporary = path.with_name(f"{path.name}.mode")
    try:
        temporary.touch()
        path.chmod(temporary.stat().st_mode & 0o777)
    finally:
        temporary.unlink(missing_ok=True)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content as hexadecimal digits. The file is read in blocks."""
    digest = hashlib.sha256()
    buffer = bytearray(1 << 16)  # small enough to stay in the CPU cache between reading and hashing
    view = memoryview(buffer)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(view[:count])
    return digest.hexdigest()


def json_sha256(content: object) -> str:
    """Return the SHA-256 of a JSON value as hexadecimal digits; it does not depend on the order of keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a temporary file in the same folder, text as UTF-8, and rename it to `path`."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def convert_write_errors(path: Path) -> Iterator[None]:
    """Create the parent folder of a file, and convert an OSError in the body to an InputError that names the file."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error
