"""From people to COCO's keypoint results.

This module needs NumPy only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from evaluation.person import Person
from pipeline.skeleton import to_coco

PERSON_CATEGORY = 1
"""COCO's category id of a person."""


def to_coco_results(image_id: int, people: Sequence[Person]) -> list[dict[str, Any]]:
    """COCO keypoint results of one picture, as `COCO.loadRes` and `coco_ap` take them.

    Each result has `image_id`, `category_id` 1, `keypoints` (51 floats: x, y in px and 1 in COCO-17 order; three
    zeros where not found) and `score`. The third number is 1 for what was found, for COCO's evaluation ignores it.
    The neck is left out; a person of whom only the neck was found gives no result.

    Args:
        image_id: COCO image id.
        people: people with coordinates in pixels of the annotated picture.
    """
    results = []
    for person in people:
        keypoints = to_coco(person.keypoints).astype(float)  # (17, 3)
        keypoints[:, 2] = keypoints[:, 2] > 0
        if keypoints[:, 2].any():
            results.append(
                {
                    "image_id": int(image_id),
                    "category_id": PERSON_CATEGORY,
                    "keypoints": [round(value, 2) for value in keypoints.reshape(-1).tolist()],
                    "score": float(person.score),
                }
            )
    return results
