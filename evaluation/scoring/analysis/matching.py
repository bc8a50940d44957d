"""COCO's matching of detections to annotations and its precision-recall curves, vectorised over a whole dataset.

The rules are those of pycocotools' COCOeval, which computes the reported numbers; a test checks that both agree. This
module matches the detection of rank r of every image in one step, so that 50,000 detections take a fraction of a
second and an analysis can repeat the evaluation dozens of times.

This module needs NumPy only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from evaluation.scoring.analysis.arrays import (
    AnnotationArrays,
    DetectionArrays,
    Flags,
    Floats,
    Indices,
    Pairs,
    index_within_groups,
    object_similarities,
    pair_within_images,
)

OKS_THRESHOLDS: Floats = np.linspace(0.5, 0.95, 10)
"""(10,) OKS thresholds over which COCO averages."""

RECALL_LEVELS: Floats = np.linspace(0, 1, 101)
"""(101,) recall values at which COCO samples precision."""

MAX_DETECTIONS = 20
"""Number of detections per image, by descending score, that are evaluated; COCO's maxDets."""

ALL_AREAS = (0.0, 1e10)
"""Range of areas in px; COCO's area range `all`."""


@dataclass(frozen=True)
class Matches:
    """Result of the matching at T thresholds.

    Attributes:
        annotation: (T, M) index of the annotation that each detection matches, or -1.
        ignored: (T, M) True for detections that are neither true nor false positives.
        evaluated: (M,) True for the MAX_DETECTIONS highest scores of each image; the others are not evaluated.
        required: (N,) True for annotations that are not ignored; if unmatched, they are false negatives.
    """

    annotation: Indices
    ignored: Flags
    evaluated: Flags
    required: Flags

    def matched_annotations(self) -> Flags:
        """Return (T, N), True for annotations that at least one detection matches."""
        flags = np.zeros((len(self.annotation), len(self.required) + 1), dtype=bool)
        np.put_along_axis(flags, self.annotation, True, axis=1)  # index -1 sets the additional last column
        return flags[:, :-1]

    def true_positives(self) -> Flags:
        """Return (T, M), True for detections that match an annotation."""
        return np.asarray(self.evaluated & ~self.ignored & (self.annotation >= 0))

    def false_positives(self) -> Flags:
        """Return (T, M), True for detections that match no annotation and are not ignored."""
        return np.asarray(self.evaluated & ~self.ignored & (self.annotation < 0))


@dataclass(frozen=True)
class PrecisionRecall:
    """Precision-recall curves at T thresholds.

    Attributes:
        precision: (T, 101) precision at RECALL_LEVELS, non-increasing; -1 if no annotation is required.
        recall: (T,) maximum recall; -1 if no annotation is required.
    """

    precision: Floats
    recall: Floats

    @property
    def ap(self) -> Floats:
        """(T,) average precision at each threshold; -1 if no annotation is required."""
        return np.asarray(self.precision.mean(axis=1))


def match(
    detections: DetectionArrays,
    annotations: AnnotationArrays,
    sigmas: Floats,
    thresholds: Floats = OKS_THRESHOLDS,
    *,
    area_range: tuple[float, float] = ALL_AREAS,
    max_detections: int = MAX_DETECTIONS,
) -> Matches:
    """Match detections to annotations, greedily by descending score, as COCOeval does.

    Args:
        detections: M detections.
        annotations: N annotations of the same images.
        sigmas: (K,) standard deviations of the keypoints.
        thresholds: (T,) minimum OKS of a match.
        area_range: minimum and maximum area in px; annotations and unmatched detections outside are ignored.
        max_detections: number of detections per image that are evaluated.
    """
    low, high = area_range
    rank = rank_within_images(detections)
    pairs = pair_within_images(detections, annotations)
    oks = object_similarities(pairs, detections, annotations, sigmas)
    ignored = annotations.ignored | (annotations.area < low) | (annotations.area > high)
    matched = np.full((len(thresholds), len(rank)), -1, dtype=np.intp)
    used = np.zeros((len(thresholds), len(ignored)), dtype=bool)
    for current in range(min(max_detections, int(rank.max(initial=-1)) + 1)):
        candidates = np.flatnonzero(rank[pairs.detection] == current)
        _match_one_per_image(candidates, pairs, oks, thresholds, ignored, annotations.crowd, used, matched)
    outside = (detections.area < low) | (detections.area > high)
    # np.append gives index -1 (no match) a value; np.where does not use it
    detection_ignored = np.where(matched >= 0, np.append(ignored, False)[matched], outside)
    return Matches(matched, detection_ignored, rank < max_detections, ~ignored)


