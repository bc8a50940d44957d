"""Annotations and results with known errors, for the tests of evaluation.scoring.analysis and of the report."""

from __future__ import annotations

from typing import Any

import numpy as np

from evaluation.scoring.analysis.arrays import SIGMAS
from evaluation.scoring.analysis.errors import MIRROR_INDICES
from pipeline.skeleton import TO_COCO
from tests.support.oracle import standing_person

HEIGHT = 200.0
AREA = 8000.0


def person(x: float, *, image_id: int = 1, unlabelled: tuple[int, ...] = (), crowd: int = 0) -> dict[str, Any]:
    """Return the annotation of a standing person with its centre at (x, 250)."""
    keypoints = standing_person(x, 250, HEIGHT)[TO_COCO].astype(float)
    low, high = keypoints[:, :2].min(axis=0), keypoints[:, :2].max(axis=0)
    keypoints[list(unlabelled)] = 0
    return {
        "id": round(x),
        "image_id": image_id,
        "category_id": 1,
        "iscrowd": crowd,
        "num_keypoints": 17 - len(unlabelled),
        "area": AREA,
        "bbox": [*low.tolist(), *(high - low).tolist()],
        "keypoints": keypoints.reshape(-1).tolist(),
    }


def points(annotation: dict[str, Any]) -> np.ndarray:
    """Return the keypoints (17, 3) of an annotation."""
    return np.array(annotation["keypoints"], dtype=float).reshape(17, 3)


def result(keypoints: np.ndarray, *, image_id: int = 1, score: float = 0.5) -> dict[str, Any]:
    return {"image_id": image_id, "category_id": 1, "keypoints": keypoints.reshape(-1).tolist(), "score": score}


def distance_px(similarity: float, keypoint: int) -> float:
    """Return the distance in px at which a keypoint of a `person` has this similarity."""
    return float(np.sqrt(-2 * AREA * np.log(similarity)) * 2 * SIGMAS[keypoint])


def random_set(
    seed: int, *, images: int = 40, people: int = 70, background: int = 40, undetected: float = 0.15
) -> tuple[dict[int, list[dict[str, Any]]], list[dict[str, Any]]]:
    """Return ground truth and results with errors of all kinds, crowds and people without keypoints."""
    rng = np.random.default_rng(seed)
    truth: dict[int, list[dict[str, Any]]] = {3 * i + 1: [] for i in range(images)}
    ids = sorted(truth)
    results = []
    for number in range(people):
        image_id = int(rng.choice(ids[: images // 2]))
        height = float(np.exp(rng.uniform(np.log(15), np.log(400))))
        keypoints = standing_person(*rng.uniform(100, 500, 2), height)[TO_COCO].astype(float)
        keypoints[:, :2] += rng.normal(size=(17, 2)) * 0.03 * height
        low, high = keypoints[:, :2].min(axis=0), keypoints[:, :2].max(axis=0)
        crowd = int(rng.random() < 0.05)
        labelled = (rng.random(17) < 0.7) & (rng.random() < 0.8) & (not crowd)
        truth[image_id].append(
            {
                "id": number + 1,
                "image_id": image_id,
                "category_id": 1,
                "iscrowd": crowd,
                "num_keypoints": int(labelled.sum()),
                "area": float(0.6 * np.prod(high - low)),
                "bbox": [*low.tolist(), *(high - low).tolist()],
                "keypoints": (keypoints * labelled[:, None]).reshape(-1).tolist(),
            }
        )
        for _ in range(rng.integers(0, 3)):
            results.append(_detect(rng, truth[image_id], keypoints, height, undetected))
    for _ in range(background):
        keypoints = standing_person(*rng.uniform(100, 500, 2), rng.uniform(20, 400))[TO_COCO]
        results.append(result(keypoints, image_id=int(rng.choice(ids)), score=float(rng.random())))
    return truth, results


def _detect(
    rng: np.random.Generator, people: list[dict[str, Any]], keypoints: np.ndarray, height: float, undetected: float
) -> dict[str, Any]:
    seen = keypoints.copy()
    seen[:, :2] += rng.normal(size=(17, 2)) * SIGMAS[:, None] * height * rng.choice([0.3, 1, 2.5])
    if rng.random() < 0.1:
        seen = seen[MIRROR_INDICES]
    missed = rng.random(17) < 0.1
    seen[missed, :2] += rng.normal(size=(missed.sum(), 2)) * height * 0.5
    other = points(people[0])
    swapped = (rng.random(17) < 0.2) & (other[:, 2] > 0)
    seen[swapped, :2] = other[swapped, :2]
    seen[:, 2] = 1
    seen[1:][rng.random(16) < undetected] = 0
    return result(seen, image_id=people[0]["image_id"], score=float(rng.random()))
