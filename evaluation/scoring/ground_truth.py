"""Ground truth: COCO person annotations by image id, and their keypoints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.skeleton import COCO_KEYPOINTS, from_coco

GroundTruth = dict[int, tuple[dict[str, Any], ...]]
"""COCO person annotations by image id, in the order of the dataset."""


def add_annotations(ground_truth: GroundTruth, image_id: int, annotations: tuple[dict[str, Any], ...]) -> None:
    """Add the annotations of an image to `ground_truth`; raise InputError if the image id is already there."""
    if image_id in ground_truth:
        raise InputError(f"image id {image_id} occurs twice: evaluate one split at a time")
    ground_truth[image_id] = annotations


def annotated_keypoints(annotations: Sequence[Mapping[str, Any]]) -> NDArray[np.float32]:
    """Return keypoints (P, 18, 3), x, y in px and visibility, of all people with keypoints, in OpenPose-18 order."""
    labelled = [person["keypoints"] for person in annotations if person["num_keypoints"] > 0]
    return from_coco(np.array(labelled, dtype=np.float32).reshape(-1, len(COCO_KEYPOINTS), 3))


def category_ids(annotations: Iterable[Mapping[str, Any]]) -> set[int]:
    """Return the ids of the person category in annotations; files of different origin have different ids."""
    return {person["category_id"] for person in annotations if "category_id" in person}


def count_people(annotations: Iterable[Mapping[str, Any]]) -> int:
    """Return the number of annotations that COCO evaluates: no crowds, at least one labelled keypoint."""
    return sum(not person.get("iscrowd", 0) and person["num_keypoints"] > 0 for person in annotations)
