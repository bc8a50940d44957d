"""Quality of the detections of each image, to find the best and the worst images.

This module needs NumPy only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation.scoring.analysis.arrays import (
    SIGMAS,
    Flags,
    Floats,
    Indices,
    annotation_arrays,
    detection_arrays,
)
from evaluation.scoring.analysis.errors import KEYPOINT_CLASSES, classify
from evaluation.scoring.analysis.matching import OKS_THRESHOLDS, match


@dataclass(frozen=True)
class ImageQuality:
    """Quality of I images, in ascending order of image id.

    Attributes:
        image_ids: COCO image ids.
        quality: (I,) true positives / (annotations + false positives), averaged over the OKS thresholds; NaN for an
            image without annotations and false positives.
        num_people: (I,) number of annotated people that COCO evaluates.
        true_positives: (I,) at OKS .50.
        false_positives: (I,) at OKS .50.
        keypoint_classes: (I, 5) number of keypoints of each of errors.KEYPOINT_CLASSES.
    """

    image_ids: list[int]
    quality: Floats
    num_people: NDArray[np.int64]
    true_positives: NDArray[np.int64]
    false_positives: NDArray[np.int64]
    keypoint_classes: NDArray[np.int64]

    def worst(self, number: int) -> list[int]:
        """Return indices of images with people, worst first; among equals, the one with the most people first."""
        return self._ordered(self.quality, number)

    def best(self, number: int) -> list[int]:
        """Return indices of images with people, best first; among equals, the one with the most people first."""
        return self._ordered(-self.quality, number)

    def with_false_positives(self, number: int) -> list[int]:
        """Return indices of images without people, the most false positives first."""
        order = np.argsort(-self.false_positives, kind="stable")
        return [int(i) for i in order if not self.num_people[i] and self.false_positives[i]][:number]

    def _ordered(self, key: Floats, number: int) -> list[int]:
        order = np.lexsort((-(self.num_people + self.false_positives), key))
        return [int(i) for i in order if self.num_people[i]][:number]


def measure_image_quality(
    ground_truth: Mapping[int, Sequence[Mapping[str, Any]]], results: Sequence[Mapping[str, Any]]
) -> ImageQuality:
    """Measure each image separately; the arguments are those of `diagnosis.diagnose`."""
    image_ids = sorted(ground_truth)
    annotations, detections = annotation_arrays(ground_truth, image_ids), detection_arrays(results, image_ids)
    matches = match(detections, annotations, SIGMAS)
    true_positives = _count_per_image(matches.true_positives(), detections.image, len(image_ids))
    false_positives = _count_per_image(matches.false_positives(), detections.image, len(image_ids))
    num_people = _count_per_image(matches.required[None], annotations.image, len(image_ids))
    total = num_people + false_positives
    share = np.where(total > 0, true_positives / np.maximum(total, 1), np.nan)
    keypoint_classes = np.zeros((len(image_ids), len(KEYPOINT_CLASSES)), dtype=np.int64)
    codes = classify(detections, annotations).code
    for code in range(len(KEYPOINT_CLASSES)):
        np.add.at(keypoint_classes[:, code], detections.image, (codes == code).sum(axis=1))
    at = int(np.abs(OKS_THRESHOLDS - 0.5).argmin())
    return ImageQuality(
        image_ids,
        np.asarray(share.mean(axis=0)),
        num_people[0],
        true_positives[at],
        false_positives[at],
        keypoint_classes,
    )


def _count_per_image(flags: Flags, image: Indices, num_images: int) -> NDArray[np.int64]:
    """Return the number (T, I) of set flags (T, M) in each image."""
    return np.stack([np.bincount(image[row], minlength=num_images) for row in flags])
