"""The folder of unfinished shards, with notes of which image each worker reads, so that an error can name it.

A worker keeps one small file open in its staging folder and overwrites it before it reads an image, which takes a few
microseconds. The operating system keeps the content when the process dies.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

STAGING_FOLDER = ".building"
"""Name of the folder of unfinished shards in the output folder."""

_FILE = "reading"


@contextlib.contextmanager
def note_progress(folder: Path) -> Iterator[Callable[[str], None]]:
    """Yield a function that notes the image that is read next; `folder` is the staging folder of a shard."""
    file = os.open(folder / _FILE, os.O_WRONLY | os.O_CREAT, 0o600)

    def note(path: str) -> None:
        data = os.fsencode(path)
        os.pwrite(file, data, 0)
        os.ftruncate(file, len(data))

    try:
        yield note
    finally:
        os.close(file)


def images_being_read(out: Path) -> list[str]:
    """Return the images that the workers of all unfinished shards in an output folder were reading."""
    names = []
    for path in sorted((out / STAGING_FOLDER).glob(f"*/{_FILE}")):
        with contextlib.suppress(OSError):
            names.append(os.fsdecode(path.read_bytes()))
    return [name for name in names if name]
