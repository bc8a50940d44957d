"""Read and check a COCO keypoint file: who trains, who is looked away from, and every error counted.

The rules are the reference's: people with at least five labelled keypoints and an area over 1024 px train; all other
people and the crowds make up the ignore region. The file is parsed here rather than by pycocotools' COCO class, which
prints, checks nothing and keeps everything.

A picture travels to its shard's task as a `AnnotatedImage`: masks are drawn there, not while planning.
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
from pipeline.sample import Annotation
from pipeline.skeleton import COCO_KEYPOINTS, NUM_KEYPOINTS, from_coco
from pipeline.storage.images import MAX_PIXELS
from pipeline.storage.records import mask_to_rle

NUM_KEYPOINT_VALUES = 3 * len(COCO_KEYPOINTS)
MAX_COORDINATE = 100_000
"""Largest magnitude, px, of any coordinate."""

_TRUTH = ("id", "image_id", "category_id", "iscrowd", "area", "bbox", "num_keypoints", "keypoints")
_INT64 = 2**63
_PLAIN = re.compile(r"\w[\w.-]*", re.ASCII)


@dataclass(frozen=True)
class PersonFilter:
    """Who trains: people, crowds apart, with `min_keypoints` labelled keypoints or more and over `min_area` px."""

    min_keypoints: int = 5
    min_area: float = 1024.0

    def is_trainable(self, truth: dict[str, Any]) -> bool:
        """Whether a checked person annotation is a training person rather than part of the ignore region."""
        return bool(
            not truth["iscrowd"] and truth["num_keypoints"] >= self.min_keypoints and truth["area"] > self.min_area
        )


@dataclass(frozen=True)
class PersonAnnotation:
    """One person annotation.

    Attributes:
        truth: what COCO wrote, without the segmentation.
        trains: whether it is a training person.
        region: where it is, for those that are ignored; None for its box, and for those that train.
    """

    truth: dict[str, Any]
    trainable: bool
    region: Region | None


@dataclass(frozen=True)
class AnnotatedImage:
    """A picture and its people, checked, before anything is drawn. `height` and `width` are in px."""

    image_id: int
    file_name: str
    height: int
    width: int
    people: tuple[PersonAnnotation, ...]

    @property
    def has_trainable_person(self) -> bool:
        """Whether anybody in the picture trains."""
        return any(person.trainable for person in self.people)

    def keypoints(self) -> NDArray[np.float32]:
        """(P, K, 3) float32 of the trainable people in OpenPose-18 order."""
        rows = [person.truth["keypoints"] for person in self.people if person.trainable]
        if not rows:
            return np.zeros((0, NUM_KEYPOINTS, 3), dtype=np.float32)
        return from_coco(np.array(rows, dtype=np.float32).reshape(-1, len(COCO_KEYPOINTS), 3))

    def ignore_mask(self) -> NDArray[np.uint8] | None:
        """(H, W) uint8 of the ignore region, or None where there is none."""
        ignored = [(person.region, person.truth["bbox"]) for person in self.people if not person.trainable]
        return ignore_mask(ignored, self.height, self.width) if ignored else None

    def with_id(self, image_id: int) -> AnnotatedImage:
        """The same picture under another id."""
        if image_id == self.image_id:
            return self
        people = tuple(replace(person, truth={**person.truth, "image_id": image_id}) for person in self.people)
        return replace(self, image_id=image_id, people=people)

    def annotation(self) -> Annotation:
        """The picture's annotation, its ignore region drawn."""
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
    """Where a COCO folder keeps a split's person keypoints."""
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
        folder: holds `annotations/person_keypoints_SPLIT.json` and the pictures in `SPLIT/`.
        split: its name, such as train2017.
        annotations: another annotation file to read instead.
        min_keypoints: labelled keypoints that a training person has at least.
        min_area: px; a training person's area is larger.
        keep_empty: also give pictures without a trainable person.

    Raises:
        InputError: the file is missing, or holds errors; the message counts them and names the first.
    """
    path = annotations or annotation_file(folder, split)
    pictures, _ = read_annotations(path, PersonFilter(min_keypoints, min_area))
    return [picture.annotation() for picture in pictures if keep_empty or picture.has_trainable_person]


def read_annotations(path: Path, person_filter: PersonFilter) -> tuple[list[AnnotatedImage], str]:
    """Read and check an annotation file.

    Returns:
        Every picture in the file's order, and the file's sha256.

    Raises:
        InputError: as `read_coco`.
    """
    data, sha256 = _load(path)
    problems: list[str] = []
    with _no_collection():
        pictures = _pictures(data, person_filter, problems)
    if problems:
        errors = "1 error" if len(problems) == 1 else f"{len(problems)} errors; first"
        raise InputError(f"{path}: {errors}: {problems[0]}")
    return pictures, sha256


def image_path(root: Path, file_name: str) -> str:
    """Path of a picture within its split's folder; raises InputError where a link leads out of it."""
    path = os.path.join(root, file_name)  # noqa: PTH118 (a Path costs as much as reading the file)
    part = str(root)
    for name in PurePosixPath(file_name).parts:
        part = f"{part}{os.sep}{name}"
        if os.path.islink(part) and not os.path.realpath(path).startswith(os.path.realpath(root) + os.sep):  # noqa: PTH114
            raise InputError("a link leads out of the picture folder")
    return path