def rank_within_images(detections: DetectionArrays) -> Indices:
    """Return the rank (M,) of each detection in its image by descending score, starting from 0."""
    order = np.lexsort((-detections.score, detections.image))  # stable: equal scores keep their order
    rank = np.empty(len(order), dtype=np.intp)
    rank[order] = index_within_groups(np.bincount(detections.image[order], minlength=1))
    return rank


def _match_one_per_image(
    candidates: Indices,
    pairs: Pairs,
    oks: Floats,
    thresholds: Floats,
    ignored: Flags,
    crowd: Flags,
    used: Flags,
    matched: Indices,
) -> None:
    """Match at most one detection per image and update `used` (T, N) and `matched` (T, M) in place.

    Args:
        candidates: (C,) indices into `pairs`, at most one detection per image.
        pairs: all pairs of the dataset.
        oks: (P,) OKS of the pairs.
        thresholds: (T,) minimum OKS of a match.
        ignored: (N,) annotations to ignore.
        crowd: (N,) annotations that can be matched more than once.
        used: (T, N) annotations that are matched already.
        matched: (T, M) index of the matched annotation, or -1.
    """
    if not len(candidates):
        return
    annotation = pairs.annotation[candidates]
    start = np.flatnonzero(np.diff(pairs.detection[candidates], prepend=-1))  # first pair of each detection
    length = np.diff(start, append=len(candidates))
    available = ~used[:, annotation] | crowd[annotation]  # (T, C)
    above_threshold = oks[candidates] >= np.minimum(thresholds, 1 - 1e-10)[:, None]
    value = np.where(available & above_threshold, oks[candidates], -1)
    required_value = np.where(ignored[annotation], -1, value)
    # COCO prefers annotations that are not ignored, even if an ignored one has a higher OKS
    has_required = np.maximum.reduceat(required_value, start, axis=1) >= 0
    value = np.where(np.repeat(has_required, length, axis=1), required_value, value)
    best = np.maximum.reduceat(value, start, axis=1)
    is_best = (value == np.repeat(best, length, axis=1)) & (value >= 0)
    chosen = np.maximum.reduceat(
        np.where(is_best, annotation, -1), start, axis=1
    )  # of equal values COCO takes the last
    matched[:, pairs.detection[candidates][start]] = chosen
    row, column = np.nonzero(chosen >= 0)
    used[row, chosen[row, column]] = True


def precision_recall(score: Floats, matches: Matches, *, also_ignored: Flags | None = None) -> PrecisionRecall:
    """Compute precision-recall curves.

    Args:
        score: (M,) scores of the detections.
        matches: the result of `match`.
        also_ignored: (T, M) further detections to ignore.
    """
    kept = np.flatnonzero(matches.evaluated)
    order = kept[np.argsort(-score[kept], kind="stable")]
    ignored = matches.ignored if also_ignored is None else matches.ignored | also_ignored
    matched, ignored = matches.annotation[:, order] >= 0, ignored[:, order]
    num_required = int(matches.required.sum())
    if not num_required:
        return PrecisionRecall(np.full((len(matched), len(RECALL_LEVELS)), -1.0), np.full(len(matched), -1.0))
    true_positives = np.cumsum(matched & ~ignored, axis=1)
    false_positives = np.cumsum(~matched & ~ignored, axis=1)
    precision = true_positives / (true_positives + false_positives + np.spacing(1))
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    sampled = np.zeros((len(matched), len(RECALL_LEVELS)))
    for row, (recall, heights) in enumerate(zip(true_positives / num_required, envelope, strict=True)):
        at = np.searchsorted(recall, RECALL_LEVELS, side="left")
        reached = at < len(recall)
        sampled[row, reached] = heights[at[reached]]
    last = true_positives[:, -1] / num_required if true_positives.shape[1] else np.zeros(len(matched))
    return PrecisionRecall(sampled, np.asarray(last))
