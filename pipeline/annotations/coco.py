"""Read COCO keypoint annotation files, check every field, and select the people to train on.

The selection follows the reference implementation (MindSpore ModelZoo): people with at least five labelled keypoints
and an area of more than 1024 px are trainable. All other people, and crowds, form the ignore region. The file is not
read by pycocotools' COCO class, because that class prints to stdout, checks no fields and keeps all fields in memory.

Each image is passed to the task of its shard as an `AnnotatedImage`. The task renders the mask of the ignore region, so
that planning a build does not render or hold masks.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import json
import os
import re
import reprlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.annotations.ignore_region import Region, are_numbers, ignore_mask, parse_region
from pipeline.errors import InputError
from pipeline.images.decode import MAX_PIXELS
from pipeline.sample import Annotation
from pipeline.skeleton import COCO_KEYPOINTS, NUM_KEYPOINTS, from_coco
from pipeline.storage.records import mask_to_rle

NUM_KEYPOINT_VALUES = 3 * len(COCO_KEYPOINTS)
"""Numbers in the `keypoints` field of an annotation: x, y and visibility of each keypoint."""

MAX_COORDINATE = 100_000
"""Largest allowed magnitude of a coordinate, in px."""

_STORED_FIELDS = ("id", "image_id", "category_id", "iscrowd", "area", "bbox", "num_keypoints", "keypoints")
_INT64_END = 2**63
_SIMPLE_NAME = re.compile(r"\w[\w.-]*", re.ASCII)


@dataclass(frozen=True)
class PersonFilter:
    """Criteria for trainable people. Crowds are never trainable.

    Attributes:
        min_keypoints: minimum number of labelled keypoints.
        min_area: area in px; a trainable person has a larger area than this.
    """

    min_keypoints: int = 5
    min_area: float = 1024.0

    def is_trainable(self, truth: dict[str, Any]) -> bool:
        """Return True if a checked person annotation is trainable, False if it belongs to the ignore region."""
        return bool(
            not truth["iscrowd"] and truth["num_keypoints"] >= self.min_keypoints and truth["area"] > self.min_area
        )


@dataclass(frozen=True)
class PersonAnnotation:
    """One person annotation.

    Attributes:
        truth: fields of the annotation as in the COCO file, without the segmentation.
        trainable: True for a person to train on, False for a part of the ignore region.
        region: segmentation of an ignored person. None for a trainable person, and for an ignored person without
            segmentation, whose bounding box is used instead.
    """

    truth: dict[str, Any]
    trainable: bool
    region: Region | None


@dataclass(frozen=True)
class AnnotatedImage:
    """An image with its checked annotations; masks are not rendered yet.

    Attributes:
        image_id: COCO image id.
        file_name: path relative to the image folder.
        height, width: size in px.
        people: all person annotations of the image, crowds included.
    """

    image_id: int
    file_name: str
    height: int
    width: int
    people: tuple[PersonAnnotation, ...]

    @property
    def has_trainable_person(self) -> bool:
        """True if at least one person is trainable."""
        return any(person.trainable for person in self.people)

    def keypoints(self) -> NDArray[np.float32]:
        """Return x, y in px and visibility of the trainable people, (P, K, 3) float32 in OpenPose-18 order."""
        rows = [person.truth["keypoints"] for person in self.people if person.trainable]
        if not rows:
            return np.zeros((0, NUM_KEYPOINTS, 3), dtype=np.float32)
        return from_coco(np.array(rows, dtype=np.float32).reshape(-1, len(COCO_KEYPOINTS), 3))

    def ignore_mask(self) -> NDArray[np.uint8] | None:
        """Return the mask of the ignore region, (H, W) uint8 of 0 and 1, or None if nobody is ignored."""
        ignored = [(person.region, person.truth["bbox"]) for person in self.people if not person.trainable]
        return ignore_mask(ignored, self.height, self.width) if ignored else None

    def with_id(self, image_id: int) -> AnnotatedImage:
        """Return the same image with another image id, which is also set in its person annotations."""
        if image_id == self.image_id:
            return self
        people = tuple(replace(person, truth={**person.truth, "image_id": image_id}) for person in self.people)
        return replace(self, image_id=image_id, people=people)

    def annotation(self) -> Annotation:
        """Return the `Annotation` of the image, with the ignore region as a run-length mask."""
        mask = self.ignore_mask()
        return Annotation(
            image_id=self.image_id,
            file_name=self.file_name,
            height=self.height,
            width=self.width,
            keypoints=self.keypoints(),
            ignore=mask_to_rle(np.zeros((self.height, self.width), np.uint8) if mask is None else mask),
            truth=tuple(person.truth for person in self.people),
        )


def annotation_file(folder: Path, split: str) -> Path:
    """Return the path of the person keypoint annotations of a split in a COCO folder."""
    return folder / "annotations" / f"person_keypoints_{split}.json"


def read_coco(
    folder: Path,
    split: str,
    *,
    annotations: Path | None = None,
    min_keypoints: int = 5,
    min_area: float = 1024.0,
    keep_empty: bool = True,
) -> list[Annotation]:
    """Read one split of a COCO folder.

    Args:
        folder: COCO folder with `annotations/person_keypoints_SPLIT.json` and the images in `SPLIT/`.
        split: name of the split, such as train2017.
        annotations: annotation file to read instead of the default one.
        min_keypoints: minimum number of labelled keypoints of a trainable person.
        min_area: area in px; a trainable person has a larger area than this.
        keep_empty: also return images without a trainable person.

    Returns:
        One annotation for each image, in the order of the file.

    Raises:
        InputError: the file is missing or contains errors. The message states the number of errors and the first error.
    """
    path = annotations or annotation_file(folder, split)
    images, _ = read_annotations(path, PersonFilter(min_keypoints, min_area))
    return [image.annotation() for image in images if keep_empty or image.has_trainable_person]


def read_annotations(path: Path, person_filter: PersonFilter) -> tuple[list[AnnotatedImage], str]:
    """Read and check an annotation file.

    Returns:
        The images in the order of the file, and the SHA-256 hash of the file.

    Raises:
        InputError: see `read_coco`.
    """
    data, sha256 = _load_json(path)
    problems: list[str] = []
    with _garbage_collection_paused():
        images = _parse_file(data, person_filter, problems)
    if problems:
        errors = "1 error" if len(problems) == 1 else f"{len(problems)} errors; first"
        raise InputError(f"{path}: {errors}: {problems[0]}")
    return images, sha256


def image_path(folder: Path, file_name: str) -> str:
    """Return the path of an image in its folder. Raise InputError if a symbolic link points outside the folder."""
    path = os.path.join(folder, file_name)  # noqa: PTH118 (a Path costs as much as reading the file)
    part = str(folder)
    for name in PurePosixPath(file_name).parts:
        part = f"{part}{os.sep}{name}"
        if os.path.islink(part) and not os.path.realpath(path).startswith(os.path.realpath(folder) + os.sep):  # noqa: PTH114
            raise InputError("a symbolic link points outside the image folder")
    return path


def _load_json(path: Path) -> tuple[Any, str]:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; expected annotations/ beside the image folders") from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    sha256 = hashlib.sha256(content).hexdigest()
    try:
        with _garbage_collection_paused():
            return json.loads(content), sha256
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON: {str(error)[:80]}") from None


@contextlib.contextmanager
def _garbage_collection_paused() -> Iterator[None]:
    """Pause the cyclic garbage collector, which would scan millions of new objects repeatedly and free none."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _parse_file(data: Any, person_filter: PersonFilter, problems: list[str]) -> list[AnnotatedImage]:
    sections = ("images", "annotations", "categories")
    if not isinstance(data, dict) or not all(isinstance(data.get(name), list) for name in sections):
        problems.append(f"expected an object with the lists {', '.join(sections)}")
        return []
    person_ids, other_ids = _parse_categories(data["categories"], problems)
    images = _parse_images(data["images"], problems)
    people: dict[int, list[PersonAnnotation]] = {image_id: [] for image_id in images}
    annotation_ids: set[int] = set()
    items = data.pop("annotations")
    for index in range(len(items)):
        item, items[index] = items[index], None  # frees the polygons of each annotation after it is read
        if isinstance(item, dict) and type(item.get("category_id")) is int and item["category_id"] in other_ids:
            continue
        found = list(_annotation_problems(item, images, person_ids, annotation_ids))
        if found:
            name = _abbreviate(item.get("id", f"number {index}")) if isinstance(item, dict) else f"number {index}"
            problems.extend(f"annotation {name}: {problem}" for problem in found)
            continue
        annotation_ids.add(item["id"])
        image = images[item["image_id"]]
        try:
            if image:
                people[item["image_id"]].append(_parse_person(item, image, person_filter))
        except InputError as error:
            problems.append(f"annotation {item['id']}: {error}")
    return [
        AnnotatedImage(image_id, image["file_name"], image["height"], image["width"], tuple(people[image_id]))
        for image_id, image in images.items()
        if image
    ]


