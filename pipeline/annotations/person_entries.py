"""The `annotations` of an annotation file: checked, and filled in where a value follows from others.

Tools leave out fields, or write them in other forms. What follows without doubt is filled in and counted; everything
else is an error. The kinds that are counted are described in `coco.FILLED`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.annotations.annotated_image import PersonAnnotation, PersonFilter
from pipeline.annotations.categories import Categories, PersonCategory
from pipeline.annotations.ignore_region import Region, are_numbers, parse_region
from pipeline.annotations.image_entries import ImageEntry
from pipeline.annotations.values import (
    MAX_COORDINATE,
    abbreviate,
    expected,
    is_number,
    parse_id,
    to_number,
)
from pipeline.errors import InputError
from pipeline.images.decode import MAX_PIXELS
from pipeline.skeleton import COCO_KEYPOINTS

NUM_KEYPOINT_VALUES = 3 * len(COCO_KEYPOINTS)
"""Numbers in the `keypoints` field of an annotation: x, y and visibility of each keypoint."""

_CROWD = {0: 0, 1: 1, "0": 0, "1": 1, "false": 0, "true": 1, "": 0}


@dataclass
class PersonParser:
    """Parses the person annotations of one file.

    Attributes:
        images: the images of the file by id; None for an image with errors.
        categories: the categories of the file.
        person_filter: criteria for trainable people.
        filled: number of annotations that were filled in or corrected by kind, increased by `parse`.
        parsed: the annotations parsed so far by id.
    """

    images: Mapping[int, ImageEntry | None]
    categories: Categories
    person_filter: PersonFilter
    filled: Counter[str]
    parsed: dict[int, dict[str, Any]] = field(default_factory=dict)
    _largest_id: int = 0

    def is_of_other_category(self, item: Any) -> bool:
        """Return True for an annotation of a category that is no person."""
        return isinstance(item, dict) and parse_id(item.get("category_id")) in self.categories.other_ids

    def parse(self, item: Any, *, keypoints: bool = True) -> PersonAnnotation | None:
        """Parse an annotation.

        Args:
            item: the entry in the file.
            keypoints: False takes the person as one without keypoints.

        Returns:
            The annotation; None if its image has errors, or if it is an exact repetition of an earlier one.

        Raises:
            InputError: a value is not valid and does not follow from others; the message describes it.
        """
        if not isinstance(item, dict):
            raise InputError(f"{abbreviate(item)} is not an object")
        image_id = parse_id(item.get("image_id"))
        if image_id is None or image_id not in self.images:
            raise InputError(expected(item, "image_id", "one of the file's images"))
        image = self.images[image_id]
        if image is None:
            return None
        filled: Counter[str] = Counter()
        category = self._category(item, filled)
        points = self._keypoints(item, category, filled) if keypoints else None
        truth: dict[str, Any] = {
            "id": self._annotation_id(item, filled),
            "image_id": image_id,
            "category_id": category.category_id,
            "iscrowd": _parse_crowd(item, filled),
            "area": None,
            "bbox": _parse_box(item),
            "num_keypoints": 0,
            "keypoints": points or [0] * NUM_KEYPOINT_VALUES,
        }
        truth["num_keypoints"] = NUM_KEYPOINT_VALUES // 3 - truth["keypoints"][2::3].count(0)
        stated = item.get("num_keypoints", truth["num_keypoints"])
        filled["num_keypoints"] += stated != truth["num_keypoints"] and keypoints
        region = self._fill_box_and_area(item, truth, image, filled)
        trainable = self.person_filter.is_trainable(truth)
        if truth["id"] in self.parsed:
            if truth == self.parsed[truth["id"]]:
                self.filled["repeated annotations"] += 1
                return None
            filled["annotation ids"] += 1
            truth["id"] = self._largest_id + 1
        self.parsed[truth["id"]] = truth
        self._largest_id = max(self._largest_id, truth["id"])
        self.filled.update(filled)
        return PersonAnnotation(truth, trainable, None if trainable else region)

    def _category(self, item: dict[str, Any], filled: Counter[str]) -> PersonCategory:
        people = self.categories.people
        category_id = parse_id(item.get("category_id"))
        if item.get("category_id") is None and len(people) == 1 and not self.categories.other_ids:
            filled["category_id"] += 1
            return next(iter(people.values()))
        if category_id is None or category_id not in people:
            raise InputError(expected(item, "category_id", "one of the file's categories"))
        return people[category_id]

    def _annotation_id(self, item: dict[str, Any], filled: Counter[str]) -> int:
        annotation_id = parse_id(item.get("id"))
        if annotation_id is None:
            filled["annotation ids"] += 1
            return self._largest_id + 1
        return annotation_id

    def _keypoints(self, item: dict[str, Any], category: PersonCategory, filled: Counter[str]) -> list[Any] | None:
        """Return the 51 numbers in COCO's order, or None for a person without keypoints."""
        values = item.get("keypoints")
        if not values and (values is None or isinstance(values, (list, dict, str))):
            filled["people without keypoints"] += 1
            return None
        if not isinstance(values, list):
            raise InputError(expected(item, "keypoints", f"a list of {NUM_KEYPOINT_VALUES} numbers"))
        if isinstance(values[0], list) and all(isinstance(value, list) and len(value) == 3 for value in values):
            values = [number for triple in values for number in triple]
        if len(values) not in category.lengths:
            raise InputError(f"keypoints has {len(values)} numbers, expected {' or '.join(map(str, category.lengths))}")
        if not are_numbers(values, MAX_COORDINATE) or not set(values[2::3]) <= {0, 1, 2}:
            values = _repair_keypoints(values)
            filled["numbers in another form"] += 1
        if category.order is not None:
            filled["keypoints in another order"] += 1
            return [number for index in category.order for number in values[3 * index : 3 * index + 3]]
        return values[:NUM_KEYPOINT_VALUES]

    def _fill_box_and_area(
        self, item: dict[str, Any], truth: dict[str, Any], image: ImageEntry, filled: Counter[str]
    ) -> Region | None:
        """Set `bbox` and `area` of an annotation, which may follow from each other; return its segmentation."""
        area = to_number(item.get("area"))
        if area is True or (is_number(area, -1e300, 1e300) and not 0 <= area <= MAX_PIXELS):
            raise InputError(expected(item, "area", f"0..{MAX_PIXELS} px"))
        given = is_number(area, 0, MAX_PIXELS) and area > 0
        truth["area"] = area if given else 0
        keep = not given or truth["bbox"] is None or not self.person_filter.is_trainable(truth)
        region, incomplete = parse_region(
            item.get("segmentation"), image.height, image.width, MAX_COORDINATE, keep=keep
        )
        filled["segmentations"] += incomplete
        if truth["bbox"] is None:
            filled["bbox"] += 1
            truth["bbox"] = (region.box(image.height) if region else None) or _keypoint_box(truth["keypoints"])
            if truth["bbox"] is None:
                raise InputError("it has no bbox, no keypoints and no segmentation")
        elif truth["bbox"] is not item["bbox"]:
            filled["numbers in another form"] += 1
        if not given:
            computed = region.area() if region else truth["bbox"][2] * truth["bbox"][3]
            truth["area"] = min(computed, MAX_PIXELS)
            filled["area"] += item.get("area") != truth["area"]
        return region


