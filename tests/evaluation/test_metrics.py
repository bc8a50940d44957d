from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from evaluation.scoring.metrics import (
    ALL_PICTURES,
    AP_KEYS,
    PROTOCOLS,
    WITH_PEOPLE,
    ProtocolScores,
    coco_ap,
    evaluate_protocols,
    format_table,
)
from pipeline.errors import InputError

GroundTruth = dict[int, list[dict[str, Any]]]


def annotation(x: float, side: float, labelled: int = 17, crowd: int = 0) -> dict[str, Any]:
    """Return a person in a square box with its left edge at x and keypoints on a diagonal."""
    points = np.zeros((17, 3))
    for i, t in enumerate(np.linspace(0.1, 0.9, labelled)):
        points[i] = (x + side * t, side * t, 2)
    return {
        "id": 5,  # deliberately not unique: datasets with several sources may share ids
        "category_id": 1,
        "keypoints": points.reshape(-1).tolist(),
        "num_keypoints": labelled,
        "area": side * side / 2,
        "bbox": [x, 0, side, side],
        "iscrowd": crowd,
    }


def result(image_id: int, person: dict[str, Any], score: float, shift: float = 0.0) -> dict[str, Any]:
    points = np.array(person["keypoints"]).reshape(17, 3)
    points[:, 0] += shift
    return {"image_id": image_id, "category_id": 1, "keypoints": points.reshape(-1).tolist(), "score": score}


@pytest.fixture
def truth() -> GroundTruth:
    return {3: [annotation(10, 80), annotation(200, 300)], 0: [annotation(0, 90)], 8: []}


def exact_results(truth: GroundTruth) -> list[dict[str, Any]]:
    return [result(i, person, 0.9) for i, people in truth.items() for person in people]


def test_exact_results_score_one(truth: GroundTruth) -> None:
    ap = coco_ap(truth, exact_results(truth))
    assert tuple(ap) == AP_KEYS
    assert ap == pytest.approx(dict.fromkeys(AP_KEYS, 1.0))


@pytest.mark.parametrize("more", [{}, {"bbox": "none"}, {"caption": 3}, {"segmentation": {}}])
def test_other_fields_of_results_are_ignored(truth: GroundTruth, more: dict[str, Any]) -> None:
    bare = [{**one, **more} for one in exact_results(truth)]
    for one in bare:
        del one["category_id"]
    assert coco_ap(truth, bare) == coco_ap(truth, exact_results(truth))


def test_false_negative_lowers_recall(truth: GroundTruth) -> None:
    ap = coco_ap(truth, exact_results(truth)[1:])
    assert ap["AR"] == pytest.approx(2 / 3)
    assert ap["ARM"] == pytest.approx(1 / 2)
    assert ap["ARL"] == 1


def test_shifted_keypoints_lower_strict_thresholds_first(truth: GroundTruth) -> None:
    shifted = [result(i, person, 0.9, shift=6) for i, people in truth.items() for person in people]
    ap = coco_ap(truth, shifted)
    assert 0 < ap["AP"] < 1
    assert ap["AP50"] > ap["AP75"]
    assert ap["APL"] > ap["APM"]


def test_background_false_positive_lowers_precision(truth: GroundTruth) -> None:
    with_false_positive = [*exact_results(truth), result(8, annotation(50, 100), 0.99)]
    scores = coco_ap(truth, with_false_positive)
    assert scores["AP"] < 0.8
    assert scores["AR"] == 1
    assert coco_ap(truth, with_false_positive, image_ids=[0, 3])["AP"] == pytest.approx(1)


def test_score_orders_results(truth: GroundTruth) -> None:
    background = annotation(400, 100)
    high, low = (coco_ap(truth, [*exact_results(truth), result(8, background, score)])["AP"] for score in (0.99, 0.1))
    assert low == pytest.approx(1)
    assert high < low


def test_crowds_and_people_without_keypoints_are_ignored(truth: GroundTruth) -> None:
    results = exact_results(truth)
    truth[3] += [annotation(500, 200, crowd=1), annotation(600, 100, labelled=0)]
    assert coco_ap(truth, results)["AP"] == pytest.approx(1)


