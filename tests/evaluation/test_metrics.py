from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from evaluation.scoring.metrics import (
    ALL,
    AP_KEYS,
    PROTOCOLS,
    WITH_PEOPLE,
    Protocol,
    coco_ap,
    evaluate_protocols,
    format_table,
)
from pipeline.errors import InputError

Truth = dict[int, list[dict[str, Any]]]


def annotation(x: float, side: float, labelled: int = 17, crowd: int = 0) -> dict[str, Any]:
    """A person in a square box with its left edge at x, keypoints on a diagonal."""
    points = np.zeros((17, 3))
    for i, t in enumerate(np.linspace(0.1, 0.9, labelled)):
        points[i] = (x + side * t, side * t, 2)
    return {
        "id": 5,  # not unique on purpose: pictures of different sets may share ids
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
def truth() -> Truth:
    return {3: [annotation(10, 80), annotation(200, 300)], 0: [annotation(0, 90)], 8: []}


def all_found(truth: Truth) -> list[dict[str, Any]]:
    return [result(i, person, 0.9) for i, people in truth.items() for person in people]


def test_everybody_found_exactly_is_one_everywhere(truth: Truth) -> None:
    ap = coco_ap(truth, all_found(truth))
    assert tuple(ap) == AP_KEYS
    assert ap == pytest.approx(dict.fromkeys(AP_KEYS, 1.0))


@pytest.mark.parametrize("more", [{}, {"bbox": "none"}, {"caption": 3}, {"segmentation": {}}])
def test_other_fields_of_results_count_for_nothing(truth: Truth, more: dict[str, Any]) -> None:
    bare = [{**one, **more} for one in all_found(truth)]
    for one in bare:
        del one["category_id"]
    assert coco_ap(truth, bare) == coco_ap(truth, all_found(truth))


def test_somebody_missed_costs_recall(truth: Truth) -> None:
    ap = coco_ap(truth, all_found(truth)[1:])
    assert ap["AR"] == pytest.approx(2 / 3)
    assert ap["ARM"] == pytest.approx(1 / 2)
    assert ap["ARL"] == 1


def test_shifted_keypoints_lose_strict_thresholds_first(truth: Truth) -> None:
    shifted = [result(i, person, 0.9, shift=6) for i, people in truth.items() for person in people]
    ap = coco_ap(truth, shifted)
    assert 0 < ap["AP"] < 1
    assert ap["AP50"] > ap["AP75"]
    assert ap["APL"] > ap["APM"]


def test_people_seen_where_nobody_is_cost_precision(truth: Truth) -> None:
    ghosts = [*all_found(truth), result(8, annotation(50, 100), 0.99)]
    with_ghost = coco_ap(truth, ghosts)
    assert with_ghost["AP"] < 0.8
    assert with_ghost["AR"] == 1
    assert coco_ap(truth, ghosts, image_ids=[0, 3])["AP"] == pytest.approx(1)


def test_score_orders_results(truth: Truth) -> None:
    ghost = annotation(400, 100)
    sure, unsure = (coco_ap(truth, [*all_found(truth), result(8, ghost, score)])["AP"] for score in (0.99, 0.1))
    assert unsure == pytest.approx(1)
    assert sure < unsure


def test_crowds_and_people_without_keypoints_are_not_asked_for(truth: Truth) -> None:
    found = all_found(truth)
    truth[3] += [annotation(500, 200, crowd=1), annotation(600, 100, labelled=0)]
    assert coco_ap(truth, found)["AP"] == pytest.approx(1)


@pytest.mark.parametrize("sides", [(80.0, 300.0), (80.0,), (300.0,), (10.0,), (50.0,), (140.0,)])
def test_no_results_score_as_results_far_off_do(sides: tuple[float, ...]) -> None:
    truth = {1: [annotation(10, side) for side in sides]}
    nowhere = result(1, annotation(5000, 100), 0.5)
    assert coco_ap(truth, []) == coco_ap(truth, [nowhere])


def test_without_truth_nothing_is_defined() -> None:
    ap = coco_ap({1: [], 2: [annotation(0, 100, crowd=1)]}, [])
    assert ap == dict.fromkeys(AP_KEYS, -1.0)
    assert coco_ap({1: []}, [result(1, annotation(0, 100), 0.5)]) == ap
    assert coco_ap({}, []) == ap


def test_nothing_is_printed_and_nothing_given_is_changed(truth: Truth, capfd: pytest.CaptureFixture[str]) -> None:
    results = all_found(truth)
    before = copy.deepcopy((truth, results))
    coco_ap(truth, results)
    assert (truth, results) == before
    assert capfd.readouterr() == ("", "")


def test_bad_input_is_named(truth: Truth) -> None:
    good = result(3, truth[3][0], 0.5)
    with pytest.raises(InputError, match="result 1: image id 99 is not among the 3"):
        coco_ap(truth, [good, {**good, "image_id": 99}])
    with pytest.raises(InputError, match="result 0: 3 keypoint numbers, expected 51"):
        coco_ap(truth, [{**good, "keypoints": [1, 2, 3]}])
    with pytest.raises(InputError, match=r"result 0: \['score'\] missing"):
        coco_ap(truth, [{key: value for key, value in good.items() if key != "score"}])
    with pytest.raises(InputError, match="image id 4 has no entry"):
        coco_ap(truth, [good], image_ids=[3, 4])
    del truth[3][1]["area"]
    with pytest.raises(InputError, match=r"image 3: an annotation lacks \['area'\]"):
        coco_ap(truth, [good])


def test_by_the_other_protocol_pictures_of_nobody_cost_nothing(truth: Truth) -> None:
    truth[5] = [annotation(500, 200, crowd=1)]
    ghosts = [*all_found(truth), result(8, annotation(50, 100), 0.99)]
    protocols = evaluate_protocols(truth, ghosts)
    assert tuple(protocols) == PROTOCOLS
    everywhere, among_people = protocols[ALL], protocols[WITH_PEOPLE]
    assert (everywhere.images, everywhere.people) == (4, 3)
    assert (among_people.images, among_people.people) == (3, 3)
    assert everywhere.ap == coco_ap(truth, ghosts)
    assert everywhere.ap["AP"] < 0.8
    assert among_people.ap == coco_ap(truth, ghosts, [0, 3, 5])
    assert among_people.ap["AP"] == pytest.approx(1)
    assert list(among_people.to_json()) == [*AP_KEYS, "images", "people"]


def test_table_shows_a_row_a_protocol_under_the_names() -> None:
    ap = {key: i / 10 for i, key in enumerate(AP_KEYS)} | {"APM": -1.0}
    table = format_table({ALL: Protocol(5000, 11004, ap), WITH_PEOPLE: Protocol(2693, 11004, ap)})
    names, first, second = table.splitlines()
    assert names.split() == ["pictures", "people", *AP_KEYS]
    values = ["0.000", "0.100", "0.200", "-", "0.400", "0.500", "0.600", "0.700", "0.800", "0.900"]
    assert first.split()[2:] == ["5,000", "11,004", *values]
    assert second.split()[3:] == ["2,693", "11,004", *values]
    assert first.startswith(f"{ALL}  ")
    assert len(names) == len(first) == len(second)
