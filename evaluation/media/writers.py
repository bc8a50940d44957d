"""Output files of `evaluation.predict`: overlays, OpenPose's JSON format and COCO keypoint results.

Writes are atomic: a file is complete or absent. File names come from `evaluation.media.sources`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from evaluation.decoder.person import Person
from evaluation.scoring.results import PERSON_CATEGORY, to_coco_results
from pipeline.skeleton import COCO_KEYPOINTS, LIMBS
from pipeline.system.files import convert_write_errors, write_atomically

JPEG_QUALITY = 92
"""Quality of JPEG files, 1..100."""

EMPTY_OPENPOSE_KEYS = (
    *("face_keypoints_2d", "hand_left_keypoints_2d", "hand_right_keypoints_2d"),
    *("pose_keypoints_3d", "face_keypoints_3d", "hand_left_keypoints_3d", "hand_right_keypoints_3d"),
)
"""Keys of OpenPose's JSON format for body parts that this project does not detect."""


def to_openpose_json(people: Sequence[Person]) -> dict[str, Any]:
    """Convert the people in an image to version 1.3 of the JSON format of the OpenPose library.

    `pose_keypoints_2d` holds 54 numbers: x, y in px of the image and the score of 18 keypoints, in the order of
    OpenPose's COCO model (`pipeline.skeleton.KEYPOINTS`); all three are 0 where a keypoint was not found. The keys for
    faces, hands and 3D keypoints hold empty lists, and `person_id` is [-1], as in OpenPose without tracking.
    """
    entries = []
    for person in people:
        numbers = [round(value, 4) for value in person.keypoints.reshape(-1).tolist()]
        empty: dict[str, list[float]] = {key: [] for key in EMPTY_OPENPOSE_KEYS}
        entries.append({"person_id": [-1], "pose_keypoints_2d": numbers, **empty})
    return {"version": 1.3, "people": entries}


def coco_category() -> dict[str, Any]:
    """Return COCO's person category. Its skeleton lists the limbs between COCO keypoints as pairs counted from 1."""
    numbers = {name: number for number, name in enumerate(COCO_KEYPOINTS, start=1)}
    skeleton = [[numbers[a], numbers[b]] for a, b in LIMBS if a in numbers and b in numbers]
    names = list(COCO_KEYPOINTS)
    return {"id": PERSON_CATEGORY, "name": "person", "keypoints": names, "skeleton": skeleton}


class JsonListWriter:
    """Writer of a JSON file that holds one list. Entries are written one by one, so the list may exceed memory.

    Attributes:
        path: path of the finished file.
        num_entries: number of entries written so far.
    """

    def __init__(self, path: Path, prefix: str = "[", suffix: str = "]") -> None:
        self.path = path
        self.num_entries = 0
        self._prefix, self._suffix = prefix, suffix
        self._temporary_path = path.with_name(f".{path.name}.{os.getpid()}")
        with convert_write_errors(path):
            self._file: IO[str] = self._temporary_path.open("w", encoding="utf-8")

    def add(self, entry: dict[str, Any]) -> None:
        """Append an entry."""
        with convert_write_errors(self.path):
            self._file.write((self._prefix if not self.num_entries else ",") + "\n" + json.dumps(entry))
        self.num_entries += 1

    def finish(self) -> None:
        """Complete the file and rename it to its final name."""
        with convert_write_errors(self.path):
            self._file.write(("\n" if self.num_entries else self._prefix) + self._suffix + "\n")
            self._file.close()
            self._temporary_path.replace(self.path)

    def discard(self) -> None:
        """Delete the incomplete file."""
        self._file.close()
        self._temporary_path.unlink(missing_ok=True)


class CocoWriter:
    """Context manager that writes results.json and images.json, which COCO tools can open together.

    Attributes:
        people: number of people written so far.
    """

    def __init__(self, folder: Path) -> None:
        suffix = f'],\n"annotations": [],\n"categories": [{json.dumps(coco_category())}]}}'
        self._results = JsonListWriter(folder / "results.json")
        self._images = JsonListWriter(folder / "images.json", prefix='{"images": [', suffix=suffix)

    @property
    def people(self) -> int:
        """Number of people written so far."""
        return self._results.num_entries

    def add(self, image_id: int, size: tuple[int, int], people: Sequence[Person], **fields: Any) -> None:
        """Append an image of (height, width) px and its people. `fields` are added to the image's entry."""
        self._images.add({"id": image_id, "width": size[1], "height": size[0], **fields})
        for result in to_coco_results(image_id, people):
            self._results.add(result)

    def __enter__(self) -> CocoWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        for writer in (self._results, self._images):
            if kind is None:
                writer.finish()
            else:
                writer.discard()


def write_openpose_json(folder: Path, name: str, people: Sequence[Person]) -> None:
    """Write `NAME_keypoints.json` in a folder."""
    path = folder / f"{name}_keypoints.json"
    with convert_write_errors(path):
        write_atomically(path, json.dumps(to_openpose_json(people)) + "\n")


def write_image(folder: Path, name: str, image: NDArray[np.uint8], suffix: str) -> None:
    """Write a (H, W, 3) uint8 BGR image as `NAME.png` or `NAME.jpg`, by the suffix, in a folder."""
    import cv2

    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if suffix == ".jpg" else []
    path = folder / f"{name}{suffix}"
    _, data = cv2.imencode(suffix, image, options)
    with convert_write_errors(path):
        write_atomically(path, data.tobytes())