def _load(path: Path) -> tuple[Any, str]:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; a COCO folder holds it beside its picture folders") from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    sha256 = hashlib.sha256(content).hexdigest()
    try:
        with _no_collection():
            return json.loads(content), sha256
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON: {str(error)[:80]}") from None


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Pause the cycle collector, which would walk millions of new objects again and again and find nothing."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _pictures(data: Any, person_filter: PersonFilter, problems: list[str]) -> list[AnnotatedImage]:
    sections = ("images", "annotations", "categories")
    if not isinstance(data, dict) or not all(isinstance(data.get(name), list) for name in sections):
        problems.append(f"expected an object with the lists {', '.join(sections)}")
        return []
    persons, others = _categories(data["categories"], problems)
    images = _images(data["images"], problems)
    people: dict[int, list[PersonAnnotation]] = {image_id: [] for image_id in images}
    seen: set[int] = set()
    items = data.pop("annotations")
    for index in range(len(items)):
        item, items[index] = items[index], None  # gives its polygons back while the next ones are read
        if isinstance(item, dict) and type(item.get("category_id")) is int and item["category_id"] in others:
            continue
        found = list(_annotation_problems(item, images, persons, seen))
        if found:
            name = _short(item.get("id", f"number {index}")) if isinstance(item, dict) else f"number {index}"
            problems.extend(f"annotation {name}: {problem}" for problem in found)
            continue
        seen.add(item["id"])
        image = images[item["image_id"]]
        try:
            if image:
                people[item["image_id"]].append(_person(item, image, person_filter))
        except InputError as error:
            problems.append(f"annotation {item['id']}: {error}")
    return [
        AnnotatedImage(image_id, image["file_name"], image["height"], image["width"], tuple(people[image_id]))
        for image_id, image in images.items()
        if image
    ]


def _categories(items: list[Any], problems: list[str]) -> tuple[set[int], set[int]]:
    """Ids of the person categories, and of all others."""
    persons: set[int] = set()
    others: set[int] = set()
    for item in items:
        if not isinstance(item, dict) or type(item.get("id")) is not int or not isinstance(item.get("name"), str):
            problems.append(f"categories: {_short(item)} has no id or no name")
            continue
        (persons if item["name"] == "person" else others).add(item["id"])
        names = item.get("keypoints", list(COCO_KEYPOINTS))
        if item["name"] == "person" and names != list(COCO_KEYPOINTS):
            problems.append("category person: its keypoints are not COCO's 17 in COCO's order")
    if not persons:
        problems.append("categories: none is named person")
    return persons, others


