"""What is written of people found in pictures: overlays, the OpenPose authors' json, and COCO's keypoint results.

Files appear whole or not at all, under the names that `evaluation.media.sources` gives.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from evaluation.decoder.person import Person
from evaluation.scoring.results import PERSON_CATEGORY, to_coco_results
from pipeline.errors import InputError
from pipeline.skeleton import COCO_KEYPOINTS, LIMBS
from pipeline.system.files import write_atomically

QUALITY = 92
"""Of JPEGs, 1..100."""

CODEC = "mp4v"
"""MPEG-4, which every build of OpenCV can write."""

VIDEO_SUFFIX = ".mp4"

NOT_SOUGHT = (
    *("face_keypoints_2d", "hand_left_keypoints_2d", "hand_right_keypoints_2d"),
    *("pose_keypoints_3d", "face_keypoints_3d", "hand_left_keypoints_3d", "hand_right_keypoints_3d"),
)
"""Keys of the OpenPose authors' json for what this program does not look for."""


def to_openpose(people: Sequence[Person]) -> dict[str, Any]:
    """A picture's people as the OpenPose authors' library writes them, version 1.3 of its json.

    `pose_keypoints_2d` are 54 numbers: x, y in px of the picture and score of the 18 keypoints in the order of its COCO
    model (`pipeline.skeleton.KEYPOINTS`), zeros where not found. The keys of what is not sought (faces, hands, three
    dimensions) are there and empty, and `person_id` is [-1], as without tracking.
    """
    listed = []
    for person in people:
        numbers = [round(value, 4) for value in person.keypoints.reshape(-1).tolist()]
        empty: dict[str, list[float]] = {key: [] for key in NOT_SOUGHT}
        listed.append({"person_id": [-1], "pose_keypoints_2d": numbers, **empty})
    return {"version": 1.3, "people": listed}


def coco_category() -> dict[str, Any]:
    """COCO's person category; its skeleton has pairs of keypoints, counted from 1, of limbs whose ends COCO knows."""
    ends = {name: place for place, name in enumerate(COCO_KEYPOINTS, start=1)}
    skeleton = [[ends[a], ends[b]] for a, b in LIMBS if a in ends and b in ends]
    names = list(COCO_KEYPOINTS)
    return {"id": PERSON_CATEGORY, "name": "person", "keypoints": names, "skeleton": skeleton}


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Make a file's folder; an OSError inside becomes an InputError that names the file."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error


class ListFile:
    """A json file with one list in it, written entry by entry, so that it may be longer than memory."""

    def __init__(self, path: Path, head: str = "[", tail: str = "]") -> None:
        self.path = path
        self.entries = 0
        self._head, self._tail = head, tail
        self._unfinished = path.with_name(f".{path.name}.{os.getpid()}")
        with writing(path):
            self._file: IO[str] = self._unfinished.open("w", encoding="utf-8")

    def add(self, entry: dict[str, Any]) -> None:
        """Append an entry."""
        with writing(self.path):
            self._file.write((self._head if not self.entries else ",") + "\n" + json.dumps(entry))
        self.entries += 1

    def finish(self) -> None:
        """Give the file its name."""
        with writing(self.path):
            self._file.write(("\n" if self.entries else self._head) + self._tail + "\n")
            self._file.close()
            self._unfinished.replace(self.path)

    def discard(self) -> None:
        """Leave nothing."""
        self._file.close()
        self._unfinished.unlink(missing_ok=True)


class CocoWriter:
    """results.json and images.json, which any tool for COCO opens together.

    Attributes:
        people: results written.
    """

    def __init__(self, folder: Path) -> None:
        tail = f'],\n"annotations": [],\n"categories": [{json.dumps(coco_category())}]}}'
        self._results = ListFile(folder / "results.json")
        self._images = ListFile(folder / "images.json", head='{"images": [', tail=tail)

    @property
    def people(self) -> int:
        """Results written."""
        return self._results.entries

    def add(self, image_id: int, size: tuple[int, int], people: Sequence[Person], **about: Any) -> None:
        """Note a picture of (height, width) px and its people; `about` says where the picture is from."""
        self._images.add({"id": image_id, "width": size[1], "height": size[0], **about})
        for result in to_coco_results(image_id, people):
            self._results.add(result)

    def __enter__(self) -> CocoWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        for file in (self._results, self._images):
            if kind is None:
                file.finish()
            else:
                file.discard()


class VideoWriter:
    """A video that grows frame by frame and gets its name at the end.

    MPEG-4 has even sides: an odd last row or column is left out. Frames that differ from the first in size are scaled.

    Attributes:
        path: the file.
        frames: written so far.
    """

    def __init__(self, path: Path, fps: float) -> None:
        self.path = path
        self.frames = 0
        self._fps = fps
        self._unfinished = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
        self._size = (0, 0)
        self._writer: Any = None

    def write(self, image: NDArray[np.uint8]) -> None:
        """Append a frame, (H, W, 3) uint8 BGR; raises InputError where the file cannot be written."""
        import cv2

        if self._writer is None:
            self._size = (image.shape[1] // 2 * 2, image.shape[0] // 2 * 2)
            codec = cv2.VideoWriter.fourcc(*CODEC)
            with writing(self.path):
                self._writer = cv2.VideoWriter(str(self._unfinished), cv2.CAP_FFMPEG, codec, self._fps, self._size)
            if not self._writer.isOpened():
                raise InputError(f"{self.path}: OpenCV cannot write a video of {self._size[0]}x{self._size[1]} px")
        width, height = self._size
        frame = np.ascontiguousarray(image[:height, :width])
        if frame.shape[:2] != (height, width):  # OpenCV would drop it without a word
            frame = cv2.resize(image, self._size)
        self._writer.write(frame)
        self.frames += 1

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        if self._writer is not None:
            self._writer.release()
            if kind is None:
                self._unfinished.replace(self.path)
            self._unfinished.unlink(missing_ok=True)


def write_openpose(folder: Path, name: str, people: Sequence[Person]) -> None:
    """Write `NAME_keypoints.json` below a folder."""
    path = folder / f"{name}_keypoints.json"
    with writing(path):
        write_atomically(path, json.dumps(to_openpose(people)) + "\n")


def write_picture(folder: Path, name: str, image: NDArray[np.uint8], *, lossless: bool) -> None:
    """Write (H, W, 3) uint8 BGR as `NAME.png` or `NAME.jpg` below a folder."""
    import cv2

    suffix, options = (".png", []) if lossless else (".jpg", [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    path = folder / f"{name}{suffix}"
    _, data = cv2.imencode(suffix, image, options)
    with writing(path):
        write_atomically(path, data.tobytes())
