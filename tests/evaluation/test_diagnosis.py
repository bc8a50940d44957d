"""Errors whose kind and cost are known beforehand."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest

from evaluation.scoring.analysis.arrays import SIGMAS, found_of, keypoint_similarities, pair_up, truths_of
from evaluation.scoring.analysis.diagnosis import ERRORS, KEYPOINT_ERRORS, best_scores, diagnose, to_json
from evaluation.scoring.analysis.errors import GOOD, KINDS, MIRROR, NEAR, NONE, classify, correct
from evaluation.scoring.metrics import coco_ap
from pipeline.skeleton import COCO_KEYPOINTS
from tests.support.analysis_cases import away, person, points, random_set, result

WRIST, OTHER_WRIST = COCO_KEYPOINTS.index("left_wrist"), COCO_KEYPOINTS.index("right_wrist")
NOSE = COCO_KEYPOINTS.index("nose")


def kinds(truth, results):
    """(M, 17) names."""
    ids = sorted(truth)
    codes = classify(found_of(results, ids), truths_of(truth, ids)).kind
    return np.array([*KINDS, None], dtype=object)[codes]


def costs(truth, results):
    """Mean cost of each error that has one."""
    diagnosis = diagnose(truth, results)
    total = diagnosis.ap + sum(diagnosis.cost.values())
    assert total == pytest.approx(np.ones(len(total)))
    return {name: values.mean() for name, values in diagnosis.cost.items() if abs(values.mean()) > 1e-9}


def test_everything_right_costs_nothing():
    one = person(100, unlabelled=(3, 4))
    assert costs({1: [one]}, [result(points(one))]) == {}
    found = kinds({1: [one]}, [result(points(one))])[0]
    assert found[[3, 4]].tolist() == [None, None]
    assert set(np.delete(found, [3, 4])) == {"good"}


@pytest.mark.parametrize(
    ("similarity", "kind"), [(0.99, "good"), (0.86, "good"), (0.84, "jitter"), (0.51, "jitter"), (0.49, "miss")]
)
@pytest.mark.parametrize("keypoint", [NOSE, WRIST, COCO_KEYPOINTS.index("right_hip")])
def test_a_keypoint_moved_by_so_many_sigma_is_of_the_kind_that_its_similarity_says(similarity, kind, keypoint):
    one = person(100)
    seen = points(one)
    seen[keypoint, 1] -= away(similarity, keypoint)
    if keypoint == NOSE and kind == "miss":
        seen[keypoint, 1] -= 40  # further up is nobody's eye
    found = kinds({1: [one]}, [result(seen)])[0]
    assert found[keypoint] == kind
    assert set(np.delete(found, keypoint)) == {"good"}


def test_a_keypoint_that_was_not_found_is_a_miss_even_next_to_the_corner():
    one = person(100)
    seen = points(one)
    seen[WRIST] = 0
    one["keypoints"][3 * OTHER_WRIST : 3 * OTHER_WRIST + 2] = [0.5, 0.5]
    assert kinds({1: [one]}, [result(seen)])[0][WRIST] == "miss"


def test_arms_and_legs_found_mirrored_are_inverted_and_cost_as_such():
    one = person(100)
    seen = points(one)
    limbs = slice(COCO_KEYPOINTS.index("left_elbow"), None)
    seen[limbs] = seen[MIRROR][limbs]
    seen[:, 0] += 1
    found = kinds({1: [one]}, [result(seen)])[0]
    assert (found[limbs] == "inversion").all()
    assert (found[: limbs.start] == "good").all()
    won = costs({1: [one]}, [result(seen)])
    assert won["inversion"] == pytest.approx(1)


def test_wrists_exchanged_between_two_people_are_swaps_and_cost_as_such():
    one, other = person(100), person(300)
    first, second = points(one), points(other)
    for side in (WRIST, OTHER_WRIST):
        first[side], second[side] = second[side].copy(), first[side].copy()
    second[OTHER_WRIST] = points(one)[WRIST]  # the other side's
    truth, results = {1: [one, other]}, [result(first), result(second)]
    found = kinds(truth, results)
    assert (found[:, [WRIST, OTHER_WRIST]] == "swap").all()
    assert (np.delete(found, [WRIST, OTHER_WRIST], axis=1) == "good").all()
    assert set(costs(truth, results)) == {"swap"}


def test_each_kind_is_put_right_to_its_own_distance():
    one, other = person(100), person(300)
    seen = points(one)
    seen[WRIST, 1] -= away(0.7, WRIST)
    seen[NOSE, 1] -= 500
    seen[OTHER_WRIST] = points(other)[OTHER_WRIST]
    seen[OTHER_WRIST, 0] += away(0.6, OTHER_WRIST)
    seen[5] = points(one)[MIRROR[5]]
    ids = [1]
    truths, found = truths_of({1: [one, other]}, ids), found_of([result(seen)], ids)
    keypoints = classify(found, truths)
    for kind in KEYPOINT_ERRORS:
        found = correct(found, truths, keypoints, kind)
    left = keypoint_similarities(pair_up(found, truths), found, truths, SIGMAS)[0]
    expected = np.ones(17)
    expected[WRIST], expected[NOSE], expected[OTHER_WRIST] = GOOD**0.25, NEAR**0.25, 0.6**0.25
    assert left == pytest.approx(expected, abs=1e-6)


def test_a_second_finding_and_a_stranger_are_false_people_and_an_unfound_person_is_missed():
    one, other = person(100), person(300)
    results = [result(points(one)), result(points(one), score=0.4), result(points(person(900)), score=0.3)]
    diagnosis = diagnose({1: [one, other]}, results)
    assert (diagnosis.right[0], diagnosis.false[0], diagnosis.missed[0]) == (1, 2, 1)
    found = costs({1: [one, other]}, results)
    assert found == {"missed people": pytest.approx(1 - 51 / 101)}


def test_people_in_the_wrong_order_cost_as_scoring():
    one = person(100)
    nowhere = result(points(person(900)), score=0.9)
    found = costs({1: [one], 2: []}, [result(points(one), score=0.1), nowhere | {"image_id": 2}])
    assert found == {"scoring": pytest.approx(0.5)}


def test_the_best_scores_put_the_better_of_two_alike_first():
    one = person(100)
    worse = points(one)
    worse[:, 0] += 4
    ids = [1]
    results = [result(worse, score=0.9), result(points(one), score=0.1), result(points(person(900)), score=0.5)]
    scores = best_scores(found_of(results, ids), truths_of({1: [one]}, ids))
    assert scores[1] == pytest.approx(1)
    assert scores[2] == pytest.approx(0, abs=1e-6)
    assert 0.05 < scores[0] < 0.2


def test_ap_and_costs_add_up_to_one_on_any_results():
    for seed in range(4):
        truth, results = random_set(seed)
        diagnosis = diagnose(truth, results)
        assert diagnosis.ap.mean() == pytest.approx(coco_ap(truth, results)["AP"], abs=1e-12)
        assert diagnosis.ap + sum(diagnosis.cost.values()) == pytest.approx(np.ones(10))
        assert tuple(diagnosis.cost) == ERRORS
        labelled = classify(found_of(results, sorted(truth)), truths_of(truth, sorted(truth))).kind != NONE
        assert diagnosis.keypoints.sum() == labelled.sum()
        assert (diagnosis.keypoints.sum(axis=0) > 0).all()


def test_what_goes_into_json_is_named_and_finite():
    truth, results = random_set(1)
    content = json.loads(json.dumps(to_json(diagnose(truth, results)), allow_nan=False))
    assert tuple(content["keypoints"]) == COCO_KEYPOINTS
    assert set(content["keypoints"]["nose"]) == {"AP", "labelled", *KINDS}
    assert tuple(content["errors"]["cost"]) == ERRORS
    assert set(content["errors"]["cost"]["miss"]) == {"mean", "OKS 0.50", "OKS 0.75"}
    assert set(content["errors"]["people"]["OKS 0.50"]) == {"right", "false", "missed"}


@pytest.mark.parametrize("results", [[], [result(points(person(100)))]])
def test_without_anybody_to_find_nothing_is_defined(results):
    content = to_json(diagnose({1: []}, results))
    assert content["errors"]["cost"]["miss"]["mean"] is None
    assert content["errors"]["people"]["OKS 0.50"] == {"right": 0, "false": len(results), "missed": 0}
    json.dumps(content, allow_nan=False)


def test_nothing_found_is_all_missed():
    assert costs({1: [person(100)]}, []) == {"missed people": pytest.approx(1)}


def test_time_grows_with_the_number_of_people_only():
    """Twice the people take twice as long, far from the minutes that COCOeval's loops would take."""
    truth, results = random_set(0, pictures=500, people=1100, strangers=3000)
    start = time.process_time()
    diagnose(truth, results)
    assert time.process_time() - start < 10
