"""Cost of each kind of error in AP, after Ronchi and Perona (ICCV 2017).

The errors are corrected one kind after the other. The cost of a kind is the rise of AP that its correction brings.

The order is that of the paper: keypoint errors (miss, swap, inversion, jitter), scoring errors, background false
positives, false negatives. After the last correction AP is 1, so the original AP and all costs add up to 1. The costs
depend on this order: AP that one correction has gained is not gained again by a later one.

This module needs NumPy only.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation.scoring.analysis.arrays import (
    SIGMAS,
    AnnotationArrays,
    DetectionArrays,
    Flags,
    Floats,
    annotation_arrays,
    detection_arrays,
    object_similarities,
    pair_within_images,
    similarity,
)
from evaluation.scoring.analysis.errors import KEYPOINT_CLASSES, KeypointErrors, classify, correct
from evaluation.scoring.analysis.matching import OKS_THRESHOLDS, PrecisionRecall, match, precision_recall
from pipeline.skeleton import COCO_KEYPOINTS

KEYPOINT_ERRORS: tuple[str, ...] = ("miss", "swap", "inversion", "jitter")
FALSE_POSITIVES, FALSE_NEGATIVES = "false people", "missed people"
"""Names of background false positives and false negatives in eval.json."""
PERSON_ERRORS: tuple[str, ...] = ("scoring", FALSE_POSITIVES, FALSE_NEGATIVES)
ERRORS: tuple[str, ...] = (*KEYPOINT_ERRORS, *PERSON_ERRORS)
"""All kinds of errors, in the order of correction."""

SOFT_NMS_DENOMINATOR = 0.5
"""Denominator in the exp(-oks^2 / SOFT_NMS_DENOMINATOR) of soft non-maximum suppression."""


@dataclass(frozen=True)
class Diagnosis:
    """Precision-recall curves, errors and the cost of the errors.

    Attributes:
        thresholds: (T,) OKS thresholds.
        precision_recall: curves of the detections without any correction.
        cost: (T,) rise of AP by the correction of each of ERRORS, in their order; NaN if no annotation is evaluated.
        keypoints: (17, 5) number of keypoints of each of errors.KEYPOINT_CLASSES, in COCO-17 order.
        keypoint_ap: (17,) AP of each keypoint alone; see `keypoint_ap`.
        keypoint_labels: (17,) number of people, without crowds, who have the keypoint labelled.
        true_positives: (T,) number of detections that match an annotation.
        false_positives: (T,) number of detections that match no annotation, or one that is matched already.
        false_negatives: (T,) number of annotations without a detection.
    """

    thresholds: Floats
    precision_recall: PrecisionRecall
    cost: dict[str, Floats]
    keypoints: NDArray[np.int64]
    keypoint_ap: Floats
    keypoint_labels: NDArray[np.int64]
    true_positives: NDArray[np.int64]
    false_positives: NDArray[np.int64]
    false_negatives: NDArray[np.int64]

    @property
    def ap(self) -> Floats:
        """(T,) average precision of the detections without any correction."""
        return self.precision_recall.ap


def diagnose(
    ground_truth: Mapping[int, Sequence[Mapping[str, Any]]],
    results: Sequence[Mapping[str, Any]],
    thresholds: Floats = OKS_THRESHOLDS,
) -> Diagnosis:
    """Analyse detections, for people of all areas together.

    Args:
        ground_truth: COCO person annotations by image id, already validated as by `metrics.coco_ap`.
        results: COCO keypoint results of these images.
        thresholds: (T,) OKS thresholds.
    """
    image_ids = sorted(ground_truth)
    annotations, detections = annotation_arrays(ground_truth, image_ids), detection_arrays(results, image_ids)
    matches = match(detections, annotations, SIGMAS, thresholds)
    num_matched = (matches.matched_annotations() & matches.required).sum(axis=1)
    errors = classify(detections, annotations)
    return Diagnosis(
        thresholds=thresholds,
        precision_recall=precision_recall(detections.score, matches),
        cost=error_costs(detections, annotations, errors, thresholds),
        keypoints=errors.count(),
        keypoint_ap=np.array([keypoint_ap(detections, annotations, k, thresholds) for k in range(len(COCO_KEYPOINTS))]),
        keypoint_labels=(annotations.labelled & ~annotations.crowd[:, None]).sum(axis=0),
        true_positives=matches.true_positives().sum(axis=1),
        false_positives=matches.false_positives().sum(axis=1),
        false_negatives=matches.required.sum() - num_matched,
    )


def error_costs(
    detections: DetectionArrays, annotations: AnnotationArrays, errors: KeypointErrors, thresholds: Floats
) -> dict[str, Floats]:
    """Return the rise of AP (T,) by the correction of each of ERRORS, in their order."""
    levels = [_evaluate(detections, annotations, thresholds).ap]
    for error in KEYPOINT_ERRORS:
        detections = correct(detections, annotations, errors, error)
        levels.append(_evaluate(detections, annotations, thresholds).ap)
    detections = replace(detections, score=optimal_scores(detections, annotations))
    matches = match(detections, annotations, SIGMAS, thresholds)
    levels.append(precision_recall(detections.score, matches).ap)
    levels.append(precision_recall(detections.score, matches, also_ignored=matches.annotation < 0).ap)
    levels.append(np.ones(len(thresholds)))  # no false positive remains, so only false negatives keep AP below 1
    gains = [np.where(before < 0, np.nan, after - before) for before, after in itertools.pairwise(levels)]
    return dict(zip(ERRORS, gains, strict=True))


def _evaluate(detections: DetectionArrays, annotations: AnnotationArrays, thresholds: Floats) -> PrecisionRecall:
    return precision_recall(detections.score, match(detections, annotations, SIGMAS, thresholds))


def optimal_scores(detections: DetectionArrays, annotations: AnnotationArrays) -> Floats:
    """Return the scores (M,) that order the detections best.

    The optimal score of a detection is its highest OKS with any annotation. It is lowered if the detection resembles a
    better one of the same image (soft non-maximum suppression).
    """
    pairs = pair_within_images(detections, annotations)
    oks = object_similarities(pairs, detections, annotations, SIGMAS)
    oks = np.where(annotations.ignored[pairs.annotation], 0, oks)
    best = np.zeros(len(detections.score))
    np.maximum.at(best, pairs.detection, oks)
    image_starts = np.flatnonzero(np.diff(detections.image, prepend=-1, append=-1))
    for start, stop in itertools.pairwise(image_starts):
        if stop - start > 1:
            oks_between = _detection_similarities(detections.keypoints[start:stop], detections.present[start:stop])
            best[start:stop] = _soft_nms(best[start:stop], oks_between)
    return best


def _detection_similarities(points: Floats, present: Flags) -> Floats:
    """Return the similarity (m, m) of detections to each other, over the keypoints that both have."""
    low = np.where(present[..., None], points, np.inf).min(axis=1)
    high = np.where(present[..., None], points, -np.inf).max(axis=1)
    area = np.where(present.any(axis=1), np.prod(np.nan_to_num(high - low, neginf=0), axis=1), 0)
    squared = ((points[:, None] - points[None]) ** 2).sum(axis=3)  # (m, m, 17)
    mean_area = (area[:, None] + area[None]) / 2
    both = present[:, None] & present[None]
    flat = similarity(squared.reshape(-1, squared.shape[2]), mean_area.reshape(-1), SIGMAS)
    per_keypoint = flat.reshape(squared.shape)
    return np.asarray((per_keypoint * both).sum(axis=2) / np.maximum(both.sum(axis=2), 1))


def _soft_nms(scores: Floats, similarities: Floats) -> Floats:
    """Apply soft non-maximum suppression: in descending order, each score lowers the later scores of similar ones."""
    scores, decay = scores.copy(), np.exp(-(similarities**2) / SOFT_NMS_DENOMINATOR)
    remaining = np.ones(len(scores), dtype=bool)
    for _ in range(len(scores)):
        top = int(np.where(remaining, scores, -1).argmax())
        remaining[top] = False
        scores[remaining] *= decay[top, remaining]
    return scores


def keypoint_ap(
    detections: DetectionArrays, annotations: AnnotationArrays, keypoint: int, thresholds: Floats = OKS_THRESHOLDS
) -> float:
    """Return the AP of one keypoint: COCO's evaluation with this keypoint only.

    OKS is then the similarity of that keypoint. People without a label for the keypoint are ignored, as are detections
    within their enlarged box. Detections without the keypoint are left out; the others keep the score of the person.
    The result is -1 if no annotation has a label for the keypoint.
    """
    annotations, detections = annotations.select_keypoint(keypoint), detections.select_keypoint(keypoint)
    matches = match(detections, annotations, SIGMAS[keypoint : keypoint + 1], thresholds)
    return float(precision_recall(detections.score, matches).ap.mean())


def diagnosis_to_json(diagnosis: Diagnosis, at: Sequence[float] = (0.5, 0.75)) -> dict[str, Any]:
    """Return the diagnosis as written to eval.json.

    `keypoints` has an entry for each keypoint; `errors` has each cost as the mean over OKS and at the OKS in `at`.
    """
    columns = {f"OKS {value:.2f}": int(np.abs(diagnosis.thresholds - value).argmin()) for value in at}

    def row(values: Floats) -> dict[str, float | None]:
        selected = {"mean": float(values.mean()), **{name: float(values[i]) for name, i in columns.items()}}
        return {name: None if np.isnan(value) else round(value, 6) for name, value in selected.items()}

    people = {
        name: {
            "right": int(diagnosis.true_positives[i]),
            "false": int(diagnosis.false_positives[i]),
            "missed": int(diagnosis.false_negatives[i]),
        }
        for name, i in columns.items()
    }
    keypoints = {
        name: {
            "AP": round(float(diagnosis.keypoint_ap[k]), 6),
            "labelled": int(diagnosis.keypoint_labels[k]),
            **{kind: int(diagnosis.keypoints[k, code]) for code, kind in enumerate(KEYPOINT_CLASSES)},
        }
        for k, name in enumerate(COCO_KEYPOINTS)
    }
    cost = {name: row(values) for name, values in diagnosis.cost.items()}
    return {"keypoints": keypoints, "errors": {"AP": row(diagnosis.ap), "cost": cost, "people": people}}
