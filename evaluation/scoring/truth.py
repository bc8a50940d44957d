"""Annotated people (the ground truth) by image id, in COCO's form, and their keypoints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.skeleton import COCO_KEYPOINTS, from_coco

Truth = dict[int, tuple[dict[str, Any], ...]]
"""COCO person annotations by image id, in the order of the set."""


def add_truth(truth: Truth, image_id: int, annotations: tuple[dict[str, Any], ...]) -> None:
    """Add a picture's annotations; InputError if its image id is there already."""
    if image_id in truth:
        raise InputError(f"image id {image_id} comes twice: evaluate a set of one split at a time")
    truth[image_id] = annotations


def true_keypoints(truth: Sequence[Mapping[str, Any]]) -> NDArray[np.float32]:
    """(P, 18, 3) x, y in px and visibility of the annotated people who have keypoints, OpenPose-18 order."""
    labelled = [person["keypoints"] for person in truth if person["num_keypoints"] > 0]
    return from_coco(np.array(labelled, dtype=np.float32).reshape(-1, len(COCO_KEYPOINTS), 3))


def count_people(annotations: Iterable[Mapping[str, Any]]) -> int:
    """Annotated people whom COCO's score asks for: no crowds, and some keypoint labelled."""
    return sum(not person.get("iscrowd", 0) and person["num_keypoints"] > 0 for person in annotations)
