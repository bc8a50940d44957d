"""Where pictures come from that people are sought in: picture files, folders, video files and cameras.

Every picture gets a name, under which its outputs are written, and an image id; both are unique.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.storage.images import check_image

PICTURES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
VIDEOS = frozenset({".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".gif"})
"""Endings of file names, in lower case."""

USUAL_FPS = 30.0
"""Frames a second of a source that does not tell, as many cameras."""

LONGEST_NAME = 180
"""Bytes of a part of a name; file systems take 255, and endings are appended."""

_COCO_ID = re.compile(r"\d{1,12}", re.ASCII)
_FRAME = re.compile(r"(.+)_\d{12}", re.ASCII)


@dataclass(frozen=True)
class PictureFile:
    """A picture.

    Attributes:
        path: its file.
        name: of its outputs, without ending; `/` between folders.
        image_id: COCO's.
    """

    path: Path
    name: str
    image_id: int


@dataclass(frozen=True)
class Video:
    """A video file, or a camera by its number.

    Attributes:
        source: the file or the number.
        name: of its outputs, without ending; `/` between folders.
    """

    source: Path | int
    name: str

    @property
    def title(self) -> str:
        """What it is called where people read it."""
        return f"camera {self.source}" if isinstance(self.source, int) else str(self.source)

    def frame_name(self, index: int) -> str:
        """Name of a frame's outputs, in the form of the OpenPose authors' library."""
        return f"{self.name}_{index:012d}"


@dataclass(frozen=True)
class Sources:
    """All that was asked for.

    Attributes:
        pictures: in the order given; of a folder, in alphabetical order.
        videos: likewise.
        strangers: files that were named but are neither by their ending.
    """

    pictures: tuple[PictureFile, ...]
    videos: tuple[Video, ...]
    strangers: tuple[Path, ...] = ()

    @property
    def first_free_id(self) -> int:
        """The smallest image id above those of all pictures: frames of videos count from here."""
        return 1 + max((picture.image_id for picture in self.pictures), default=0)


@dataclass
class _Names:
    """Names given out so far, in one case, for file systems that know only one."""

    taken: set[str] = field(default_factory=set)

    def give(self, path: PurePath) -> str:
        """A name for the outputs of a path: nothing in it leaves a folder, and none comes twice."""
        wanted = "/".join(_harmless(part) for part in (*path.parts[:-1], path.stem))
        for count in itertools.count(2):
            name = wanted if count == 2 else f"{wanted}-{count - 1}"
            frame = _FRAME.fullmatch(name.casefold())
            if name.casefold() not in self.taken and not (frame and frame[1] in self.taken):
                break
        self.taken.add(name.casefold())
        return name


def _harmless(part: str) -> str:
    """A part of a path without separators, control characters and what is not text, and never `.` or `..`."""
    text = "".join("_" if not letter.isprintable() or letter in "/\\:" else letter for letter in part)
    text = text.encode()[:LONGEST_NAME].decode(errors="ignore")
    return f"_{text[1:]}" if text[:1] in ("", ".") else text


def find_sources(arguments: Sequence[str], out: Path) -> Sources:
    """Find pictures and videos.

    Args:
        arguments: files; folders, which are searched with all their folders, hidden ones left out; and the numbers of
            cameras. A file or folder whose name is a number is given as ./NUMBER.
        out: a folder that is not searched, for what lies in it was made from pictures.

    Raises:
        InputError: a file or folder that is not there, or no picture or video at all.
    """
    videos: list[tuple[Path | int, PurePath]] = []
    pictures: list[tuple[Path, PurePath]] = []
    strangers: list[Path] = []
    for argument in dict.fromkeys(arguments):
        if re.fullmatch(r"\d{1,4}", argument, re.ASCII):
            videos.append((int(argument), PurePath(f"camera{argument}")))
            continue
        for path, relative in _files(Path(argument), out):
            suffix = path.suffix.lower()
            if suffix in PICTURES:
                pictures.append((path, relative))
            elif suffix in VIDEOS:
                videos.append((path, relative))
            elif path == Path(argument):
                strangers.append(path)
    if not pictures and not videos:
        endings = " ".join(sorted(PICTURES | VIDEOS))
        raise InputError(f"{printable(' '.join(arguments))}: no picture or video found; they end in {endings}")
    names = _Names()
    named_videos = tuple(Video(source, names.give(relative)) for source, relative in videos)
    ids = _image_ids([path for path, _ in pictures])
    named = ((path, names.give(relative)) for path, relative in pictures)
    found = tuple(PictureFile(path, name, image_id) for (path, name), image_id in zip(named, ids, strict=True))
    return Sources(found, named_videos, tuple(strangers))


def _files(path: Path, out: Path) -> Iterator[tuple[Path, PurePath]]:
    """A file, or the files of a folder, each with its path below what was given."""
    if not path.is_dir():
        if not path.exists():
            raise InputError(f"{printable(path)}: no such file or folder")
        yield path, PurePath(path.name)
        return
    unwanted = out.resolve()
    for folder, folders, files in os.walk(path):
        here = Path(folder)
        folders[:] = sorted(name for name in folders if name[0] != "." and (here / name).resolve() != unwanted)
        for name in sorted(name for name in files if name[0] != "."):
            yield here / name, (here / name).relative_to(path)


def _image_ids(paths: Sequence[Path]) -> list[int]:
    """COCO's ids where a file's name is a number, as in COCO; the others count on from the largest of these."""
    places: dict[int, int] = {}
    for place, path in enumerate(paths):
        if _COCO_ID.fullmatch(path.stem):
            places.setdefault(int(path.stem), place)
    ids = {place: image_id for image_id, place in places.items()}
    free = itertools.count(1 + max(places, default=0))
    return [ids[place] if place in ids else next(free) for place in range(len(paths))]


def read_picture(path: Path) -> NDArray[np.uint8]:
    """Read a picture, (H, W, 3) uint8 BGR, turned as its EXIF orientation says, which is how people see it.

    Raises:
        InputError: it cannot be read, is damaged or no picture.
    """
    import cv2

    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}") from error
    if path.suffix.lower() in (".jpg", ".jpeg", ".png"):
        check_image(data)
    try:
        image = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        image = None
    if image is None:
        raise InputError("damaged, or no picture that OpenCV knows")
    return np.asarray(image, dtype=np.uint8)


class VideoReader:
    """An open video.

    Attributes:
        fps: frames a second.
        frames: how many it should have, None if that is not known.
    """

    def __init__(self, source: Path | int) -> None:
        """Open a file or a camera; raises InputError where that cannot be."""
        import cv2

        if isinstance(source, int):
            self._capture = cv2.VideoCapture(source)
        else:
            self._capture = cv2.VideoCapture(str(source.absolute()), cv2.CAP_FFMPEG)
        if not self._capture.isOpened():
            raise InputError("no such camera" if isinstance(source, int) else "damaged, or no video that OpenCV knows")
        fps, frames = self._capture.get(cv2.CAP_PROP_FPS), self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.fps = fps if 0 < fps <= 1000 else USUAL_FPS
        self.frames = int(frames) if 0 < frames < 2**31 else None

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        """The frames, (H, W, 3) uint8 BGR, to the end or to the first that cannot be read."""
        while True:
            read, image = self._capture.read()
            if not read:
                return
            yield np.asarray(image, dtype=np.uint8)

    def close(self) -> None:
        """Let go of the file or the camera."""
        self._capture.release()


def printable(text: object) -> str:
    """A name as it can stand in one line of a message."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in str(text))
