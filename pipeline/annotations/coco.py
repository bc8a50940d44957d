"""Read COCO keypoint annotation files of COCO and of annotation tools, and check every field.

What follows without doubt from other values is filled in and counted (`FILLED`); everything else is an error. The file
is not read by pycocotools' COCO class, because that class prints to stdout, checks no fields and keeps all fields in
memory.
"""

from __future__ import annotations

import contextlib
import gc
import gzip
import hashlib
import io
import json
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.annotations.annotated_image import AnnotatedImage, PersonAnnotation, PersonFilter
from pipeline.annotations.categories import Categories, parse_categories
from pipeline.annotations.image_entries import ImageEntry, parse_images
from pipeline.annotations.image_files import ImageFolder
from pipeline.annotations.person_entries import PersonParser
from pipeline.annotations.values import entry_name
from pipeline.errors import InputError
from pipeline.sample import Annotation

FILLED: dict[str, str] = {
    "category names": "spelling of category or keypoint names",
    "repeated image entries": "image entries that occur twice",
    "file names": "paths of the place where they were annotated",
    "image sizes": "image sizes read from the files",
    "text ids": "image ids that are text",
    "category_id": "category_id missing",
    "annotation ids": "annotation ids missing or used twice",
    "repeated annotations": "annotations that occur twice",
    "iscrowd": "iscrowd missing or not 0 or 1",
    "area": "area missing or 0: that of the segmentation or box",
    "bbox": "bbox missing: that of the segmentation or keypoints",
    "num_keypoints": "num_keypoints that disagree",
    "people without keypoints": "people without keypoints, ignored in training",
    "keypoints in another order": "people whose keypoints are in another order",
    "numbers in another form": "people with numbers in another form",
    "segmentations": "segmentations that cannot be used",
    "boxes": "boxes joined with the keypoints of the same person",
}
"""What is filled in or corrected: each kind as it stands in the manifest, and its description after a number."""

_MAX_NAMED_PROBLEMS = 3
"""Maximum number of errors that a message names."""

_MAX_JSON_BYTES = 8 << 30
"""Maximum size of a decompressed annotation file."""

_SAME_PERSON = 0.3
"""Least intersection over union of a box and the box of the keypoints that it encloses, if they are of one person.

The box of the keypoints alone is smaller than that of the person: keypoints are joints, and some are not labelled.
"""

_ENCLOSED = 0.8
"""Least part of the box of the keypoints that lies in the person's box."""


@dataclass(frozen=True)
class AnnotationFile:
    """Content of an annotation file.

    Attributes:
        images: the images in the order of the file.
        sha256: SHA-256 hash of the file.
        filled: number of entries that were filled in or corrected, by the kinds in `FILLED`.
        left_out: descriptions of the entries that were left out because of errors.
    """

    images: list[AnnotatedImage]
    sha256: str
    filled: dict[str, int]
    left_out: list[str]


