"""Folders in ModelArts' object store, reached through moxing, and keeping a folder there as the one here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.errors import InputError

State = dict[str, tuple[int, int]]
"""Size and time of change, ns, of each file of a folder by its name below it."""


def is_url(place: str) -> bool:
    """Whether this is a place in an object store, such as obs://bucket/folder, and not a folder of this machine."""
    return "://" in place


def object_store_api(url: str) -> Any:
    """The functions on files of moxing; InputError where it is not installed: it is there on ModelArts alone."""
    try:
        import moxing
    except ImportError:
        raise InputError(f"{url}: needs moxing, which is not installed here; give a folder of this machine") from None
    return moxing.file


def download(url: str, target: Path, *, file: bool = False) -> None:
    """Copy a folder, or a file, of the store here; InputError if it is not there or cannot be copied."""
    store = object_store_api(url)
    try:
        if not store.exists(url):
            raise InputError(f"{url}: no such {'file' if file else 'folder'}")
        (store.copy if file else store.copy_parallel)(url, str(target))
    except (OSError, RuntimeError) as error:
        raise InputError(f"{url}: cannot be copied to {target}: {error}") from error


class FolderMirror:
    """Keeps a folder of the store as one of this machine; what it has already is not sent again.

    Args:
        folder: here; what is in it now came from the store.
        url: there.
    """

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.url = url.rstrip("/")
        self.store = object_store_api(url)
        self.sent = scan_folder(folder)

    def sync(self) -> list[str]:
        """Send what is new or changed, then remove what is gone; returns what failed, which the next call repeats."""
        failed = []
        now = scan_folder(self.folder)
        for name, state in now.items():
            if self.sent.get(name) != state and (problem := self._send(name)):
                failed.append(problem)
            elif (self.folder / name).exists():
                self.sent[name] = state
        if not failed:
            for name in self.sent.keys() - now.keys():
                failed += filter(None, [self._remove(name)])
        return failed

    def _send(self, name: str) -> str | None:
        try:
            self.store.copy(str(self.folder / name), f"{self.url}/{name}")
        except Exception as error:  # moxing raises whatever its client does
            # an old checkpoint may have gone meanwhile
            return f"{self.url}/{name}: not sent: {error}" if (self.folder / name).exists() else None
        return None

    def _remove(self, name: str) -> str | None:
        try:
            self.store.remove(f"{self.url}/{name}")
        except Exception as error:
            return f"{self.url}/{name}: not removed: {error}"
        del self.sent[name]
        return None


def scan_folder(folder: Path) -> State:
    """The files of a folder, in the order of their names; unfinished ones, whose names begin with a point, left out."""
    found: State = {}
    for path in sorted(folder.rglob("*")):
        try:
            info = path.stat()
        except FileNotFoundError:
            continue
        if path.is_file() and not path.name.startswith("."):
            found[path.relative_to(folder).as_posix()] = (info.st_size, info.st_mtime_ns)
    return found