def _parse_crowd(item: dict[str, Any], filled: Counter[str]) -> int:
    value = item.get("iscrowd")
    if type(value) is int and value in (0, 1):
        return value
    key = value.lower() if isinstance(value, str) else value
    if value is None:
        key = 0
    if not isinstance(key, (int, float, str)) or key not in _CROWD:
        raise InputError(expected(item, "iscrowd", "0 or 1"))
    filled["iscrowd"] += 1
    return _CROWD[key]


def _parse_box(item: dict[str, Any]) -> Any:
    """Return the box of an annotation: the very list of the file if it is valid, None if there is no box."""
    box = item.get("bbox")
    if isinstance(box, list) and len(box) == 4 and are_numbers(box, MAX_COORDINATE) and min(box[2], box[3]) >= 0:
        return box
    if not box and (box is None or isinstance(box, (list, dict, str))):
        return None
    if not isinstance(box, list) or len(box) != 4:
        raise InputError(expected(item, "bbox", f"four numbers of at most {MAX_COORDINATE}"))
    numbers = [to_number(side) for side in box]
    if any(side is None or side != side for side in numbers):  # noqa: PLR0124 (NaN differs from itself)
        return None
    if not are_numbers(numbers, MAX_COORDINATE):
        raise InputError(expected(item, "bbox", f"four numbers of at most {MAX_COORDINATE}"))
    x, y, width, height = numbers
    return [min(x, x + width), min(y, y + height), abs(width), abs(height)]  # drawn from right to left, or upwards


def _repair_keypoints(values: list[Any]) -> list[Any]:
    """Return keypoints as numbers: text is converted, and what is not labelled needs no coordinates."""
    numbers = []
    for start in range(0, len(values), 3):
        x, y, visibility = (to_number(value) for value in values[start : start + 3])
        if visibility is None or visibility is False:
            visibility = 0
        visibility = int(visibility) if visibility is True else visibility
        if not is_number(visibility, -MAX_COORDINATE, MAX_COORDINATE):
            raise InputError(f"keypoints holds {abbreviate(visibility)}, expected numbers of at most {MAX_COORDINATE}")
        if visibility not in (0, 1, 2):
            raise InputError(f"keypoints has a visibility of {abbreviate(visibility)}, expected 0, 1 or 2")
        if visibility == 0 and not are_numbers([x, y], MAX_COORDINATE):
            x = y = 0
        for value in (x, y):
            if not is_number(value, -MAX_COORDINATE, MAX_COORDINATE):
                raise InputError(f"keypoints holds {abbreviate(value)}, expected numbers of at most {MAX_COORDINATE}")
        numbers += [x, y, int(visibility)]
    return numbers


def _keypoint_box(keypoints: list[Any]) -> list[float] | None:
    """Return x, y, width and height in px of the box around the labelled keypoints; None if there are none."""
    labelled = [keypoints[i : i + 2] for i in range(0, NUM_KEYPOINT_VALUES, 3) if keypoints[i + 2]]
    if not labelled:
        return None
    xs, ys = zip(*labelled, strict=True)
    return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
