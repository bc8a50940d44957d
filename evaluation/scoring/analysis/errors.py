"""Keypoint errors after Ronchi and Perona, "Benchmarking and Error Diagnosis in Multi-Instance Pose Estimation",
ICCV 2017, by the rules of their published tool (github.com/matteorr/coco-analyze).

Each labelled keypoint of a matched detection is compared with the same keypoint and with the mirrored keypoint (left
and right exchanged) of all people annotated in the image. The one with the highest similarity decides the class:

- good: the person's own keypoint, similarity of at least MIN_GOOD
- jitter: the person's own keypoint, similarity from MIN_NEAR to MIN_GOOD
- inversion: the person's own mirrored keypoint (left wrist on the right wrist), at least MIN_NEAR
- swap: a keypoint of another person, or its mirrored keypoint, at least MIN_NEAR
- miss: no similarity reaches MIN_NEAR, or the keypoint was not detected

This module needs NumPy only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from evaluation.scoring.analysis.arrays import (
    SIGMAS,
    AnnotationArrays,
    DetectionArrays,
    Floats,
    Indices,
    Pairs,
    keypoint_similarities,
    pair_within_images,
)
from evaluation.scoring.analysis.matching import match
from pipeline.skeleton import COCO_KEYPOINTS, mirrored_name

KEYPOINT_CLASSES: tuple[str, ...] = ("good", "jitter", "inversion", "swap", "miss")
"""Classes of the labelled keypoints of matched detections; the index is the class code."""

UNCLASSIFIED = -1
"""Class code of keypoints that are not labelled, and of all keypoints of unmatched detections."""

MIN_NEAR = 0.5
"""Minimum keypoint similarity of a jitter, an inversion and a swap."""

MIN_GOOD = 0.85
"""Minimum keypoint similarity of a good keypoint."""

MIN_MATCH_OKS = 0.1
"""Minimum OKS at which a detection is compared with an annotation."""

CORRECTION_POWER = 0.25
"""A correction leaves a keypoint similarity raised to this power; see `correct`."""

MIRROR_INDICES: Indices = np.array(
    [COCO_KEYPOINTS.index(mirrored_name(name)) for name in COCO_KEYPOINTS], dtype=np.intp
)
"""(17,) COCO-17 index of each mirrored keypoint."""


@dataclass(frozen=True)
class KeypointErrors:
    """Classes of the keypoints of M detections.

    Attributes:
        code: (M, 17) int8 index into KEYPOINT_CLASSES, or UNCLASSIFIED.
        similarity: (M, 17) highest similarity to any compared keypoint; 0 if unclassified.
        annotation: (M,) index of the matched annotation, or -1.
    """

    code: NDArray[np.int8]
    similarity: Floats
    annotation: Indices

    def count(self) -> NDArray[np.int64]:
        """Return the number of keypoints (17, 5) of each class, in the order of KEYPOINT_CLASSES."""
        return np.stack([(self.code == code).sum(axis=0) for code in range(len(KEYPOINT_CLASSES))], axis=1)


def classify(detections: DetectionArrays, annotations: AnnotationArrays) -> KeypointErrors:
    """Assign a class to every keypoint of the detections."""
    matched = match(detections, annotations, SIGMAS, np.array([MIN_MATCH_OKS])).annotation[0]
    pairs = pair_within_images(detections, annotations)
    own, other, mirrored, other_mirrored = _highest_similarities(pairs, detections, annotations, matched)
    best = np.maximum(np.maximum(own, other), np.maximum(mirrored, other_mirrored))
    is_own = own >= best
    is_mirrored = ~is_own & (mirrored >= best) & (other < best)
    code = np.select(
        [best < MIN_NEAR, is_own & (best >= MIN_GOOD), is_own, is_mirrored],
        [KEYPOINT_CLASSES.index(name) for name in ("miss", "good", "jitter", "inversion")],
        KEYPOINT_CLASSES.index("swap"),
    ).astype(np.int8)
    compared = np.zeros(code.shape, dtype=bool)
    is_matched = matched >= 0
    compared[is_matched] = annotations.labelled[matched[is_matched]]
    return KeypointErrors(
        np.where(compared, code, np.int8(UNCLASSIFIED)), np.where(compared, np.maximum(best, 0), 0), matched
    )


def _highest_similarities(
    pairs: Pairs, detections: DetectionArrays, annotations: AnnotationArrays, matched: Indices
) -> tuple[Floats, Floats, Floats, Floats]:
    """Return four arrays (M, 17) of similarities; -1 if nothing is labelled.

    They are the similarity to the person's own keypoint, the highest similarity to the keypoint of another person, the
    similarity to the person's own mirrored keypoint, and the highest similarity to the mirrored keypoint of another
    person.
    """
    mirrored_annotations = replace(
        annotations,
        keypoints=annotations.keypoints[:, MIRROR_INDICES],
        labelled=annotations.labelled[:, MIRROR_INDICES],
    )
    is_own = (matched[pairs.detection] == pairs.annotation)[:, None]
    highest = []
    for people in (annotations, mirrored_annotations):
        similar = keypoint_similarities(pairs, detections, people, SIGMAS)
        # a keypoint that was not detected has the coordinates (0, 0), which may be close to an annotated keypoint
        valid = people.labelled[pairs.annotation] & detections.present[pairs.detection]
        similar = np.where(valid, similar, -1)
        for selected in (is_own, ~is_own):
            highest.append(_max_per_detection(np.where(selected, similar, -1), pairs, len(matched)))
    own, other, mirrored, other_mirrored = highest
    return own, other, mirrored, other_mirrored


def _max_per_detection(similar: Floats, pairs: Pairs, num_detections: int) -> Floats:
    """Return the maximum (M, 17) of `similar` (P, 17) over the pairs of each detection; -1 without a pair."""
    highest = np.full((num_detections, similar.shape[1]), -1.0)
    if len(similar):
        start = np.flatnonzero(np.diff(pairs.detection, prepend=-1))
        highest[pairs.detection[start]] = np.maximum.reduceat(similar, start, axis=0)
    return highest


def correct(
    detections: DetectionArrays, annotations: AnnotationArrays, errors: KeypointErrors, error: str
) -> DetectionArrays:
    """Correct every keypoint error of one class in the same way as the authors' tool.

    A jitter is moved to the distance at which its similarity is that of a good keypoint, a miss to the distance at
    which it is MIN_NEAR. An inversion or a swap is moved so that it is as far from the right keypoint as it was from
    the wrong one. The tool computes these distances with sigma, while COCO's similarity uses 2 sigma. The remaining
    similarity by COCO's definition is therefore the fourth root: .96 for a jitter, .84 for a miss. The published
    analyses of the authors were made in this way, so it is reproduced here.

    Args:
        detections: the detections, which may already contain other corrections.
        annotations: the ground truth.
        errors: result of `classify` on the original detections.
        error: jitter, inversion, swap or miss.
    """
    row, column = np.nonzero(errors.code == KEYPOINT_CLASSES.index(error))
    annotation = errors.annotation[row]
    fixed_similarity = {"jitter": MIN_GOOD, "miss": MIN_NEAR}
    if error in fixed_similarity:
        remaining = np.full(len(row), fixed_similarity[error])
    else:
        remaining = errors.similarity[row, column]
    exponent = -np.log(np.clip(remaining, np.finfo(float).tiny, 1)) * CORRECTION_POWER
    points, present = detections.keypoints.copy(), detections.present.copy()
    points[row, column] = annotations.keypoints[annotation, column]
    points[row, column, 0] += np.sqrt(exponent * 2 * annotations.area[annotation]) * 2 * SIGMAS[column]
    present[row, column] = True
    return replace(detections, keypoints=points, present=present)