def annotation_file(folder: Path, split: str) -> Path:
    """Return the path of the person keypoint annotations of a split in a COCO folder.

    It is COCO's `annotations/person_keypoints_SPLIT.json`, unless only the same compressed (`.json.gz`) or Roboflow's
    `SPLIT/_annotations.coco.json` exists.
    """
    usual = folder / "annotations" / f"person_keypoints_{split}.json"
    others = (usual.with_name(f"{usual.name}.gz"), folder / split / "_annotations.coco.json")
    return next((path for path in (usual, *others) if path.is_file()), usual)


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
        InputError: the file is missing or contains errors. The message states the number of errors and the first ones.
    """
    path = annotations or annotation_file(folder, split)
    images = read_annotations(path, PersonFilter(min_keypoints, min_area)).images
    return [image.annotation() for image in images if keep_empty or image.has_trainable_person]


def read_annotations(
    path: Path, person_filter: PersonFilter, folder: ImageFolder | None = None, *, skip_bad: bool = False
) -> AnnotationFile:
    """Read and check an annotation file, which may be compressed with gzip.

    Args:
        path: the file.
        person_filter: criteria for trainable people.
        folder: the images; without it, sizes that are missing are errors, and file names are not resolved.
        skip_bad: leave out entries with errors instead of failing. A person with errors whose box is known is ignored
            in training instead.

    Raises:
        InputError: see `read_coco`.
    """
    data, sha256 = _load_json(path)
    with _garbage_collection_paused():
        filled: Counter[str] = Counter()
        categories = _parse_header(path, data)
        filled["category names"] += categories.spelled_otherwise
        problems: list[str] = []
        entries = parse_images(data["images"], folder, filled, problems)
        parser = PersonParser(entries, categories, person_filter, filled)
        people = _parse_people(data.pop("annotations"), parser, problems, skip_bad=skip_bad)
        if problems and not skip_bad:
            raise InputError(f"{path}: {describe_problems(problems)} (--on-bad-annotation skip leaves them out)")
        if any(not category.names for category in categories.people.values()) and len(categories.people) > 1:
            people = {image_id: _join_boxes(found, categories, parser) for image_id, found in people.items()}
        images = [_to_image(entry, people[entry.image_id]) for entry in entries.values() if entry]
    return AnnotationFile(images, sha256, {kind: filled[kind] for kind in FILLED if filled[kind]}, problems)


def describe_problems(problems: Sequence[str]) -> str:
    """Return the number of problems and the first ones, in one line."""
    count = "1 error" if len(problems) == 1 else f"{len(problems)} errors"
    first = "; first" if len(problems) > _MAX_NAMED_PROBLEMS else ""
    return f"{count}{first}: {'; '.join(problems[:_MAX_NAMED_PROBLEMS])}"


def describe_filled(filled: dict[str, int]) -> str:
    """Return the numbers of what was filled in or corrected, in one line."""
    return ", ".join(f"{count:,} {FILLED.get(kind, kind)}" for kind, count in filled.items())


def _load_json(path: Path) -> tuple[Any, str]:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; expected annotations/ beside the image folders") from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    sha256 = hashlib.sha256(content).hexdigest()
    if content.startswith(b"\x1f\x8b"):
        content = _decompress(path, content)
    try:
        with _garbage_collection_paused():
            return json.loads(content), sha256  # accepts a byte order mark and UTF-16
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON: {str(error)[:80]}") from None


def _decompress(path: Path, content: bytes) -> bytes:

    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
            data = file.read(_MAX_JSON_BYTES)
            if file.read(1):
                raise InputError(f"{path}: more than {_MAX_JSON_BYTES >> 30} GB after decompression")
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: damaged gzip file: {str(error)[:80]}") from None
    return data


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


def _parse_header(path: Path, data: Any) -> Categories:
    """Check the three lists of a file and return its categories."""
    sections = ("images", "annotations", "categories")
    if not isinstance(data, dict) or not all(isinstance(data.get(name), list) for name in sections):
        raise InputError(f"{path}: expected an object with the lists {', '.join(sections)}, as in COCO's files")
    problems: list[str] = []
    categories = parse_categories(data["categories"], problems)
    if problems:
        raise InputError(f"{path}: {describe_problems(problems)}")
    return categories


def _parse_people(
    items: list[Any], parser: PersonParser, problems: list[str], *, skip_bad: bool
) -> dict[int, list[PersonAnnotation]]:
    """Return the people of every image by image id."""
    people: dict[int, list[PersonAnnotation]] = {image_id: [] for image_id in parser.images}
    for index in range(len(items)):
        item, items[index] = items[index], None  # frees the polygons of each annotation after it is read
        if parser.is_of_other_category(item):
            continue
        try:
            person = parser.parse(item)
        except InputError as error:
            problems.append(f"{entry_name('annotation', item, index)}: {error}")
            if not skip_bad:
                continue
            try:
                person = parser.parse(item, keypoints=False)
            except InputError:
                continue
        if person:
            people[person.truth["image_id"]].append(person)
    return people


def _to_image(entry: ImageEntry, people: list[PersonAnnotation]) -> AnnotatedImage:
    return AnnotatedImage(
        entry.image_id, entry.file_name, entry.height, entry.width, tuple(people), text_id=entry.text_id
    )


def _join_boxes(people: list[PersonAnnotation], categories: Categories, parser: PersonParser) -> list[PersonAnnotation]:
    """Join each box of a category without keypoints with the person whose keypoints it encloses.

    Label Studio and CVAT export a box and a skeleton of one person as two annotations. As an ignored person, the box
    would exclude the skeleton from training. The box then is the person's box.
    """
    taken: set[int] = set()
    boxes = [person for person in people if not categories.people[person.truth["category_id"]].names]
    joined = [person for person in people if categories.people[person.truth["category_id"]].names]
    for box in boxes:
        overlaps = [_enclosing_overlap(box.truth["bbox"], person.truth["bbox"]) for person in joined]
        free = [index for index in range(len(joined)) if index not in taken and overlaps[index] >= _SAME_PERSON]
        best = max(free, key=overlaps.__getitem__, default=None)
        if box.truth["num_keypoints"] or box.truth["iscrowd"] or best is None:
            taken.add(len(joined))
            joined.append(box)
            continue
        taken.add(best)
        parser.filled["boxes"] += 1
        truth = {**joined[best].truth, "bbox": box.truth["bbox"], "area": box.truth["area"]}
        trainable = parser.person_filter.is_trainable(truth)
        joined[best] = replace(joined[best], truth=truth, trainable=trainable, region=None)
    return joined


def _enclosing_overlap(outer: Sequence[float], inner: Sequence[float]) -> float:
    """Return the intersection over union of two boxes (x, y, width, height); 0 if `outer` does not enclose `inner`."""
    width = min(outer[0] + outer[2], inner[0] + inner[2]) - max(outer[0], inner[0])
    height = min(outer[1] + outer[3], inner[1] + inner[3]) - max(outer[1], inner[1])
    common = max(width, 0) * max(height, 0)
    union = outer[2] * outer[3] + inner[2] * inner[3] - common
    return common / union if union > 0 and common >= _ENCLOSED * inner[2] * inner[3] else 0.0
