"""Ground truth and detections of a whole dataset as flat arrays, sorted by image, for the analysis.

Shape letters: N annotations, M detections, K keypoints (17 in COCO's order, or 1), P pairs of a detection and an
annotation of the same image.

This module needs NumPy only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.skeleton import COCO_KEYPOINTS, OKS_SIGMAS

SIGMAS: NDArray[np.float64] = np.array([OKS_SIGMAS[name.rpartition("_")[2]] for name in COCO_KEYPOINTS])
"""(17,) standard deviation of human annotators relative to sqrt(area), in COCO-17 order."""

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class AnnotationArrays:
    """The ground truth.

    Attributes:
        image: (N,) index into the list of image ids, in ascending order.
        keypoints: (N, K, 2) x, y in px.
        labelled: (N, K) True for labelled keypoints.
        area: (N,) area of the segmentation in px.
        box: (N, 4) x, y, width, height in px.
        crowd: (N,) True for a crowd, which can match any number of detections.
        ignored: (N,) True for annotations that COCO ignores: crowds, and people without keypoints.
    """

    image: Indices
    keypoints: Floats
    labelled: Flags
    area: Floats
    box: Floats
    crowd: Flags
    ignored: Flags

    def select_keypoint(self, keypoint: int) -> AnnotationArrays:
        """Return the same annotations reduced to one keypoint (K = 1); people without it are ignored."""
        labelled = self.labelled[:, keypoint : keypoint + 1]
        keypoints = self.keypoints[:, keypoint : keypoint + 1]
        ignored = self.crowd | ~labelled[:, 0]
        return AnnotationArrays(self.image, keypoints, labelled, self.area, self.box, self.crowd, ignored)


@dataclass(frozen=True)
class DetectionArrays:
    """The detections.

    Attributes:
        image: (M,) index into the list of image ids, in ascending order.
        keypoints: (M, K, 2) x, y in px.
        present: (M, K) True for detected keypoints; a keypoint at (0, 0) is not detected.
        score: (M,) score of the person.
    """

    image: Indices
    keypoints: Floats
    present: Flags
    score: Floats

    @property
    def area(self) -> Floats:
        """(M,) area in px of the box around all keypoints; as in COCO's code, keypoints at (0, 0) are included."""
        return np.asarray(np.ptp(self.keypoints, axis=1).prod(axis=1))

    def select_keypoint(self, keypoint: int) -> DetectionArrays:
        """Return the detections that have this keypoint, reduced to it (K = 1)."""
        kept = self.present[:, keypoint]
        column = slice(keypoint, keypoint + 1)
        return DetectionArrays(
            self.image[kept], self.keypoints[kept, column], self.present[kept, column], self.score[kept]
        )


@dataclass(frozen=True)
class Pairs:
    """Every detection with every annotation of the same image, sorted by detection, then by annotation.

    Attributes:
        detection: (P,) index into DetectionArrays.
        annotation: (P,) index into AnnotationArrays.
    """

    detection: Indices
    annotation: Indices


def annotation_arrays(
    ground_truth: Mapping[int, Sequence[Mapping[str, Any]]], image_ids: Sequence[int]
) -> AnnotationArrays:
    """Convert COCO person annotations, given by image id, to arrays in the order of `image_ids`."""
    flat = [(i, person) for i, image_id in enumerate(image_ids) for person in ground_truth[image_id]]
    values = [person["keypoints"] for _, person in flat]
    keypoints = np.array(values, dtype=np.float64).reshape(-1, len(COCO_KEYPOINTS), 3)
    crowd = np.array([bool(person.get("iscrowd", 0)) for _, person in flat], dtype=bool)
    without_keypoints = np.array([person["num_keypoints"] == 0 for _, person in flat], dtype=bool)
    return AnnotationArrays(
        image=np.array([i for i, _ in flat], dtype=np.intp),
        keypoints=keypoints[..., :2],
        labelled=keypoints[..., 2] > 0,
        area=np.array([person["area"] for _, person in flat], dtype=np.float64),
        box=np.array([person["bbox"] for _, person in flat], dtype=np.float64).reshape(-1, 4),
        crowd=crowd,
        ignored=crowd | without_keypoints,
    )


