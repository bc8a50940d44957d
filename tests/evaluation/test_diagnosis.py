"""Classes and costs of errors that are constructed."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest

from evaluation.scoring.analysis.arrays import (
    SIGMAS,
    annotation_arrays,
    detection_arrays,
    keypoint_similarities,
    pair_within_images,
)
from evaluation.scoring.analysis.diagnosis import ERRORS, KEYPOINT_ERRORS, diagnose, diagnosis_to_json, optimal_scores
from evaluation.scoring.analysis.errors import (
    KEYPOINT_CLASSES,
    MIN_GOOD,
    MIN_NEAR,
    MIRROR_INDICES,
    UNCLASSIFIED,
    classify,
    correct,
)
from evaluation.scoring.metrics import coco_ap
from pipeline.skeleton import COCO_KEYPOINTS
from tests.support.analysis_cases import distance_px, person, points, random_set, result

WRIST, OTHER_WRIST = COCO_KEYPOINTS.index("left_wrist"), COCO_KEYPOINTS.index("right_wrist")
NOSE = COCO_KEYPOINTS.index("nose")


def classes(truth, results):
    """Return (M, 17) class names."""
    ids = sorted(truth)
    codes = classify(detection_arrays(results, ids), annotation_arrays(truth, ids)).code
    return np.array([*KEYPOINT_CLASSES, None], dtype=object)[codes]


def costs(truth, results):
    """Return the mean cost of each error with a cost."""
    diagnosis = diagnose(truth, results)
    total = diagnosis.ap + sum(diagnosis.cost.values())
    assert total == pytest.approx(np.ones(len(total)))
    return {name: values.mean() for name, values in diagnosis.cost.items() if abs(values.mean()) > 1e-9}


def test_exact_detections_have_no_costs():
    one = person(100, unlabelled=(3, 4))
    assert costs({1: [one]}, [result(points(one))]) == {}
    found = classes({1: [one]}, [result(points(one))])[0]
    assert found[[3, 4]].tolist() == [None, None]
    assert set(np.delete(found, [3, 4])) == {"good"}


@pytest.mark.parametrize(
    ("similarity", "kind"), [(0.99, "good"), (0.86, "good"), (0.84, "jitter"), (0.51, "jitter"), (0.49, "miss")]
)
@pytest.mark.parametrize("keypoint", [NOSE, WRIST, COCO_KEYPOINTS.index("right_hip")])
def test_class_of_a_moved_keypoint_follows_its_similarity(similarity, kind, keypoint):
    one = person(100)
    seen = points(one)
    seen[keypoint, 1] -= distance_px(similarity, keypoint)
    if keypoint == NOSE and kind == "miss":
        seen[keypoint, 1] -= 40  # far enough from the eyes
    found = classes({1: [one]}, [result(seen)])[0]
    assert found[keypoint] == kind
    assert set(np.delete(found, keypoint)) == {"good"}


def test_undetected_keypoint_is_a_miss_even_near_the_origin():
    one = person(100)
    seen = points(one)
    seen[WRIST] = 0
    one["keypoints"][3 * OTHER_WRIST : 3 * OTHER_WRIST + 2] = [0.5, 0.5]
    assert classes({1: [one]}, [result(seen)])[0][WRIST] == "miss"


def test_mirrored_arms_and_legs_are_inversions():
    one = person(100)
    seen = points(one)
    limbs = slice(COCO_KEYPOINTS.index("left_elbow"), None)
    seen[limbs] = seen[MIRROR_INDICES][limbs]
    seen[:, 0] += 1
    found = classes({1: [one]}, [result(seen)])[0]
    assert (found[limbs] == "inversion").all()
    assert (found[: limbs.start] == "good").all()
    won = costs({1: [one]}, [result(seen)])
    assert won["inversion"] == pytest.approx(1)


def test_exchanged_wrists_of_two_people_are_swaps():
    one, other = person(100), person(300)
    first, second = points(one), points(other)
    for side in (WRIST, OTHER_WRIST):
        first[side], second[side] = second[side].copy(), first[side].copy()
    second[OTHER_WRIST] = points(one)[WRIST]  # mirrored keypoint of the other person
    truth, results = {1: [one, other]}, [result(first), result(second)]
    found = classes(truth, results)
    assert (found[:, [WRIST, OTHER_WRIST]] == "swap").all()
    assert (np.delete(found, [WRIST, OTHER_WRIST], axis=1) == "good").all()
    assert set(costs(truth, results)) == {"swap"}


def test_corrected_similarity_depends_on_the_error():
    one, other = person(100), person(300)
    seen = points(one)
    seen[WRIST, 1] -= distance_px(0.7, WRIST)
    seen[NOSE, 1] -= 500
    seen[OTHER_WRIST] = points(other)[OTHER_WRIST]
    seen[OTHER_WRIST, 0] += distance_px(0.6, OTHER_WRIST)
    seen[5] = points(one)[MIRROR_INDICES[5]]
    ids = [1]
    annotations, detections = annotation_arrays({1: [one, other]}, ids), detection_arrays([result(seen)], ids)
    errors = classify(detections, annotations)
    for kind in KEYPOINT_ERRORS:
        detections = correct(detections, annotations, errors, kind)
    pairs = pair_within_images(detections, annotations)
    remaining = keypoint_similarities(pairs, detections, annotations, SIGMAS)[0]
    expected = np.ones(17)
    expected[WRIST], expected[NOSE], expected[OTHER_WRIST] = MIN_GOOD**0.25, MIN_NEAR**0.25, 0.6**0.25
    assert remaining == pytest.approx(expected, abs=1e-6)


def test_duplicates_and_background_detections_are_false_positives():
    one, other = person(100), person(300)
    results = [result(points(one)), result(points(one), score=0.4), result(points(person(900)), score=0.3)]
    diagnosis = diagnose({1: [one, other]}, results)
    assert (diagnosis.true_positives[0], diagnosis.false_positives[0], diagnosis.false_negatives[0]) == (1, 2, 1)
    found = costs({1: [one, other]}, results)
    assert found == {"missed people": pytest.approx(1 - 51 / 101)}


def test_wrong_order_of_scores_is_a_scoring_error():
    one = person(100)
    background = result(points(person(900)), score=0.9)
    found = costs({1: [one], 2: []}, [result(points(one), score=0.1), background | {"image_id": 2}])
    assert found == {"scoring": pytest.approx(0.5)}


def test_optimal_scores_rank_the_better_of_two_similar_detections_first():
    one = person(100)
    worse = points(one)
    worse[:, 0] += 4
    ids = [1]
    results = [result(worse, score=0.9), result(points(one), score=0.1), result(points(person(900)), score=0.5)]
    scores = optimal_scores(detection_arrays(results, ids), annotation_arrays({1: [one]}, ids))
    assert scores[1] == pytest.approx(1)
    assert scores[2] == pytest.approx(0, abs=1e-6)
    assert 0.05 < scores[0] < 0.2


def test_ap_and_costs_add_up_to_one():
    for seed in range(4):
        truth, results = random_set(seed)
        diagnosis = diagnose(truth, results)
        assert diagnosis.ap.mean() == pytest.approx(coco_ap(truth, results)["AP"], abs=1e-12)
        assert diagnosis.ap + sum(diagnosis.cost.values()) == pytest.approx(np.ones(10))
        assert tuple(diagnosis.cost) == ERRORS
        labelled = (
            classify(detection_arrays(results, sorted(truth)), annotation_arrays(truth, sorted(truth))).code
            != UNCLASSIFIED
        )
        assert diagnosis.keypoints.sum() == labelled.sum()
        assert (diagnosis.keypoints.sum(axis=0) > 0).all()


def test_json_has_all_names_and_finite_values():
    truth, results = random_set(1)
    content = json.loads(json.dumps(diagnosis_to_json(diagnose(truth, results)), allow_nan=False))
    assert tuple(content["keypoints"]) == COCO_KEYPOINTS
    assert set(content["keypoints"]["nose"]) == {"AP", "labelled", *KEYPOINT_CLASSES}
    assert tuple(content["errors"]["cost"]) == ERRORS
    assert set(content["errors"]["cost"]["miss"]) == {"mean", "OKS 0.50", "OKS 0.75"}
    assert set(content["errors"]["people"]["OKS 0.50"]) == {"right", "false", "missed"}


@pytest.mark.parametrize("results", [[], [result(points(person(100)))]])
def test_scores_are_undefined_without_annotations(results):
    content = diagnosis_to_json(diagnose({1: []}, results))
    assert content["errors"]["cost"]["miss"]["mean"] is None
    assert content["errors"]["people"]["OKS 0.50"] == {"right": 0, "false": len(results), "missed": 0}
    json.dumps(content, allow_nan=False)


def test_no_detections_are_all_false_negatives():
    assert costs({1: [person(100)]}, []) == {"missed people": pytest.approx(1)}


def test_diagnosis_of_a_large_dataset_is_fast():
    """The time is linear in the number of people; the loops of COCOeval would take minutes."""
    truth, results = random_set(0, images=500, people=1100, background=3000)
    start = time.process_time()
    diagnose(truth, results)
    assert time.process_time() - start < 10