@pytest.mark.parametrize("sides", [(80.0, 300.0), (80.0,), (300.0,), (10.0,), (50.0,), (140.0,)])
def test_no_results_score_like_results_far_away(sides: tuple[float, ...]) -> None:
    truth = {1: [annotation(10, side) for side in sides]}
    far_away = result(1, annotation(5000, 100), 0.5)
    assert coco_ap(truth, []) == coco_ap(truth, [far_away])


def test_scores_are_undefined_without_annotations() -> None:
    ap = coco_ap({1: [], 2: [annotation(0, 100, crowd=1)]}, [])
    assert ap == dict.fromkeys(AP_KEYS, -1.0)
    assert coco_ap({1: []}, [result(1, annotation(0, 100), 0.5)]) == ap
    assert coco_ap({}, []) == ap


def test_nothing_is_printed_and_arguments_are_not_changed(
    truth: GroundTruth, capfd: pytest.CaptureFixture[str]
) -> None:
    results = exact_results(truth)
    before = copy.deepcopy((truth, results))
    coco_ap(truth, results)
    assert (truth, results) == before
    assert capfd.readouterr() == ("", "")


def test_invalid_input_is_named(truth: GroundTruth) -> None:
    good = result(3, truth[3][0], 0.5)
    with pytest.raises(InputError, match="result 1: image id 99 is not among the 3 evaluated images"):
        coco_ap(truth, [good, {**good, "image_id": 99}])
    with pytest.raises(InputError, match="result 0: 3 keypoint numbers, expected 51"):
        coco_ap(truth, [{**good, "keypoints": [1, 2, 3]}])
    with pytest.raises(InputError, match=r"result 0: \['score'\] missing"):
        coco_ap(truth, [{key: value for key, value in good.items() if key != "score"}])
    with pytest.raises(InputError, match="ground truth has no entry for image id 4"):
        coco_ap(truth, [good], image_ids=[3, 4])
    del truth[3][1]["area"]
    with pytest.raises(InputError, match=r"image 3: an annotation lacks \['area'\]"):
        coco_ap(truth, [good])


def test_second_protocol_leaves_out_images_without_people(truth: GroundTruth) -> None:
    truth[5] = [annotation(500, 200, crowd=1)]
    with_false_positive = [*exact_results(truth), result(8, annotation(50, 100), 0.99)]
    protocols = evaluate_protocols(truth, with_false_positive)
    assert tuple(protocols) == PROTOCOLS
    everywhere, among_people = protocols[ALL_PICTURES], protocols[WITH_PEOPLE]
    assert (everywhere.images, everywhere.people) == (4, 3)
    assert (among_people.images, among_people.people) == (3, 3)
    assert everywhere.ap == coco_ap(truth, with_false_positive)
    assert everywhere.ap["AP"] < 0.8
    assert among_people.ap == coco_ap(truth, with_false_positive, [0, 3, 5])
    assert among_people.ap["AP"] == pytest.approx(1)
    assert list(among_people.to_json()) == [*AP_KEYS, "images", "people"]


def test_table_has_a_row_for_each_protocol() -> None:
    ap = {key: i / 10 for i, key in enumerate(AP_KEYS)} | {"APM": -1.0}
    table = format_table({ALL_PICTURES: ProtocolScores(5000, 11004, ap), WITH_PEOPLE: ProtocolScores(2693, 11004, ap)})
    names, first, second = table.splitlines()
    assert names.split() == ["pictures", "people", *AP_KEYS]
    values = ["0.000", "0.100", "0.200", "-", "0.400", "0.500", "0.600", "0.700", "0.800", "0.900"]
    assert first.split()[2:] == ["5,000", "11,004", *values]
    assert second.split()[3:] == ["2,693", "11,004", *values]
    assert first.startswith(f"{ALL_PICTURES}  ")
    assert len(names) == len(first) == len(second)


def test_the_id_of_the_person_category_does_not_matter():
    """Evaluation during training and of shards alike: sets of other tools have other ids."""
    from tests.support.coco_folder import person

    annotation = {**person(1, 5), "category_id": 7}
    detection = {"image_id": 5, "category_id": 1, "keypoints": annotation["keypoints"], "score": 1.0}
    assert coco_ap({5: (annotation,)}, [detection])["AP"] == pytest.approx(1)
