"""AP of weighted images, and the bootstrap of the difference in AP between two sets of detections.

The detections of every image are matched once. A bootstrap sample draws as many images as there are, with replacement,
and only weights the matches by the number of times that an image was drawn: thousands of samples take seconds. Method:
Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapters 6 and 13; the difference is paired, because
both sets are evaluated on the same drawn images.

This module needs NumPy only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evaluation.scoring.analysis.arrays import (
    SIGMAS,
    Flags,
    Floats,
    Indices,
    annotation_arrays,
    detection_arrays,
)
from evaluation.scoring.analysis.matching import OKS_THRESHOLDS, RECALL_LEVELS, match

CONFIDENCE = 0.95
"""Probability that an interval of `bootstrap_difference` is meant to contain the true difference."""


@dataclass(frozen=True)
class MatchedDetections:
    """M detections in I images with what AP needs to know of them, at T = 10 OKS thresholds.

    Attributes:
        image: (M,) index of the image, in ascending order.
        score: (M,) score.
        true_positive, false_positive: (T, M); both are False for a detection that COCO ignores.
        required: (I,) number of annotations in each image that have to be found.
    """

    image: Indices
    score: Floats
    true_positive: Flags
    false_positive: Flags
    required: Indices

    def ap(self, weights: Indices | None = None) -> float:
        """Return COCO's AP over OKS .50:.05:.95, with each image counted `weights` (I,) times, once by default.

        It is -1 if no annotation has to be found.
        """
        if weights is None:
            weights = np.ones(len(self.required), dtype=np.intp)
        required = int(self.required @ weights)
        if not required:
            return -1.0
        order = np.argsort(-self.score, kind="stable")
        weight = weights[self.image[order]]
        true_positives = np.cumsum(self.true_positive[:, order] * weight, axis=1)
        false_positives = np.cumsum(self.false_positive[:, order] * weight, axis=1)
        precision = true_positives / np.maximum(true_positives + false_positives, 1)
        envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        total = 0.0
        for recall, heights in zip(true_positives / required, envelope, strict=True):
            at = np.searchsorted(recall, RECALL_LEVELS, side="left")
            total += heights[at[at < len(recall)]].sum()
        return float(total / (len(OKS_THRESHOLDS) * len(RECALL_LEVELS)))


def match_detections(
    ground_truth: Mapping[int, Sequence[Mapping[str, Any]]],
    results: Sequence[Mapping[str, Any]],
    image_ids: Sequence[int],
) -> MatchedDetections:
    """Match COCO keypoint results to the annotations of the images `image_ids`; image i is `image_ids[i]`."""
    annotations = annotation_arrays(ground_truth, image_ids)
    detections = detection_arrays(results, image_ids)
    matches = match(detections, annotations, SIGMAS)
    kept = matches.evaluated
    return MatchedDetections(
        detections.image[kept],
        detections.score[kept],
        matches.true_positives()[:, kept],
        matches.false_positives()[:, kept],
        np.bincount(annotations.image[matches.required], minlength=len(image_ids)),
    )


def concatenate(parts: Sequence[MatchedDetections]) -> MatchedDetections:
    """Return the detections of several lists of images as those of one list."""
    first_image = np.cumsum([0, *(len(part.required) for part in parts)])
    return MatchedDetections(
        np.concatenate([part.image + first for part, first in zip(parts, first_image[:-1], strict=True)]),
        np.concatenate([part.score for part in parts]),
        np.concatenate([part.true_positive for part in parts], axis=1),
        np.concatenate([part.false_positive for part in parts], axis=1),
        np.concatenate([part.required for part in parts]),
    )


@dataclass(frozen=True)
class Difference:
    """Difference in AP between two sets of detections on the same images.

    Attributes:
        value: AP of the second set minus AP of the first.
        low, high: limits of the CONFIDENCE interval of this difference.
        images: number of images.
        samples: number of bootstrap samples.
    """

    value: float
    low: float
    high: float
    images: int
    samples: int

    @property
    def above_noise(self) -> bool:
        """True if the second set is better: the whole interval is above 0."""
        return self.low > 0

    def __str__(self) -> str:
        verdict = (
            "above noise"
            if self.above_noise
            else "worse by more than noise"
            if self.high < 0
            else "not distinct from noise"
        )
        return (
            f"{self.value:+.4f} AP ({CONFIDENCE:.0%} interval {self.low:+.4f} to {self.high:+.4f}, "
            f"paired bootstrap of {self.images:,} images): {verdict}"
        )


def bootstrap_difference(
    first: MatchedDetections, second: MatchedDetections, samples: int = 1000, seed: int = 0
) -> Difference:
    """Return the AP of `second` minus that of `first` with its bootstrap interval.

    Args:
        first: detections before a change.
        second: detections after it, in the same images.
        samples: number of bootstrap samples. Samples without annotations are left out.
        seed: random seed of the samples.
    """
    images = len(first.required)
    value = second.ap() - first.ap()
    rng = np.random.default_rng(seed)
    differences = []
    for _ in range(samples):
        weights = np.bincount(rng.integers(0, images, images), minlength=images)
        if first.required @ weights:
            differences.append(second.ap(weights) - first.ap(weights))
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(differences, [tail, 100 - tail]) if differences else (value, value)
    return Difference(value, float(low), float(high), images, samples)
