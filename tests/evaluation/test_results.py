from __future__ import annotations

import json

import numpy as np
import pytest

from evaluation.decoder.person import Person
from evaluation.scoring.results import read_results, to_coco_results, to_people
from pipeline.errors import InputError
from pipeline.skeleton import COCO_KEYPOINTS, KEYPOINT_INDEX, NUM_KEYPOINTS


def person_with(**points: tuple[float, float, float]) -> Person:
    keypoints = np.zeros((NUM_KEYPOINTS, 3), dtype=np.float32)
    for name, point in points.items():
        keypoints[KEYPOINT_INDEX[name]] = point
    return Person(keypoints, 0.7)


def test_keypoints_are_in_coco_order_and_undetected_ones_are_zero() -> None:
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


def test_no_people_and_a_neck_alone_give_no_results() -> None:
    assert to_coco_results(1, []) == []
    assert to_coco_results(1, [person_with(neck=(5, 5, 1))]) == []


def test_keypoint_at_the_origin_stays_detected() -> None:
    (result,) = to_coco_results(1, [person_with(nose=(0, 0, 0.5))])
    assert result["keypoints"][:3] == [0, 0, 1]


def test_order_and_number_of_people_are_kept() -> None:
    people = [person_with(nose=(x, 1, 1)) for x in (30, 10, 20)]
    assert [result["keypoints"][0] for result in to_coco_results(1, people)] == [30, 10, 20]


def good():
    keypoints = [float(number) for number in range(1, 52)]
    return {"image_id": 7, "category_id": 1, "keypoints": keypoints, "score": 0.5}


def written(tmp_path, content):
    path = tmp_path / "results.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_results_are_read_as_written(tmp_path):
    results = [good(), {name: value for name, value in good().items() if name != "category_id"}]
    assert read_results(written(tmp_path, results), {7, 8}) == results
    assert read_results(written(tmp_path, []), {7}) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ({"annotations": []}, "expected a list of results"),
        ([3], "result 0: 3 is not an object"),
        ([good(), {"image_id": 7, "score": 1}], "result 1: keypoints is missing"),
        ([good() | {"image_id": 9}], "result 0: image_id is 9, expected one of the 2 evaluated images"),
        ([good() | {"image_id": "7"}], "image_id is '7', expected"),
        ([good() | {"image_id": [7]}], r"image_id is \[7\], expected"),
        ([good() | {"category_id": 3}], "category_id is 3, expected 1"),
        ([good() | {"score": None}], "score is None, expected a number"),
        ([good() | {"score": 10**400}], r"score is 1000.*000, expected a number"),
        ([good() | {"score": True}], "score is True, expected a number"),
        ([good() | {"keypoints": [1, 2]}], "keypoints has 2 numbers, expected 51 numbers"),
        ([good() | {"keypoints": "no"}], "keypoints has 'no', expected 51 numbers"),
        ([good() | {"keypoints": [*range(50), "x"]}], "keypoints has 'x', expected numbers"),
        ([good() | {"keypoints": [*range(50), float("nan")]}], "keypoints has nan, expected numbers"),
        ([good() | {"keypoints": [*range(50), -1e300]}], "keypoints has -1e.300, expected numbers of at most 100000"),
    ],
)
def test_invalid_results_are_a_one_line_error(tmp_path, content, message):
    with pytest.raises(InputError, match=message) as error:
        read_results(written(tmp_path, content), {7, 8})
    assert "\n" not in str(error.value)
    assert str(tmp_path) in str(error.value)


def test_missing_file_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_results(tmp_path / "none.json", {7})
    with pytest.raises(InputError, match="directory"):
        read_results(tmp_path, {7})


def test_people_survive_conversion_to_results_and_back():
    keypoints = np.arange(1, 55, dtype=np.float32).reshape(18, 3)
    keypoints[KEYPOINT_INDEX["left_wrist"]] = 0
    keypoints[KEYPOINT_INDEX["neck"], :2] = (
        keypoints[KEYPOINT_INDEX["left_shoulder"]] + keypoints[KEYPOINT_INDEX["right_shoulder"]]
    )[:2] / 2
    people = [Person(keypoints, 0.2), Person(keypoints + 100, 0.7)]
    again = to_people(to_coco_results(7, people))
    assert [person.score for person in again] == [0.7, 0.2]
    assert np.allclose(again[1].keypoints[:, :2], keypoints[:, :2])
    assert again[1].found.tolist() == (keypoints[:, 2] > 0).tolist()
    assert to_people([]) == []
