"""Our matching gives pycocotools' numbers, to the last bit but one."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from evaluation.scoring.analysis.arrays import SIGMAS, found_of, truths_of
from evaluation.scoring.analysis.diagnosis import diagnose, keypoint_ap
from evaluation.scoring.analysis.matching import RECALLS, THRESHOLDS, curves, match, ranks
from evaluation.scoring.metrics import coco_ap
from tests.support.analysis_cases import person, points, random_set, result

SIZES = {"": (0.0, 1e10), "M": (32.0**2, 96.0**2), "L": (96.0**2, 1e10)}


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("size", SIZES)
def test_ap_and_ar_are_cocos(seed, size):
    truth, results = random_set(seed)
    ids = sorted(truth)
    truths, found = truths_of(truth, ids), found_of(results, ids)
    ours = curves(found.score, match(found, truths, SIGMAS, sizes=SIZES[size]))
    theirs = coco_ap(truth, results)
    assert 0 < theirs["AP" + size] < 1
    assert ours.ap.mean() == pytest.approx(theirs["AP" + size], abs=1e-12)
    assert ours.recall.mean() == pytest.approx(theirs["AR" + size], abs=1e-12)


@pytest.mark.parametrize("equal", [0.3, 1.0])
def test_equal_scores_and_more_than_twenty_people_a_picture_are_handled_as_coco_does(equal):
    truth, results = random_set(11, pictures=4, people=60, strangers=60)
    results = [one | {"score": min(one["score"], 1 - equal)} for one in results]
    assert max(np.bincount([one["image_id"] for one in results])) > 20
    ids = sorted(truth)
    found = found_of(results, ids)
    ours = curves(found.score, match(found, truths_of(truth, ids), SIGMAS))
    theirs = coco_ap(truth, results)
    assert (ours.ap[0], ours.ap[5]) == pytest.approx((theirs["AP50"], theirs["AP75"]), abs=1e-12)


def coco_ap_of_one_keypoint(truth, results, keypoint):
    """COCOeval itself on people of one keypoint."""
    chosen = slice(3 * keypoint, 3 * keypoint + 3)
    annotations = [
        a | {"keypoints": a["keypoints"][chosen], "num_keypoints": int(a["keypoints"][chosen][2] > 0)}
        for people in truth.values()
        for a in people
    ]
    reduced = [r | {"keypoints": r["keypoints"][chosen]} for r in results if any(r["keypoints"][chosen][:2])]
    ground = COCO()
    ground.dataset = {
        "info": {},
        "images": [{"id": i} for i in truth],
        "annotations": annotations,
        "categories": [{"id": 1}],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        ground.createIndex()
        evaluation = COCOeval(ground, ground.loadRes(reduced), "keypoints")
        evaluation.params.kpt_oks_sigmas = SIGMAS[keypoint : keypoint + 1]
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[0]


@pytest.mark.parametrize("keypoint", [0, 3, 10, 16])
def test_ap_of_a_keypoint_is_cocos_on_people_of_that_keypoint(keypoint):
    truth, results = random_set(5)
    ids = sorted(truth)
    ours = keypoint_ap(found_of(results, ids), truths_of(truth, ids), keypoint)
    theirs = coco_ap_of_one_keypoint(truth, results, keypoint)
    assert 0 < theirs < 1
    assert ours == pytest.approx(theirs, abs=1e-12)


def test_a_keypoint_that_is_shifted_or_not_found_costs_its_own_ap_alone():
    one, other = person(100), person(400, image_id=2)
    shifted = points(one)
    shifted[9, :2] += 60
    unfound = points(other)
    unfound[10] = 0
    results = [result(shifted, score=0.5), result(unfound, image_id=2, score=0.4)]
    expected = np.ones(17)
    expected[9] = 0.5 * 51 / 101  # the wrong one first, then half of the people at precision 1/2
    expected[10] = 51 / 101  # half of the people at precision 1
    assert diagnose({1: [one], 2: [other]}, results).keypoint_ap == pytest.approx(expected)


def test_nobody_to_find_and_nobody_found():
    nobody = found_of([], [1])
    somebody = found_of([result(points(person(100)))], [1])
    alone, empty = truths_of({1: [person(100)]}, [1]), truths_of({1: []}, [1])
    assert (curves(nobody.score, match(nobody, alone, SIGMAS)).ap == 0).all()
    assert (curves(somebody.score, match(somebody, empty, SIGMAS)).ap == -1).all()
    assert (curves(nobody.score, match(nobody, empty, SIGMAS)).recall == -1).all()
    exact = curves(somebody.score, match(somebody, alone, SIGMAS))
    assert exact.precision.shape == (len(THRESHOLDS), len(RECALLS))
    assert exact.ap == pytest.approx(1)


def test_ranks_follow_scores_within_a_picture():
    shape = points(person(100))
    scores = [(1, 0.1), (2, 0.5), (1, 0.9), (1, 0.9), (2, 0.7)]
    found = found_of([result(shape, image_id=i, score=score) for i, score in scores], [2, 1, 9])
    assert found.picture.tolist() == [0, 0, 1, 1, 1]
    assert ranks(found).tolist() == [1, 0, 2, 0, 1]