def _parse_categories(items: list[Any], problems: list[str]) -> tuple[set[int], set[int]]:
    """Return the ids of the person categories and the ids of all other categories."""
    person_ids: set[int] = set()
    other_ids: set[int] = set()
    for item in items:
        if not isinstance(item, dict) or type(item.get("id")) is not int or not isinstance(item.get("name"), str):
            problems.append(f"categories: {_abbreviate(item)} has no id or no name")
            continue
        (person_ids if item["name"] == "person" else other_ids).add(item["id"])
        names = item.get("keypoints", list(COCO_KEYPOINTS))
        if item["name"] == "person" and names != list(COCO_KEYPOINTS):
            problems.append("category person: its keypoints are not the 17 COCO keypoints in COCO order")
    if not person_ids:
        problems.append("categories: no category is named person")
    return person_ids, other_ids


def _parse_images(items: list[Any], problems: list[str]) -> dict[int, dict[str, Any] | None]:
    """Return the checked images by id, in the order of the file.

    The value is None for an image with errors, so that its annotations are not reported as errors, too.
    """
    images: dict[int, dict[str, Any] | None] = {}
    for index, item in enumerate(items):
        found = list(_image_problems(item))
        if not found and item["id"] in images:
            found = ["its id is used by two images"]
        if found:
            name = _abbreviate(item.get("id", f"number {index}")) if isinstance(item, dict) else f"number {index}"
            problems.extend(f"image {name}: {problem}" for problem in found)
            if isinstance(item, dict) and _is_id(item.get("id")):
                images[item["id"]] = None
        else:
            images[item["id"]] = {
                "file_name": item["file_name"],
                "height": int(item["height"]),
                "width": int(item["width"]),
            }
    return images


