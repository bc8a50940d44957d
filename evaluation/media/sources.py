"""Input media of `evaluation.predict`: image files, folders, video files and cameras.

Each image and video gets a unique name, which is used for its outputs. Each image also gets a unique image id.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from evaluation.media.formats import IMAGE_SUFFIXES, VIDEO_SUFFIXES, detect_format
from evaluation.media.video.reader import AnimationReader, FrameReader, VideoReader
from pipeline.errors import InputError

MAX_NAME_BYTES = 180
"""Maximum length in bytes of one part of an output name. File systems allow 255, and extensions are appended."""

_COCO_ID = re.compile(r"(?:COCO_[a-z]+\d{4}_)?(\d{1,12})", re.ASCII)
"""Names of COCO's images, whose number is the image id: 000000165518 and, in 2014, COCO_val2014_000000165518."""

_SUPPORTED = " ".join(sorted(IMAGE_SUFFIXES | VIDEO_SUFFIXES))
_FRAME = re.compile(r"(.+)_\d{12}", re.ASCII)


@dataclass(frozen=True)
class ImageFile:
    """An image file.

    Attributes:
        path: path of the file.
        name: name of its outputs, without extension, with `/` between folders.
        image_id: COCO image id.
    """

    path: Path
    name: str
    image_id: int


@dataclass(frozen=True)
class Video:
    """A video file or a camera.

    Attributes:
        source: path of the file, or number of the camera.
        name: name of its outputs, without extension, with `/` between folders.
    """

    source: Path | int
    name: str

    @property
    def title(self) -> str:
        """Text that identifies the video in messages."""
        return f"camera {self.source}" if isinstance(self.source, int) else str(self.source)

    def frame_name(self, index: int) -> str:
        """Return the output name of a frame, in the format of the OpenPose library."""
        return f"{self.name}_{index:012d}"


@dataclass(frozen=True)
class Sources:
    """All images and videos given on the command line.

    Attributes:
        images: image files in the order given; the files of a folder are in alphabetical order.
        videos: videos in the same order.
        unsupported: files that cannot be used, with the reason: images of formats that are not supported, and files
            given by name that are neither an image nor a video.
    """

    images: tuple[ImageFile, ...]
    videos: tuple[Video, ...]
    unsupported: tuple[tuple[Path, str], ...] = ()

    @property
    def next_image_id(self) -> int:
        """Smallest image id above those of all images; frames of videos are numbered from here."""
        return 1 + max((image.image_id for image in self.images), default=0)


@dataclass
class _UniqueNames:
    """Names assigned so far, stored case-folded because some file systems ignore case."""

    used: set[str] = field(default_factory=set)

    def assign(self, path: PurePath) -> str:
        """Return a name for the outputs of a path. It is unique and cannot point outside the output folder."""
        base = "/".join(_sanitize(part) for part in (*path.parts[:-1], path.stem))
        candidates = itertools.chain([base], (f"{base}-{number}" for number in itertools.count(2)))
        name = next(candidate for candidate in candidates if self._is_free(candidate.casefold()))
        self.used.add(name.casefold())
        return name

    def _is_free(self, name: str) -> bool:
        """True if neither a source nor a frame of a video has this name."""
        frame = _FRAME.fullmatch(name)
        return name not in self.used and not (frame and frame[1] in self.used)


def _sanitize(part: str) -> str:
    """Replace separators, control characters and undecodable bytes in a part of a path; never return `.` or `..`."""
    text = "".join("_" if not letter.isprintable() or letter in "/\\:" else letter for letter in part)
    text = text.encode()[:MAX_NAME_BYTES].decode(errors="ignore")
    return f"_{text[1:]}" if text[:1] in ("", ".") else text


def find_sources(arguments: Sequence[str], out: Path) -> Sources:
    """Find the images and videos given on the command line.

    Args:
        arguments: files, folders and camera numbers. Folders are searched recursively, without hidden files and
            folders, for files that are images or videos by content or by extension. A file or folder whose name is a
            number has to be given as ./NUMBER.
        out: output folder. It is not searched, because it may hold overlays of an earlier run.

    Raises:
        InputError: a file or folder does not exist, or there is no image or video at all.
    """
    videos: list[tuple[Path | int, PurePath]] = []
    images: list[tuple[Path, PurePath]] = []
    unsupported: list[tuple[Path, str]] = []
    for argument in dict.fromkeys(arguments):
        if re.fullmatch(r"\d{1,4}", argument, re.ASCII):
            videos.append((int(argument), PurePath(f"camera{argument}")))
            continue
        for path, relative in _list_files(Path(argument), out):
            found = detect_format(path)
            if found is None:
                if path == Path(argument):
                    unsupported.append((path, f"not an image or video; supported extensions: {_SUPPORTED}"))
            elif found.kind == "unreadable":
                reason = f"{found.name} images are not supported; convert it to JPEG, PNG, WebP, BMP or TIFF"
                unsupported.append((path, reason))
            elif found.kind == "image":
                images.append((path, relative))
            else:
                videos.append((path, relative))
    if not images and not videos:
        if unsupported:
            raise InputError("; ".join(f"{printable(path)}: {reason}" for path, reason in unsupported[:3]))
        raise InputError(
            f"{printable(' '.join(arguments))}: no image or video found; supported extensions: {_SUPPORTED}"
        )
    names = _UniqueNames()
    named_videos = tuple(Video(source, names.assign(relative)) for source, relative in videos)
    image_names = [names.assign(relative) for _, relative in images]
    paths = [path for path, _ in images]
    image_files = tuple(map(ImageFile, paths, image_names, _image_ids(paths)))
    return Sources(image_files, named_videos, tuple(unsupported))


def _list_files(path: Path, out: Path) -> Iterator[tuple[Path, PurePath]]:
    """Yield a file, or all files of a folder, each with its path relative to the folder."""
    if not path.is_dir():
        if not path.exists():
            raise InputError(f"{printable(path)}: no such file or folder")
        yield path, PurePath(path.name)
        return
    excluded = out.resolve()
    for root, folders, files in os.walk(path):
        parent = Path(root)
        folders[:] = sorted(name for name in folders if name[0] != "." and (parent / name).resolve() != excluded)
        for name in sorted(name for name in files if name[0] != "."):
            yield parent / name, (parent / name).relative_to(path)


def _image_ids(paths: Sequence[Path]) -> list[int]:
    """Return the number in the file name where it is one, as in COCO; the others are numbered above the largest."""
    indices: dict[int, int] = {}
    for index, path in enumerate(paths):
        match = _COCO_ID.fullmatch(path.stem)
        if match:
            indices.setdefault(int(match[1]), index)
    ids = {index: image_id for image_id, index in indices.items()}
    unused = itertools.count(1 + max(indices, default=0))
    return [ids[index] if index in ids else next(unused) for index in range(len(paths))]


def open_video(source: Path | int) -> FrameReader:
    """Open a video, an animated image or a camera. Raise InputError if that fails."""
    found = detect_format(source) if isinstance(source, Path) else None
    if isinstance(source, Path) and found and found.kind == "animation":
        return AnimationReader(source)
    return VideoReader(source)


def printable(text: object) -> str:
    """Return text with unprintable characters escaped, so that it fits in one line of a message."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in str(text))
