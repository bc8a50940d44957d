"""Conversion of detected people to COCO keypoint results, and from the results of any system to people.

This module needs NumPy only.
"""

from __future__ import annotations

import json
import reprlib
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.decoder.person import Person
from pipeline.annotations.values import MAX_COORDINATE
from pipeline.errors import InputError
from pipeline.skeleton import COCO_KEYPOINTS, from_coco, to_coco

PERSON_CATEGORY = 1
"""COCO's category id of a person."""


def to_coco_results(image_id: int, people: Sequence[Person]) -> list[dict[str, Any]]:
    """Convert the detections of one image to COCO keypoint results, the input of `COCO.loadRes` and `coco_ap`.

    Each result has `image_id`, `category_id` 1, `keypoints` (51 floats: x, y in px and 1 in COCO-17 order; three zeros
    if not detected) and `score`. The third number is 1 for a detected keypoint, because COCO's evaluation ignores it.
    COCO has no neck, so it is left out, and a person with only a neck gives no result.

    Args:
        image_id: COCO image id.
        people: detected people, in image pixels.
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


def read_results(
    path: Path,
    image_ids: Collection[int],
    *,
    categories: Collection[int] = (),
    text_ids: Mapping[int, str] | None = None,
) -> list[dict[str, Any]]:
    """Read a file of COCO keypoint results and validate every value.

    Args:
        path: a JSON list of objects with `image_id`, `category_id` (optional), `keypoints` and `score`.
        image_ids: valid image ids.
        categories: valid ids of the person category, in addition to 1.
        text_ids: text that may stand for an image id in the file, by image id.

    Returns:
        The results, with integer image ids.

    Raises:
        InputError: the file is missing or not such a list, or a result is invalid; the message names the first one.
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
    known_ids, known_categories = set(image_ids), {PERSON_CATEGORY, *categories}
    ids_by_text = {text: image_id for image_id, text in (text_ids or {}).items()}
    for index, result in enumerate(results):
        if isinstance(result, dict) and isinstance(result.get("image_id"), str):
            result["image_id"] = ids_by_text.get(result["image_id"], result["image_id"])
        problem = _find_problem(result, known_ids, known_categories)
        if problem:
            raise InputError(f"{path}: result {index}: {problem}")
    return results


def with_ids_of_the_user(
    results: Sequence[dict[str, Any]], text_ids: Mapping[int, str], categories: Collection[int]
) -> list[dict[str, Any]]:
    """Return results with the ids of the user's annotation file, so that other programs can score them with that file.

    Args:
        results: COCO keypoint results.
        text_ids: text that stands for an image id in the annotation file, by image id.
        categories: ids of the person category in the annotation files. Several ids, as of several files, stay 1.
    """
    category = next(iter(categories)) if len(categories) == 1 else PERSON_CATEGORY
    return [
        {**result, "image_id": text_ids.get(result["image_id"], result["image_id"]), "category_id": category}
        for result in results
    ]


def _find_problem(result: Any, known_ids: set[int], categories: set[int]) -> str | None:
    """Describe the first problem of a result; return None for a valid result."""
    if not isinstance(result, dict):
        return f"{reprlib.repr(result)} is not an object"
    missing = [name for name in ("image_id", "keypoints", "score") if name not in result]
    if missing:
        return f"{missing[0]} is missing"
    checks = {
        "image_id": (_is_known(result["image_id"], known_ids), f"one of the {len(known_ids):,} evaluated images"),
        "category_id": (
            type(result.get("category_id", PERSON_CATEGORY)) in (int, float)
            and result.get("category_id", PERSON_CATEGORY) in categories,
            " or ".join(map(str, sorted(categories))),
        ),
        "score": (_is_finite(result["score"]), "a number"),
    }
    for name, (valid, expected) in checks.items():
        if not valid:
            return f"{name} is {reprlib.repr(result[name])}, expected {expected}"
    return _find_keypoint_problem(result["keypoints"])


def _is_known(image_id: Any, known_ids: set[int]) -> bool:
    return type(image_id) is int and image_id in known_ids


def _find_keypoint_problem(keypoints: Any) -> str | None:
    expected = 3 * len(COCO_KEYPOINTS)
    if not isinstance(keypoints, list) or len(keypoints) != expected:
        content = f"{len(keypoints)} numbers" if isinstance(keypoints, list) else reprlib.repr(keypoints)
        return f"keypoints has {content}, expected {expected} numbers"
    invalid = [value for value in keypoints if not _is_finite(value) or abs(value) > MAX_COORDINATE]
    return (
        f"keypoints has {reprlib.repr(invalid[0])}, expected numbers of at most {MAX_COORDINATE}" if invalid else None
    )


def _is_finite(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


def to_people(results: Sequence[dict[str, Any]]) -> list[Person]:
    """Convert the results of one image to people, in descending order of score.

    Keypoints at (0, 0) are not detected; all others get a score of 1. The neck, which COCO does not have, is the
    midpoint of the shoulders if both are detected.
    """
    keypoints = np.array([result["keypoints"] for result in results], dtype=np.float32)
    keypoints = keypoints.reshape(-1, len(COCO_KEYPOINTS), 3)
    keypoints[..., 2] = (keypoints[..., :2] != 0).any(axis=2)
    ordered = sorted(zip(from_coco(keypoints), results, strict=True), key=lambda pair: -pair[1]["score"])
    return [Person(points, float(result["score"])) for points, result in ordered]