def _image_problems(item: Any) -> Iterator[str]:
    if not isinstance(item, dict):
        yield f"{_abbreviate(item)} is not an object"
        return
    if not _is_id(item.get("id")):
        yield _expected(item, "id", "an integer of at least 0")
    if not _is_safe_path(item.get("file_name")):
        yield _expected(item, "file_name", "a relative path within the image folder")
    wrong = [name for name in ("height", "width") if not _is_number(item.get(name), 1, 2**16) or item[name] % 1]
    for name in wrong:
        yield _expected(item, name, "1..65536 px")
    if not wrong and item["height"] * item["width"] > MAX_PIXELS:
        yield f"{item['width']}x{item['height']} px, expected at most {MAX_PIXELS // 10**6} million pixels"


def _annotation_problems(
    item: Any, images: dict[int, Any], person_ids: set[int], annotation_ids: set[int]
) -> Iterator[str]:
    if not isinstance(item, dict):
        yield f"{_abbreviate(item)} is not an object"
        return
    if not _is_id(item.get("id")):
        yield _expected(item, "id", "an integer of at least 0")
    elif item["id"] in annotation_ids:
        yield "its id is used by two annotations"
    if type(item.get("category_id")) is not int or item["category_id"] not in person_ids:
        yield _expected(item, "category_id", "one of the file's categories")
    if type(item.get("image_id")) is not int or item["image_id"] not in images:
        yield _expected(item, "image_id", "one of the file's images")
    if type(item.get("iscrowd")) is not int or item["iscrowd"] not in (0, 1):
        yield _expected(item, "iscrowd", "0 or 1")
    if not _is_number(item.get("area"), 0, MAX_PIXELS):
        yield _expected(item, "area", f"0..{MAX_PIXELS} px")
    box = item.get("bbox")
    limit = MAX_COORDINATE
    if not isinstance(box, list) or len(box) != 4 or not all(_is_number(side, -limit, limit) for side in box):
        yield _expected(item, "bbox", f"four numbers of at most {MAX_COORDINATE}")
    elif min(box[2:]) < 0:
        yield _expected(item, "bbox", "a width and height of at least 0")
    yield from _keypoint_problems(item)


