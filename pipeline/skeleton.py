"""The human skeleton: keypoints, limbs and left-right pairs, defined once and by name.

There are two keypoint orders: COCO-17 for annotations and results, and OpenPose-18, which adds the neck, for all arrays
in between. The limb order is the channel order of the part affinity fields in CMU's published COCO model (Cao et al.,
"OpenPose", TPAMI 2019; github.com/CMU-Perceptual-Computing-Lab/openpose), so that published weights and maps fit.

This module needs only NumPy.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

COCO_KEYPOINTS: tuple[str, ...] = (
    "nose",
    "left_eye",
    "right_eye",
    "left_ear",
    "right_ear",
    "left_shoulder",
    "right_shoulder",
    "left_elbow",
    "right_elbow",
    "left_wrist",
    "right_wrist",
    "left_hip",
    "right_hip",
    "left_knee",
    "right_knee",
    "left_ankle",
    "right_ankle",
)
"""The 17 keypoints of a COCO person annotation, in COCO's order."""

KEYPOINTS: tuple[str, ...] = (
    "nose",
    "neck",
    "right_shoulder",
    "right_elbow",
    "right_wrist",
    "left_shoulder",
    "left_elbow",
    "left_wrist",
    "right_hip",
    "right_knee",
    "right_ankle",
    "left_hip",
    "left_knee",
    "left_ankle",
    "right_eye",
    "left_eye",
    "right_ear",
    "left_ear",
)
"""The 18 OpenPose keypoints (K), in the order of heatmap channels."""

LIMBS: tuple[tuple[str, str], ...] = (
    ("neck", "right_hip"),
    ("right_hip", "right_knee"),
    ("right_knee", "right_ankle"),
    ("neck", "left_hip"),
    ("left_hip", "left_knee"),
    ("left_knee", "left_ankle"),
    ("neck", "right_shoulder"),
    ("right_shoulder", "right_elbow"),
    ("right_elbow", "right_wrist"),
    ("right_shoulder", "right_ear"),
    ("neck", "left_shoulder"),
    ("left_shoulder", "left_elbow"),
    ("left_elbow", "left_wrist"),
    ("left_shoulder", "left_ear"),
    ("neck", "nose"),
    ("nose", "right_eye"),
    ("nose", "left_eye"),
    ("right_eye", "right_ear"),
    ("left_eye", "left_ear"),
)
"""The 19 limbs (L) as (start, end); part affinity field channels 2i (x) and 2i + 1 (y) belong to limb i."""

NUM_KEYPOINTS = len(KEYPOINTS)
NUM_LIMBS = len(LIMBS)

KEYPOINT_INDEX: dict[str, int] = {name: i for i, name in enumerate(KEYPOINTS)}
"""OpenPose-18 index of each keypoint name."""

LIMB_INDICES: NDArray[np.intp] = np.array([(KEYPOINT_INDEX[a], KEYPOINT_INDEX[b]) for a, b in LIMBS], dtype=np.intp)
"""(L, 2) OpenPose-18 indices of the start and end of each limb."""


def mirrored_name(name: str) -> str:
    """Return the name that the keypoint `name` has after a horizontal flip."""
    for side, other in (("left_", "right_"), ("right_", "left_")):
        if name.startswith(side):
            return other + name[len(side) :]
    return name


def _mirrored_limb(limb: tuple[str, str]) -> int:
    a, b = (mirrored_name(name) for name in limb)
    return LIMBS.index((a, b))


FLIP_KEYPOINTS: NDArray[np.intp] = np.array([KEYPOINT_INDEX[mirrored_name(name)] for name in KEYPOINTS], dtype=np.intp)
"""(K,) indices that swap left and right keypoints: flipped = keypoints[:, FLIP_KEYPOINTS]."""

FLIP_LIMBS: NDArray[np.intp] = np.array([_mirrored_limb(limb) for limb in LIMBS], dtype=np.intp)
"""(L,) indices that swap left and right limbs."""

TO_COCO: NDArray[np.intp] = np.array([KEYPOINT_INDEX[name] for name in COCO_KEYPOINTS], dtype=np.intp)
"""(17,) indices from OpenPose-18 to COCO-17: coco = openpose[..., TO_COCO, :]."""

OKS_SIGMAS: dict[str, float] = {
    "nose": 0.026,
    "eye": 0.025,
    "ear": 0.035,
    "shoulder": 0.079,
    "elbow": 0.072,
    "wrist": 0.062,
    "hip": 0.107,
    "knee": 0.087,
    "ankle": 0.089,
}
"""Standard deviation of human annotators per keypoint, relative to sqrt(area) (COCO keypoint evaluation)."""


def from_coco(keypoints: NDArray[np.float32]) -> NDArray[np.float32]:
    """Reorder COCO-17 keypoints to OpenPose-18 and add the neck.

    The neck is the midpoint of the shoulders. It is labelled if both shoulders are, and visible if both are visible.

    Args:
        keypoints: (P, 17, 3) x, y in px and COCO visibility (0 not labelled, 1 labelled but hidden, 2 visible).

    Returns:
        (P, 18, 3) float32 with the same meaning; x and y of unlabelled keypoints are 0.
    """
    coco = np.asarray(keypoints, dtype=np.float32).reshape(-1, len(COCO_KEYPOINTS), 3)
    out = np.zeros((len(coco), NUM_KEYPOINTS, 3), dtype=np.float32)
    out[:, TO_COCO] = coco
    left, right = out[:, KEYPOINT_INDEX["left_shoulder"]], out[:, KEYPOINT_INDEX["right_shoulder"]]  # (P, 3)
    out[:, KEYPOINT_INDEX["neck"], :2] = (left[:, :2] + right[:, :2]) / 2
    out[:, KEYPOINT_INDEX["neck"], 2] = np.minimum(left[:, 2], right[:, 2])
    out[out[..., 2] == 0] = 0
    return out


def to_coco(keypoints: NDArray[np.float32]) -> NDArray[np.float32]:
    """Reorder OpenPose-18 keypoints (..., 18, C) to COCO-17 (..., 17, C) and drop the neck."""
    return np.asarray(keypoints)[..., TO_COCO, :]
