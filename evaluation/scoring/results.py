"""From people to COCO's keypoint results, and back from those of any system.

This module needs NumPy only.
"""

from __future__ import annotations

import json
import reprlib
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.decoder.person import Person
from pipeline.annotations.coco import MAX_COORDINATE
from pipeline.errors import InputError
from pipeline.skeleton import COCO_KEYPOINTS, from_coco, to_coco

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


def read_results(path: Path, image_ids: Collection[int]) -> list[dict[str, Any]]:
    """Read a file of COCO keypoint results and check every number of it.

    Args:
        path: a JSON list of objects with `image_id`, `category_id` (1, or left out), `keypoints` and `score`.
        image_ids: the pictures there are.

    Raises:
        InputError: no such file, not such a list, or a result that is wrong; the message names the first.
    """
    try:
        results = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; expected COCO keypoint results") from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON: {str(error)[:80]}") from None
    if not isinstance(results, list):
        raise InputError(f"{path}: holds an object of type {type(results).__name__}, expected a list of results")
    known = set(image_ids)
    for index, result in enumerate(results):
        problem = _problem(result, known)
        if problem:
            raise InputError(f"{path}: result {index}: {problem}")
    return results


def _problem(result: Any, known: set[int]) -> str | None:
    """What is wrong with a result, None if nothing is."""
    if not isinstance(result, dict):
        return f"{reprlib.repr(result)} is not an object"
    missing = [name for name in ("image_id", "keypoints", "score") if name not in result]
    if missing:
        return f"{missing[0]} is missing"
    checks = {
        "image_id": (_is_known(result["image_id"], known), f"one of the {len(known):,} pictures evaluated"),
        "category_id": (result.get("category_id", PERSON_CATEGORY) == PERSON_CATEGORY, str(PERSON_CATEGORY)),
        "score": (_is_finite(result["score"]), "a number"),
    }
    for name, (good, right) in checks.items():
        if not good:
            return f"{name} is {reprlib.repr(result[name])}, expected {right}"
    return _keypoint_problem(result["keypoints"])


def _is_known(image_id: Any, known: set[int]) -> bool:
    return type(image_id) is int and image_id in known


def _keypoint_problem(keypoints: Any) -> str | None:
    numbers = 3 * len(COCO_KEYPOINTS)
    if not isinstance(keypoints, list) or len(keypoints) != numbers:
        size = f"{len(keypoints)} numbers" if isinstance(keypoints, list) else reprlib.repr(keypoints)
        return f"keypoints has {size}, expected {numbers}"
    wrong = [value for value in keypoints if not _is_finite(value) or abs(value) > MAX_COORDINATE]
    return f"keypoints holds {reprlib.repr(wrong[0])}, expected numbers of at most {MAX_COORDINATE}" if wrong else None


def _is_finite(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


def to_people(results: Sequence[dict[str, Any]]) -> list[Person]:
    """The people of one picture's results, the surest first, each keypoint that is not at 0, 0 with a score of 1.

    The neck, which COCO does not have, is put between the shoulders where both were found.
    """
    keypoints = np.array([result["keypoints"] for result in results], dtype=np.float32)
    keypoints = keypoints.reshape(-1, len(COCO_KEYPOINTS), 3)
    keypoints[..., 2] = (keypoints[..., :2] != 0).any(axis=2)
    ordered = sorted(zip(from_coco(keypoints), results, strict=True), key=lambda pair: -pair[1]["score"])
    return [Person(points, float(result["score"])) for points, result in ordered]