def _keypoint_problems(item: dict[str, Any]) -> Iterator[str]:
    keypoints = item.get("keypoints")
    if not isinstance(keypoints, list):
        yield _expected(item, "keypoints", f"a list of {NUM_KEYPOINT_VALUES} numbers")
        return
    if len(keypoints) != NUM_KEYPOINT_VALUES:
        yield f"keypoints has {len(keypoints)} numbers, expected {NUM_KEYPOINT_VALUES}"
        return
    if not are_numbers(keypoints, MAX_COORDINATE):
        wrong = next(value for value in keypoints if not _is_number(value, -MAX_COORDINATE, MAX_COORDINATE))
        yield f"keypoints holds {_abbreviate(wrong)}, expected numbers of at most {MAX_COORDINATE}"
        return
    visibility = keypoints[2::3]
    if not set(visibility) <= {0, 1, 2}:
        wrong = next(value for value in visibility if value not in (0, 1, 2))
        yield f"keypoints has a visibility of {_abbreviate(wrong)}, expected 0, 1 or 2"
        return
    labelled = NUM_KEYPOINT_VALUES // 3 - visibility.count(0)
    if item.setdefault("num_keypoints", labelled) != labelled:
        yield f"num_keypoints is {_abbreviate(item['num_keypoints'])}, but {labelled} keypoints are labelled"


def _parse_person(item: dict[str, Any], image: dict[str, Any], person_filter: PersonFilter) -> PersonAnnotation:
    truth = {name: item[name] for name in _STORED_FIELDS}
    trainable = person_filter.is_trainable(truth)
    region = parse_region(item.get("segmentation"), image["height"], image["width"], MAX_COORDINATE, keep=not trainable)
    return PersonAnnotation(truth, trainable, region)


def _is_id(value: Any) -> bool:
    return type(value) is int and 0 <= value < _INT64_END


def _is_number(value: Any, low: float, high: float) -> bool:
    return type(value) in (int, float) and low <= value <= high


def _is_safe_path(name: Any) -> bool:
    if not isinstance(name, str) or not 0 < len(name) <= 1024 or "\\" in name or not name.isprintable():
        return False
    if _SIMPLE_NAME.fullmatch(name):
        return True
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and path.name != "" and ":" not in path.parts[0]


def _abbreviate(value: Any) -> str:
    return reprlib.repr(value)[:60]


def _expected(item: dict[str, Any], name: str, expected: str) -> str:
    if name not in item:
        return f"{name} is missing"
    return f"{name} is {_abbreviate(item[name])}, expected {expected}"
