"""Image files of an annotation file: their paths below the image folder, symbolic links, and sizes.

File names come from a file that may be of anyone, so no name leads out of the image folder. A symbolic link in the
folder may, if the user allows it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

from pipeline.errors import InputError
from pipeline.images.decode import read_header
from pipeline.images.exif import ExifRule

_SIMPLE_NAME = re.compile(r"\w[\w.-]*", re.ASCII)
_MAX_NAME = 1024
_MAX_DEPTH = 64
_LOCAL_FILE = "?d="
"""What precedes the path of a file in the URLs of Label Studio's local storage."""


@dataclass(frozen=True)
class ImageFolder:
    """A folder of images, and where symbolic links in it may lead.

    Attributes:
        path: the folder.
        links_to: further folders to which links may lead.
        follow_links: links may lead anywhere.
        exif: whether annotations refer to images that are turned as their EXIF orientation says.
    """

    path: Path
    links_to: tuple[Path, ...] = ()
    follow_links: bool = False
    exif: ExifRule = "apply"

    def file_path(self, file_name: str) -> str:
        """Return the path of an image; raise InputError if a symbolic link leads to a place that is not allowed."""
        path = os.path.join(self.path, file_name)  # noqa: PTH118 (a Path costs as much as reading the file)
        if self.follow_links:
            return path
        part = str(self.path)
        for name in PurePosixPath(file_name).parts:
            part = f"{part}{os.sep}{name}"
            if os.path.islink(part):  # noqa: PTH114
                target = os.path.realpath(path)
                if not any(_is_below(target, folder) for folder in (self.path, *self.links_to)):
                    raise InputError(
                        f"a symbolic link points outside the image folder, to {target[:200]} (--allow-links-to FOLDER)"
                    )
        return path

    def find(self, name: str) -> str | None:
        """Return the path of an existing file, relative to the folder, that a file name means; None if there is none.

        Tried are the name itself, then, if its folder does not exist here, the name without its first folders: paths of
        the machine or server where the annotations were made. Backslashes separate folders, and escapes of URLs (%20)
        are resolved.
        """
        if not 0 < len(name) <= _MAX_NAME:
            return None
        for text in dict.fromkeys((name, unquote(name))):
            for candidate in _candidates(text, self.path):
                if is_safe_path(candidate) and os.path.isfile(f"{self.path}{os.sep}{candidate}"):  # noqa: PTH113
                    return candidate
                parent = os.path.dirname(candidate)  # noqa: PTH120
                if parent and os.path.isdir(f"{self.path}{os.sep}{parent}"):  # noqa: PTH112
                    break
        return None

    def size(self, file_name: str) -> tuple[int, int]:
        """Return (height, width) in px from the header of an image; raise InputError if it cannot be read."""
        try:
            header = read_header(Path(self.file_path(file_name)).read_bytes())
        except OSError as error:
            raise InputError(f"cannot be read: {error.strerror}") from error
        return header.turned_size if self.exif == "apply" else header.size


def _is_below(target: str, folder: Path) -> bool:
    real = os.path.realpath(folder)
    return target.startswith(real if real.endswith(os.sep) else real + os.sep)


def _candidates(name: str, folder: Path) -> Iterator[str]:
    """Yield relative paths that a file name may mean, the most literal first."""
    if name.startswith(f"{folder}{os.sep}"):
        yield name[len(str(folder)) + 1 :]
    parts = [part for part in last_path(name).split("/") if part not in ("", ".")]
    if ".." in parts:
        parts = parts[len(parts) - parts[::-1].index("..") :]
    for start in range(max(len(parts) - _MAX_DEPTH, 0), len(parts)):
        yield "/".join(parts[start:])


def last_path(name: str) -> str:
    """Return the path that a file name or URL states, with slashes between folders."""
    text = name.partition(_LOCAL_FILE)[2] or name
    return text.replace("\\", "/")


def is_safe_path(name: Any) -> bool:
    """Return True for a relative path that does not lead out of its folder and has no unprintable characters."""
    if not isinstance(name, str) or not 0 < len(name) <= _MAX_NAME or "\\" in name or not name.isprintable():
        return False
    if _SIMPLE_NAME.fullmatch(name):
        return True
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and path.name != "" and ":" not in path.parts[0]