def _images(items: list[Any], problems: list[str]) -> dict[int, dict[str, Any] | None]:
    """Checked images by id, in the file's order; None for one with errors, so that its people add no further ones."""
    images: dict[int, dict[str, Any] | None] = {}
    for index, item in enumerate(items):
        found = list(_image_problems(item))
        if not found and item["id"] in images:
            found = ["its id is given to two images"]
        if found:
            name = _short(item.get("id", f"number {index}")) if isinstance(item, dict) else f"number {index}"
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
        yield f"{_short(item)} is not an object"
        return
    if not _is_id(item.get("id")):
        yield _expected(item, "id", "a whole number of at least 0")
    if not _is_safe(item.get("file_name")):
        yield _expected(item, "file_name", "a relative path within the picture folder")
    wrong = [name for name in ("height", "width") if not _is_number(item.get(name), 1, 2**16) or item[name] % 1]
    for name in wrong:
        yield _expected(item, name, "1..65536 px")
    if not wrong and item["height"] * item["width"] > MAX_PIXELS:
        yield f"{item['width']}x{item['height']} px, expected at most {MAX_PIXELS // 10**6} million pixels"


def _annotation_problems(item: Any, images: dict[int, Any], persons: set[int], seen: set[int]) -> Iterator[str]:
    if not isinstance(item, dict):
        yield f"{_short(item)} is not an object"
        return
    if not _is_id(item.get("id")):
        yield _expected(item, "id", "a whole number of at least 0")
    elif item["id"] in seen:
        yield "its id is given to two annotations"
    if type(item.get("category_id")) is not int or item["category_id"] not in persons:
        yield _expected(item, "category_id", "one of the file's categories")
    if type(item.get("image_id")) is not int or item["image_id"] not in images:
        yield _expected(item, "image_id", "one of the file's images")
    if type(item.get("iscrowd")) is not int or item["iscrowd"] not in (0, 1):
        yield _expected(item, "iscrowd", "0 or 1")
    if not _is_number(item.get("area"), 0, MAX_PIXELS):
        yield _expected(item, "area", f"0..{MAX_PIXELS} px")
    box = item.get("bbox")
    if (
        not isinstance(box, list)
        or len(box) != 4
        or not all(_is_number(side, -MAX_COORDINATE, MAX_COORDINATE) for side in box)
    ):
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
        yield f"keypoints holds {_short(wrong)}, expected numbers of at most {MAX_COORDINATE}"
        return
    visibility = keypoints[2::3]
    if not set(visibility) <= {0, 1, 2}:
        wrong = next(value for value in visibility if value not in (0, 1, 2))
        yield f"keypoints has a visibility of {_short(wrong)}, expected 0, 1 or 2"
        return
    labelled = NUM_KEYPOINT_VALUES // 3 - visibility.count(0)
    if item.setdefault("num_keypoints", labelled) != labelled:
        yield f"num_keypoints is {_short(item['num_keypoints'])}, but {labelled} keypoints are labelled"


def _person(item: dict[str, Any], image: dict[str, Any], person_filter: PersonFilter) -> PersonAnnotation:
    truth = {name: item[name] for name in _TRUTH}
    trainable = person_filter.is_trainable(truth)
    region = parse_region(item.get("segmentation"), image["height"], image["width"], MAX_COORDINATE, keep=not trainable)
    return PersonAnnotation(truth, trainable, region)


def _is_id(value: Any) -> bool:
    return type(value) is int and 0 <= value < _INT64


def _is_number(value: Any, low: float, high: float) -> bool:
    return type(value) in (int, float) and low <= value <= high


def _is_safe(name: Any) -> bool:
    if not isinstance(name, str) or not 0 < len(name) <= 1024 or "\\" in name or not name.isprintable():
        return False
    if _PLAIN.fullmatch(name):
        return True
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and path.name != "" and ":" not in path.parts[0]


def _short(value: Any) -> str:
    return reprlib.repr(value)[:60]


def _expected(item: dict[str, Any], name: str, right: str) -> str:
    if name not in item:
        return f"{name} is missing"
    return f"{name} is {_short(item[name])}, expected {right}"
