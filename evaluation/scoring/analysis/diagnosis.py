"""What each kind of error costs, after Ronchi and Perona (ICCV 2017).

Errors are put right one kind after the other, and what AP rises by is that kind's cost.

The order is the paper's: keypoint errors (miss, swap, inversion, jitter), then the order of the people found (scoring),
then people found where nobody is, then people not found. After the last there is nothing left to lose, so AP and all
costs add up to 1. A cost depends on this order: what an earlier correction has won is not won again.

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
    Flags,
    Floats,
    Found,
    Truths,
    found_of,
    object_similarities,
    pair_up,
    similarity,
    truths_of,
)
from evaluation.scoring.analysis.errors import KINDS, Keypoints, classify, correct
from evaluation.scoring.analysis.matching import THRESHOLDS, Curves, curves, match
from pipeline.skeleton import COCO_KEYPOINTS

KEYPOINT_ERRORS: tuple[str, ...] = ("miss", "swap", "inversion", "jitter")
PERSON_ERRORS: tuple[str, ...] = ("scoring", "false people", "missed people")
ERRORS: tuple[str, ...] = (*KEYPOINT_ERRORS, *PERSON_ERRORS)
"""In the order of correction."""

OVERLAP = 0.5
"""The denominator in soft non-maximum suppression, exp(-oks^2 / OVERLAP)."""


@dataclass(frozen=True)
class Diagnosis:
    """What was found, what went wrong and what it cost.

    Attributes:
        thresholds: (T,) OKS.
        curves: precision by recall, of what was found as it was found.
        cost: (T,) AP won by putting right each of ERRORS, in their order; NaN where there is nobody to find.
        keypoints: (17, 5) keypoints of each of errors.KINDS, COCO-17 order.
        keypoint_ap: (17,) AP of each keypoint alone; see `keypoint_ap`.
        keypoint_labels: (17,) people who have it labelled and are no crowd.
        right, false, missed: (T,) people found, people found where nobody is or a second time, and people not found.
    """

    thresholds: Floats
    curves: Curves
    cost: dict[str, Floats]
    keypoints: NDArray[np.int64]
    keypoint_ap: Floats
    keypoint_labels: NDArray[np.int64]
    right: NDArray[np.int64]
    false: NDArray[np.int64]
    missed: NDArray[np.int64]

    @property
    def ap(self) -> Floats:
        """(T,) average precision of what was found as it was found."""
        return self.curves.ap


def diagnose(
    truth: Mapping[int, Sequence[Mapping[str, Any]]],
    results: Sequence[Mapping[str, Any]],
    thresholds: Floats = THRESHOLDS,
) -> Diagnosis:
    """Analyse results, people of every size together.

    Args:
        truth: COCO person annotations by image id; checked, as `metrics.coco_ap` does.
        results: COCO keypoint results on these pictures.
        thresholds: (T,) OKS.
    """
    ids = sorted(truth)
    truths, found = truths_of(truth, ids), found_of(results, ids)
    matches = match(found, truths, SIGMAS, thresholds)
    counts = matches.counted & ~matches.ignored
    was_found = matches.found() & matches.wanted
    keypoints = classify(found, truths)
    labels = (truths.labelled & ~truths.crowd[:, None]).sum(axis=0)
    return Diagnosis(
        thresholds=thresholds,
        curves=curves(found.score, matches),
        cost=costs(found, truths, keypoints, thresholds),
        keypoints=keypoints.count(),
        keypoint_ap=np.array([keypoint_ap(found, truths, k, thresholds) for k in range(len(COCO_KEYPOINTS))]),
        keypoint_labels=labels,
        right=(counts & (matches.truth >= 0)).sum(axis=1),
        false=(counts & (matches.truth < 0)).sum(axis=1),
        missed=matches.wanted.sum() - was_found.sum(axis=1),
    )


def costs(found: Found, truths: Truths, keypoints: Keypoints, thresholds: Floats) -> dict[str, Floats]:
    """(T,) AP won by putting right each of ERRORS, in their order."""
    levels = [_curves(found, truths, thresholds).ap]
    for kind in KEYPOINT_ERRORS:
        found = correct(found, truths, keypoints, kind)
        levels.append(_curves(found, truths, thresholds).ap)
    found = replace(found, score=best_scores(found, truths))
    matches = match(found, truths, SIGMAS, thresholds)
    levels.append(curves(found.score, matches).ap)
    levels.append(curves(found.score, matches, left_out=matches.truth < 0).ap)
    levels.append(np.ones(len(thresholds)))  # nobody false is left, so all that lacks is people not found
    won = [np.where(before < 0, np.nan, after - before) for before, after in itertools.pairwise(levels)]
    return dict(zip(ERRORS, won, strict=True))


def _curves(found: Found, truths: Truths, thresholds: Floats) -> Curves:
    return curves(found.score, match(found, truths, SIGMAS, thresholds))


def best_scores(found: Found, truths: Truths) -> Floats:
    """(M,) the scores that would order the found people best.

    That is each one's similarity to the annotated person it is most similar to, lowered where it resembles a better one
    of the same picture (soft non-maximum suppression).
    """
    pairs = pair_up(found, truths)
    oks = np.where(truths.ignored[pairs.truth], 0, object_similarities(pairs, found, truths, SIGMAS))
    best = np.zeros(len(found.score))
    np.maximum.at(best, pairs.found, oks)
    edges = np.flatnonzero(np.diff(found.picture, prepend=-1, append=-1))
    for first, last in itertools.pairwise(edges):
        if last - first > 1:
            alike = _alike(found.keypoints[first:last], found.present[first:last])
            best[first:last] = _suppressed(best[first:last], alike)
    return best


def _alike(points: Floats, present: Flags) -> Floats:
    """(m, m) similarity of found people to each other, over the keypoints that both have."""
    low = np.where(present[..., None], points, np.inf).min(axis=1)
    high = np.where(present[..., None], points, -np.inf).max(axis=1)
    area = np.where(present.any(axis=1), np.prod(np.nan_to_num(high - low, neginf=0), axis=1), 0)
    squared = ((points[:, None] - points[None]) ** 2).sum(axis=3)  # (m, m, 17)
    mean_area = (area[:, None] + area[None]) / 2
    both = present[:, None] & present[None]
    one_by_one = similarity(squared.reshape(-1, squared.shape[2]), mean_area.reshape(-1), SIGMAS).reshape(squared.shape)
    return np.asarray((one_by_one * both).sum(axis=2) / np.maximum(both.sum(axis=2), 1))


def _suppressed(scores: Floats, alike: Floats) -> Floats:
    """Each score in turn, highest first, lowers those of the people like it who have not had their turn."""
    scores, damping = scores.copy(), np.exp(-(alike**2) / OVERLAP)
    waiting = np.ones(len(scores), dtype=bool)
    for _ in range(len(scores)):
        top = int(np.where(waiting, scores, -1).argmax())
        waiting[top] = False
        scores[waiting] *= damping[top, waiting]
    return scores


def keypoint_ap(found: Found, truths: Truths, keypoint: int, thresholds: Floats = THRESHOLDS) -> float:
    """AP of one keypoint: COCO's evaluation as if people had no other.

    OKS is the similarity of that keypoint alone. Asked for are the people who have it labelled; the others are ignored,
    with what lies within their doubled box. A found person without the keypoint does not take part, and counts with its
    own score otherwise. -1 where nobody has it labelled.
    """
    people, answers = truths.only(keypoint), found.only(keypoint)
    matches = match(answers, people, SIGMAS[keypoint : keypoint + 1], thresholds)
    return float(curves(answers.score, matches).ap.mean())


def to_json(diagnosis: Diagnosis, at: Sequence[float] = (0.5, 0.75)) -> dict[str, Any]:
    """What eval.json holds of it: `keypoints` by name, and `errors` with each cost averaged and at OKS `at`."""
    columns = {f"OKS {value:.2f}": int(np.abs(diagnosis.thresholds - value).argmin()) for value in at}

    def row(values: Floats) -> dict[str, float | None]:
        chosen = {"mean": float(values.mean()), **{name: float(values[i]) for name, i in columns.items()}}
        return {name: None if np.isnan(value) else round(value, 6) for name, value in chosen.items()}

    people = {
        name: {"right": int(diagnosis.right[i]), "false": int(diagnosis.false[i]), "missed": int(diagnosis.missed[i])}
        for name, i in columns.items()
    }
    keypoints = {
        name: {
            "AP": round(float(diagnosis.keypoint_ap[k]), 6),
            "labelled": int(diagnosis.keypoint_labels[k]),
            **{kind: int(diagnosis.keypoints[k, code]) for code, kind in enumerate(KINDS)},
        }
        for k, name in enumerate(COCO_KEYPOINTS)
    }
    cost = {name: row(values) for name, values in diagnosis.cost.items()}
    return {"keypoints": keypoints, "errors": {"AP": row(diagnosis.ap), "cost": cost, "people": people}}