def detection_arrays(results: Sequence[Mapping[str, Any]], image_ids: Sequence[int]) -> DetectionArrays:
    """Convert COCO keypoint results to arrays in the order of `image_ids`; results of other images are dropped."""
    position = {image_id: i for i, image_id in enumerate(image_ids)}
    kept = [result for result in results if result["image_id"] in position]
    kept.sort(key=lambda result: position[result["image_id"]])
    values = np.array([result["keypoints"] for result in kept], dtype=np.float64)
    keypoints = values.reshape(-1, len(COCO_KEYPOINTS), 3)[..., :2]
    return DetectionArrays(
        image=np.array([position[result["image_id"]] for result in kept], dtype=np.intp),
        keypoints=keypoints,
        present=(keypoints != 0).any(axis=2),
        score=np.array([result["score"] for result in kept], dtype=np.float64),
    )


def pair_within_images(detections: DetectionArrays, annotations: AnnotationArrays) -> Pairs:
    """Pair every detection with every annotation of its image."""
    start = np.searchsorted(annotations.image, detections.image, side="left")
    count = np.searchsorted(annotations.image, detections.image, side="right") - start
    return Pairs(np.repeat(np.arange(len(count)), count), np.repeat(start, count) + index_within_groups(count))


def index_within_groups(count: Indices) -> Indices:
    """Return 0, 1, ... within each of several consecutive groups, where `count` is the size of each group."""
    return np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)


def similarity(squared_distance: Floats, area: Floats, sigmas: Floats) -> Floats:
    """Return the keypoint similarity exp(-d^2 / (2 area (2 sigma)^2)), 0..1.

    Args:
        squared_distance: (P, K) in px^2.
        area: (P,) area of the annotated person in px.
        sigmas: (K,) standard deviation of each keypoint.
    """
    spread = 2 * (2 * sigmas) ** 2 * (area[:, None] + np.spacing(1))
    return np.asarray(np.exp(-squared_distance / spread))


def keypoint_similarities(
    pairs: Pairs, detections: DetectionArrays, annotations: AnnotationArrays, sigmas: Floats
) -> Floats:
    """Return the similarity (P, K) of each detected keypoint to the annotated one, whether or not it is labelled."""
    offset = detections.keypoints[pairs.detection] - annotations.keypoints[pairs.annotation]
    return similarity((offset**2).sum(axis=2), annotations.area[pairs.annotation], sigmas)


def object_similarities(
    pairs: Pairs, detections: DetectionArrays, annotations: AnnotationArrays, sigmas: Floats
) -> Floats:
    """Return the object keypoint similarity (OKS) (P,), the mean similarity of the labelled keypoints.

    An annotation without labelled keypoints is treated as in COCO's code: instead of the distance to a keypoint, the
    distance of each detected keypoint to the annotated box is used, where the box is enlarged by its width and height
    on each side.
    """
    labelled = annotations.labelled[pairs.annotation]
    count = labelled.sum(axis=1)
    per_keypoint = np.where(labelled, keypoint_similarities(pairs, detections, annotations, sigmas), 0)
    mean = per_keypoint.sum(axis=1) / np.maximum(count, 1)
    unlabelled = np.flatnonzero(count == 0)
    if len(unlabelled):
        annotation = pairs.annotation[unlabelled]
        box = annotations.box[annotation]
        points = detections.keypoints[pairs.detection[unlabelled]]
        low, high = box[:, None, :2] - box[:, None, 2:], box[:, None, :2] + 2 * box[:, None, 2:]
        outside = np.maximum(low - points, 0) + np.maximum(points - high, 0)
        mean[unlabelled] = similarity((outside**2).sum(axis=2), annotations.area[annotation], sigmas).mean(axis=1)
    return np.asarray(mean)
