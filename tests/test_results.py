from __future__ import annotations

import json

import numpy as np
import pytest

from evaluation.person import Person
from evaluation.results import to_coco_results
from pipeline.skeleton import COCO_KEYPOINTS, INDEX, NUM_KEYPOINTS


def person_with(**points: tuple[float, float, float]) -> Person:
    keypoints = np.zeros((NUM_KEYPOINTS, 3), dtype=np.float32)
    for name, point in points.items():
        keypoints[INDEX[name]] = point
    return Person(keypoints, 0.7)


def test_keypoints_are_in_cocos_order_and_missing_ones_are_three_zeros() -> None:
    (result,) = to_coco_results(7, [person_with(neck=(1, 2, 0.9), left_ankle=(10.25, 20.5, 0.4), nose=(3, 4, 0.8))])
    assert result["image_id"] == 7
    assert result["category_id"] == 1
    assert result["score"] == pytest.approx(0.7)
    triples = {name: result["keypoints"][3 * i : 3 * i + 3] for i, name in enumerate(COCO_KEYPOINTS)}
    assert triples.pop("left_ankle") == [10.25, 20.5, 1]
    assert triples.pop("nose") == [3, 4, 1]
    assert all(triple == [0, 0, 0] for triple in triples.values())
    assert len(result["keypoints"]) == 51


def test_results_are_plain_json() -> None:
    results = to_coco_results(np.int64(3), [person_with(nose=(3.141592, 4, 0.8))])  # type: ignore[arg-type]
    assert json.loads(json.dumps(results)) == results
    assert results[0]["keypoints"][0] == 3.14


def test_nobody_gives_no_results_and_a_neck_alone_is_nobody_to_coco() -> None:
    assert to_coco_results(1, []) == []
    assert to_coco_results(1, [person_with(neck=(5, 5, 1))]) == []


def test_a_keypoint_at_the_origin_stays_found() -> None:
    (result,) = to_coco_results(1, [person_with(nose=(0, 0, 0.5))])
    assert result["keypoints"][:3] == [0, 0, 1]


def test_order_and_number_of_people_are_kept() -> None:
    people = [person_with(nose=(x, 1, 1)) for x in (30, 10, 20)]
    assert [result["keypoints"][0] for result in to_coco_results(1, people)] == [30, 10, 20]
