"""The vectorised matching agrees with pycocotools."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from evaluation.scoring.analysis.arrays import SIGMAS, annotation_arrays, detection_arrays
from evaluation.scoring.analysis.diagnosis import diagnose, keypoint_ap
from evaluation.scoring.analysis.matching import (
    OKS_THRESHOLDS,
    RECALL_LEVELS,
    match,
    precision_recall,
    rank_within_images,
)
from evaluation.scoring.metrics import coco_ap
from tests.support.analysis_cases import person, points, random_set, result

AREA_RANGES = {"": (0.0, 1e10), "M": (32.0**2, 96.0**2), "L": (96.0**2, 1e10)}


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("size", AREA_RANGES)
def test_ap_and_ar_agree_with_pycocotools(seed, size):
    truth, results = random_set(seed)
    ids = sorted(truth)
    annotations, detections = annotation_arrays(truth, ids), detection_arrays(results, ids)
    ours = precision_recall(detections.score, match(detections, annotations, SIGMAS, area_range=AREA_RANGES[size]))
    theirs = coco_ap(truth, results)
    assert 0 < theirs["AP" + size] < 1
    assert ours.ap.mean() == pytest.approx(theirs["AP" + size], abs=1e-12)
    assert ours.recall.mean() == pytest.approx(theirs["AR" + size], abs=1e-12)


@pytest.mark.parametrize("equal", [0.3, 1.0])
def test_equal_scores_and_more_than_twenty_detections_agree_with_pycocotools(equal):
    truth, results = random_set(11, images=4, people=60, background=60)
    results = [one | {"score": min(one["score"], 1 - equal)} for one in results]
    assert max(np.bincount([one["image_id"] for one in results])) > 20
    ids = sorted(truth)
    detections = detection_arrays(results, ids)
    ours = precision_recall(detections.score, match(detections, annotation_arrays(truth, ids), SIGMAS))
    theirs = coco_ap(truth, results)
    assert (ours.ap[0], ours.ap[5]) == pytest.approx((theirs["AP50"], theirs["AP75"]), abs=1e-12)


def coco_ap_of_one_keypoint(truth, results, keypoint):
    """Return the AP of COCOeval for people reduced to one keypoint."""
    chosen = slice(3 * keypoint, 3 * keypoint + 3)
    annotations = [
        a | {"keypoints": a["keypoints"][chosen], "num_keypoints": int(a["keypoints"][chosen][2] > 0)}
        for people in truth.values()
        for a in people
    ]
    reduced = [r | {"keypoints": r["keypoints"][chosen]} for r in results if any(r["keypoints"][chosen][:2])]
    coco = COCO()
    coco.dataset = {
        "info": {},
        "images": [{"id": i} for i in truth],
        "annotations": annotations,
        "categories": [{"id": 1}],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(reduced), "keypoints")
        evaluation.params.kpt_oks_sigmas = SIGMAS[keypoint : keypoint + 1]
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[0]


@pytest.mark.parametrize("keypoint", [0, 3, 10, 16])
def test_keypoint_ap_agrees_with_pycocotools(keypoint):
    truth, results = random_set(5)
    ids = sorted(truth)
    ours = keypoint_ap(detection_arrays(results, ids), annotation_arrays(truth, ids), keypoint)
    theirs = coco_ap_of_one_keypoint(truth, results, keypoint)
    assert 0 < theirs < 1
    assert ours == pytest.approx(theirs, abs=1e-12)


def test_error_of_a_keypoint_lowers_only_its_own_ap():
    one, other = person(100), person(400, image_id=2)
    shifted = points(one)
    shifted[9, :2] += 60
    unfound = points(other)
    unfound[10] = 0
    results = [result(shifted, score=0.5), result(unfound, image_id=2, score=0.4)]
    expected = np.ones(17)
    expected[9] = 0.5 * 51 / 101  # the shifted keypoint has the higher score: recall 1/2 at precision 1/2
    expected[10] = 51 / 101  # recall 1/2 at precision 1
    assert diagnose({1: [one], 2: [other]}, results).keypoint_ap == pytest.approx(expected)


def test_no_annotations_and_no_detections():
    no_detections = detection_arrays([], [1])
    one_detection = detection_arrays([result(points(person(100)))], [1])
    one_person, empty = annotation_arrays({1: [person(100)]}, [1]), annotation_arrays({1: []}, [1])
    assert (precision_recall(no_detections.score, match(no_detections, one_person, SIGMAS)).ap == 0).all()
    assert (precision_recall(one_detection.score, match(one_detection, empty, SIGMAS)).ap == -1).all()
    assert (precision_recall(no_detections.score, match(no_detections, empty, SIGMAS)).recall == -1).all()
    exact = precision_recall(one_detection.score, match(one_detection, one_person, SIGMAS))
    assert exact.precision.shape == (len(OKS_THRESHOLDS), len(RECALL_LEVELS))
    assert exact.ap == pytest.approx(1)


def test_ranks_follow_scores_within_an_image():
    shape = points(person(100))
    scores = [(1, 0.1), (2, 0.5), (1, 0.9), (1, 0.9), (2, 0.7)]
    detections = detection_arrays([result(shape, image_id=i, score=score) for i, score in scores], [2, 1, 9])
    assert detections.image.tolist() == [0, 0, 1, 1, 1]
    assert rank_within_images(detections).tolist() == [1, 0, 2, 0, 1]
