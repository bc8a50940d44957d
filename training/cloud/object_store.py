"""Copy files and folders from and to ModelArts' object store (OBS) with its Python library moxing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.errors import InputError

FileStates = dict[str, tuple[int, int]]
"""(size in bytes, modification time in ns) of each file of a folder, by relative path."""


def is_url(location: str) -> bool:
    """True for a location in an object store, such as obs://bucket/folder; False for a local path."""
    return "://" in location


def object_store_api(url: str) -> Any:
    """Return the module `moxing.file`; InputError if moxing is not installed, as on most machines but ModelArts'."""
    try:
        import moxing
    except ImportError:
        raise InputError(f"{url}: requires moxing, which is not installed here; use a local folder") from None
    return moxing.file


def download(url: str, target: Path, *, file: bool = False) -> None:
    """Copy a folder, or a file, of the object store to a local path.

    Raises:
        InputError: it does not exist or cannot be copied, or moxing is not installed.
    """
    store = object_store_api(url)
    try:
        if not store.exists(url):
            raise InputError(f"{url}: no such {'file' if file else 'folder'}")
        (store.copy if file else store.copy_parallel)(url, str(target))
    except (OSError, RuntimeError) as error:
        raise InputError(f"{url}: cannot be copied to {target}: {error}") from error


class FolderMirror:
    """Keep a folder of the object store equal to a local folder. Only new and changed files are uploaded.

    Args:
        folder: local folder; its present content must have been downloaded from `url`.
        url: folder of the object store.
    """

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.url = url.rstrip("/")
        self.store = object_store_api(url)
        self.uploaded = scan_folder(folder)

    def sync(self) -> list[str]:
        """Upload new and changed files, then delete removed ones.

        Returns:
            Error messages. The next call repeats what failed.
        """
        errors = []
        current = scan_folder(self.folder)
        for name, state in current.items():
            if self.uploaded.get(name) != state and (error := self._upload(name)):
                errors.append(error)
            elif (self.folder / name).exists():
                self.uploaded[name] = state
        if not errors:
            for name in self.uploaded.keys() - current.keys():
                errors += filter(None, [self._delete(name)])
        return errors

    def _upload(self, name: str) -> str | None:
        try:
            self.store.copy(str(self.folder / name), f"{self.url}/{name}")
        except Exception as error:  # moxing raises the exceptions of its client, which have no common base class
            # Training deletes old checkpoints, possibly during the upload. That is not an error.
            return f"{self.url}/{name}: upload failed: {error}" if (self.folder / name).exists() else None
        return None

    def _delete(self, name: str) -> str | None:
        try:
            self.store.remove(f"{self.url}/{name}")
        except Exception as error:
            return f"{self.url}/{name}: deletion failed: {error}"
        del self.uploaded[name]
        return None


def scan_folder(folder: Path) -> FileStates:
    """Return the state of each file below a folder, sorted by path.

    Files whose names start with a dot are skipped, because they are still being written.
    """
    states: FileStates = {}
    for path in sorted(folder.rglob("*")):
        try:
            info = path.stat()
        except FileNotFoundError:
            continue
        if path.is_file() and not path.name.startswith("."):
            states[path.relative_to(folder).as_posix()] = (info.st_size, info.st_mtime_ns)
    return states
