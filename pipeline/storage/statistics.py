"""Statistics of records. All of them are counts, so the statistics of a set are the sum of those of its shards."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.skeleton import COCO_KEYPOINTS, KEYPOINTS, NUM_KEYPOINTS, to_coco

BOX_EDGES: tuple[int, ...] = (0, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768)
"""Lower edges in px of the histograms of box widths and heights; the last bin has no upper edge."""

IMAGE_EDGES: tuple[int, ...] = (0, 128, 192, 256, 320, 384, 448, 512, 576, 640, 641, 1024, 2048, 4096)
"""Lower edges in px of the histograms of image widths and heights. Most COCO images are 640 px wide or high, so 640 has
its own bin."""

IGNORED_EDGES: tuple[float, ...] = (0.0, 1e-9, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
"""Lower edges of the histogram of the ignored fraction of an image. The first bin means that nothing is ignored."""


@dataclass
class Statistics:
    """Statistics of a number of records.

    Attributes:
        records: number of images.
        images_with_people: number of images with a trainable person.
        people: number of trainable people.
        max_people: largest number of trainable people in one image.
        ignored_people: number of annotated people that are not trainable, without crowds.
        crowds: number of crowd annotations.
        picture_bytes: total size of the image files in bytes.
        pixels: total number of pixels.
        ignored_pixels: total number of pixels in ignore regions.
        images_with_ignored: number of images with an ignore region.
        keypoints: for each keypoint by name, the number of trainable people with it [not labelled, hidden, visible].
        people_per_image: number of images by number of trainable people, starting at 0.
        keypoints_per_person: number of trainable people by number of labelled COCO keypoints, 0 to 17.
        box_width, box_height: histograms of the boxes of trainable people with the bins `BOX_EDGES`.
        image_width, image_height: histograms of the images with the bins `IMAGE_EDGES`.
        ignored_fraction: histogram of the ignored fraction of the images with the bins `IGNORED_EDGES`.
    """

    records: int = 0
    images_with_people: int = 0
    people: int = 0
    max_people: int = 0
    ignored_people: int = 0
    crowds: int = 0
    picture_bytes: int = 0
    pixels: int = 0
    ignored_pixels: int = 0
    images_with_ignored: int = 0
    keypoints: dict[str, list[int]] = field(default_factory=lambda: {name: [0, 0, 0] for name in KEYPOINTS})
    people_per_image: list[int] = field(default_factory=list)
    keypoints_per_person: list[int] = field(default_factory=lambda: [0] * (len(COCO_KEYPOINTS) + 1))
    box_width: list[int] = field(default_factory=lambda: [0] * len(BOX_EDGES))
    box_height: list[int] = field(default_factory=lambda: [0] * len(BOX_EDGES))
    image_width: list[int] = field(default_factory=lambda: [0] * len(IMAGE_EDGES))
    image_height: list[int] = field(default_factory=lambda: [0] * len(IMAGE_EDGES))
    ignored_fraction: list[int] = field(default_factory=lambda: [0] * len(IGNORED_EDGES))

    def add_record(
        self,
        *,
        keypoints: NDArray[np.float32],
        boxes: Iterable[Sequence[float]],
        crowds: int,
        ignored_people: int,
        size: tuple[int, int],
        ignored_pixels: int,
        picture_bytes: int,
    ) -> None:
        """Add one image.

        Args:
            keypoints: keypoints of the trainable people, (P, K, 3).
            boxes: COCO boxes of the trainable people, x, y, width, height in px.
            crowds: number of crowd annotations.
            ignored_people: number of people that are not trainable, without crowds.
            size: (height, width) in px.
            ignored_pixels: number of pixels in the ignore region.
            picture_bytes: size of the image file in bytes.
        """
        people, (height, width) = len(keypoints), size
        self.records += 1
        self.images_with_people += people > 0
        self.people += people
        self.max_people = max(self.max_people, people)
        self.ignored_people += ignored_people
        self.crowds += crowds
        self.picture_bytes += picture_bytes
        self.pixels += height * width
        self.ignored_pixels += ignored_pixels
        self.images_with_ignored += ignored_pixels > 0
        self.people_per_image.extend([0] * (people + 1 - len(self.people_per_image)))
        self.people_per_image[people] += 1
        self.image_width[_bin(IMAGE_EDGES, width)] += 1
        self.image_height[_bin(IMAGE_EDGES, height)] += 1
        self.ignored_fraction[_bin(IGNORED_EDGES, ignored_pixels / (height * width))] += 1
        for box in boxes:
            self.box_width[_bin(BOX_EDGES, box[2])] += 1
            self.box_height[_bin(BOX_EDGES, box[3])] += 1
        if people:
            self._add_keypoints(keypoints)

    def _add_keypoints(self, keypoints: NDArray[np.float32]) -> None:
        visibility = keypoints[..., 2].astype(np.intp)
        for labelled in (to_coco(keypoints)[..., 2] > 0).sum(axis=1).tolist():
            self.keypoints_per_person[labelled] += 1
        flat = np.bincount((visibility + 3 * np.arange(NUM_KEYPOINTS)).ravel(), minlength=3 * NUM_KEYPOINTS)
        for name, counts in zip(KEYPOINTS, flat.reshape(NUM_KEYPOINTS, 3).tolist(), strict=True):
            self.keypoints[name] = _add_lists(self.keypoints[name], counts)

    def merge(self, other: Statistics) -> None:
        """Add the counts of other records in place."""
        for name in (item.name for item in fields(self)):
            a, b = getattr(self, name), getattr(other, name)
            if name == "max_people":
                self.max_people = max(a, b)
            elif isinstance(a, int):
                setattr(self, name, a + b)
            elif isinstance(a, list):
                setattr(self, name, _add_lists(a, b))
            else:
                setattr(self, name, {key: _add_lists(counts, b[key]) for key, counts in a.items()})

    def to_json(self) -> dict[str, Any]:
        """Return the counts as JSON types."""
        return {item.name: getattr(self, item.name) for item in fields(self)}

    @classmethod
    def from_json(cls, data: object) -> Statistics:
        """Inverse of `to_json`. Raise InputError with the name of the first missing or invalid count."""
        if not isinstance(data, dict):
            raise InputError(f"tally: expected an object, got {type(data).__name__}")
        empty = cls()
        for item in fields(cls):
            if not _has_form_of(data.get(item.name), getattr(empty, item.name), item.name):
                raise InputError(f"tally.{item.name}: missing, or not of the expected form")
        return cls(**{item.name: data[item.name] for item in fields(cls)})


def _bin(edges: Sequence[float], value: float) -> int:
    return max(bisect_right(edges, value) - 1, 0)


def _add_lists(a: list[int], b: list[int]) -> list[int]:
    length = max(len(a), len(b))
    return [x + y for x, y in zip(a + [0] * (length - len(a)), b + [0] * (length - len(b)), strict=True)]


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _has_form_of(value: object, empty: object, name: str) -> bool:
    """Return True if `value` has the types, lengths and keys of the field `name` of empty statistics."""
    if isinstance(empty, int):
        return _is_count(value)
    if isinstance(empty, list):
        any_length = name == "people_per_image"
        return isinstance(value, list) and all(map(_is_count, value)) and (any_length or len(value) == len(empty))
    return (
        isinstance(value, dict)
        and isinstance(empty, dict)
        and set(value) == set(empty)
        and all(_has_form_of(value[key], counts, key) for key, counts in empty.items())
    )
