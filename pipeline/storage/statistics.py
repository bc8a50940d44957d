"""The tally of a set of records: counts that add up, so that every shard brings its own and the manifest their sum."""

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
"""Lower edges, px, of the histogram of people's boxes; the last bin is open."""

IMAGE_EDGES: tuple[int, ...] = (0, 128, 192, 256, 320, 384, 448, 512, 576, 640, 641, 1024, 2048, 4096)
"""Lower edges, px, of the histograms of picture sides; 640, the long side of most COCO pictures, has its own bin."""

IGNORED_EDGES: tuple[float, ...] = (0.0, 1e-9, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
"""Lower edges of the histogram of a picture's ignored fraction; the first bin is nothing ignored."""


@dataclass
class Statistics:
    """Counts over records.

    Attributes:
        records: pictures.
        images_with_people: pictures with a trainable person.
        people: trainable people.
        max_people: most trainable people in one picture.
        ignored_people: annotated people, crowds apart, that do not train.
        crowds: crowd annotations.
        picture_bytes: bytes of all picture files.
        pixels, ignored_pixels: of all pictures, and of their ignore regions.
        images_with_ignored: pictures with an ignore region.
        keypoints: for each keypoint by name, how often a trainable person has it [not labelled, hidden, visible].
        people_per_image: pictures by their number of trainable people, from 0 on.
        keypoints_per_person: trainable people by their number of labelled COCO keypoints, from 0 to 17.
        box_width, box_height: trainable people by their box's sides, over `BOX_EDGES`.
        image_width, image_height: pictures by their sides, over `IMAGE_EDGES`.
        ignored_fraction: pictures by the ignored part of their area, over `IGNORED_EDGES`.
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
        """Count one picture.

        Args:
            keypoints: (P, K, 3) of its trainable people.
            boxes: their COCO boxes, x, y, width, height in px.
            crowds: its crowd annotations.
            ignored_people: its people that do not train.
            size: (height, width) px.
            ignored_pixels: px of its ignore region.
            picture_bytes: bytes of its file.
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
            self.keypoints[name] = _sum(self.keypoints[name], counts)

    def merge(self, other: Statistics) -> None:
        """Add another tally."""
        for name in (item.name for item in fields(self)):
            mine, theirs = getattr(self, name), getattr(other, name)
            if name == "max_people":
                self.max_people = max(mine, theirs)
            elif isinstance(mine, int):
                setattr(self, name, mine + theirs)
            elif isinstance(mine, list):
                setattr(self, name, _sum(mine, theirs))
            else:
                setattr(self, name, {key: _sum(counts, theirs[key]) for key, counts in mine.items()})

    def to_json(self) -> dict[str, Any]:
        """The counts as plain lists, dicts and numbers."""
        return {item.name: getattr(self, item.name) for item in fields(self)}

    @classmethod
    def from_json(cls, data: object) -> Statistics:
        """Inverse of `to_json`; raises InputError naming the count that is missing or is not a count."""
        if not isinstance(data, dict):
            raise InputError(f"tally: expected an object, not {type(data).__name__}")
        empty = cls()
        for item in fields(cls):
            if not _same_form(data.get(item.name), getattr(empty, item.name), item.name):
                raise InputError(f"tally.{item.name}: missing, or not the counts that were expected")
        return cls(**{item.name: data[item.name] for item in fields(cls)})


def _bin(edges: Sequence[float], value: float) -> int:
    return max(bisect_right(edges, value) - 1, 0)


def _sum(a: list[int], b: list[int]) -> list[int]:
    length = max(len(a), len(b))
    return [x + y for x, y in zip(a + [0] * (length - len(a)), b + [0] * (length - len(b)), strict=True)]


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _same_form(value: object, empty: object, name: str) -> bool:
    if isinstance(empty, int):
        return _is_count(value)
    if isinstance(empty, list):
        free = name == "people_per_image"
        return isinstance(value, list) and all(map(_is_count, value)) and (free or len(value) == len(empty))
    return (
        isinstance(value, dict)
        and isinstance(empty, dict)
        and set(value) == set(empty)
        and all(_same_form(value[key], counts, key) for key, counts in empty.items())
    )
