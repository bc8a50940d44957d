"""Images with checked annotations, and the selection of the people to train on.

The selection follows the reference implementation (MindSpore ModelZoo): people with at least five labelled keypoints
and an area of more than 1024 px are trainable. All other people, and crowds, form the ignore region.

Each image is passed to the task of its shard as an `AnnotatedImage`. The task renders the mask of the ignore region, so
that planning a build does not render or hold masks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.annotations.ignore_region import Region, ignore_mask
from pipeline.sample import Annotation
from pipeline.skeleton import COCO_KEYPOINTS, NUM_KEYPOINTS, from_coco
from pipeline.storage.records import mask_to_rle


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
        text_id: the id in the file if it is text there, else None.
    """

    image_id: int
    file_name: str
    height: int
    width: int
    people: tuple[PersonAnnotation, ...]
    text_id: str | None = None

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
