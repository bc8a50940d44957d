"""Heads: outlines of hair, face, ears and nose, and the visibility of the facial keypoints."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np

from pipeline.synthetic.geometry.polygons import circle, hull
from pipeline.synthetic.geometry.poses import Floats

VISIBLE, HIDDEN, UNLABELLED = 2, 1, 0
"""COCO's visibility values of a keypoint."""

_HALF_AXES = np.array([[0.048], [0.068], [0.058]])  # half width, half height, half depth
LANDMARKS: dict[str, tuple[float, float, float]] = {
    "nose": (0.0, 0.22, 1.10),
    "left_eye": (0.42, -0.10, 0.88),
    "right_eye": (-0.42, -0.10, 0.88),
    "left_ear": (1.02, 0.06, -0.05),
    "right_ear": (-1.02, 0.06, -0.05),
    "mouth": (0.0, 0.56, 0.84),
    "bridge": (0.0, -0.05, 0.98),
    "chin": (0.0, 1.0, 0.30),
}
"""(left, down, front) in units of the head's half axes; the first five are COCO's facial keypoints, in COCO's order."""

_LANDMARKS = np.array(list(LANDMARKS.values()))

_KEYPOINT_NORMALS = np.array(
    [[0.0, 0.0, 1.0], [0.36, 0.0, 0.93], [-0.36, 0.0, 0.93], [1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]]
)
# minimum depth component of the normal for a VISIBLE keypoint, and for a HIDDEN one, which an annotator could guess
_VISIBLE_ABOVE = (-0.10, 0.10, 0.10, -0.14, -0.14)
_HIDDEN_ABOVE = (-0.25, -0.10, -0.10, -0.14, -0.14)
_LONG_HAIR = np.array(
    [
        (1.1, 0.0, -0.3), (-1.1, 0.0, -0.3), (0.9, -0.6, -0.4), (-0.9, -0.6, -0.4),
        (1.05, 1.5, -0.55), (-1.05, 1.5, -0.55), (0.8, 1.7, -0.95), (-0.8, 1.7, -0.95),
    ]
)  # fmt: skip

HAIRLINES: tuple[tuple[float, float], ...] = ((0.62, 0.0), (0.75, 0.10), (0.80, 0.22), (0.95, 0.35), (0.90, 2.0))
"""(backward tilt in radians, height) of the plane between hair and face; the last entry is bald."""


@functools.lru_cache(maxsize=2 * len(HAIRLINES))
def _sphere_cap(tilt: float, height: float, skin: bool) -> Floats:
    """Return (N, 3) points of the unit sphere above (hair) or below (skin) a tilted plane, in the head's frame."""
    height = min(height, 0.999)
    levels = np.linspace(height, -1.0 if skin else 1.0, 5)[:-1]
    around = np.linspace(0.0, 2 * np.pi, 14, endpoint=False)
    radius = np.sqrt(np.maximum(1 - levels**2, 0.0))[:, None]
    x, forth = radius * np.cos(around), radius * np.sin(around)
    up = np.broadcast_to(levels[:, None], x.shape)
    c, s = np.cos(tilt), np.sin(tilt)
    down, front = -up * c + forth * s, -up * s - forth * c
    points: Floats = np.stack([x, down, front], axis=-1).reshape(-1, 3)
    points[:, 0] *= 1 - 0.22 * np.maximum(points[:, 1], 0.0)  # the jaw is narrower than the skull
    return points


@dataclass(frozen=True)
class Head:
    """A head in camera coordinates: px to the right, down and towards the camera.

    Attributes:
        polygons: outlines of the whole head, of the face or the hair over it, and of visible ears and nose, in
            drawing order.
        hair: outline of long hair, or None if the hair is short.
        hair_depth: depth of `hair` in px.
        keypoints: (5, 2) px of nose, eyes and ears, left before right.
        pose_visibility: VISIBLE, HIDDEN or UNLABELLED for each of them, considering only the head's orientation.
        landmarks: (x, y) in px of each name in LANDMARKS.
        hair_on_top: True if the second polygon is hair over a face, False if it is a face over hair.
        face_to_camera: orientation of the face, from -1 (back of the head to the camera) to 1.
    """

    polygons: list[Floats]
    hair: Floats | None
    hair_depth: float
    keypoints: Floats
    pose_visibility: list[int]
    landmarks: dict[str, tuple[float, float]]
    hair_on_top: bool
    face_to_camera: float


def build_head(view: Floats, centre: Floats, size: float, hairline: int, long_hair: bool) -> Head:
    """Project a head.

    Args:
        view: (3, 3) rows: the head's left, down and front axes in camera coordinates; their length is the standing
            height in px.
        centre: (3,) centre of the head in px.
        size: factor of the usual head size.
        hairline: index into HAIRLINES.
        long_hair: True if the hair covers the ears.
    """
    axes = view * (_HALF_AXES * size)  # (3, 3) rows: half axes in px
    landmarks = _LANDMARKS @ axes + centre
    length = math.sqrt(float(view[2] @ view[2]))
    pose_visibility = _pose_visibility(view[:, 2] / length, long_hair)
    tilt, height = HAIRLINES[hairline]
    hair_on_top = float(axes[1, 2]) * math.cos(tilt) + float(axes[2, 2]) * math.sin(tilt) < 0
    skin = _sphere_cap(tilt, height, True) @ axes + centre
    if height > 1:
        polygons = [hull(skin[:, :2])]
    else:
        hair = _sphere_cap(tilt, height, False) @ (1.09 * axes) + centre
        # the one of hair and face that points to the camera is convex: it is drawn over the outline of the whole head
        top = hair if hair_on_top else skin
        nearer = top[:, 2] > float(centre[2]) - 0.006 * length
        polygons = [hull(np.concatenate([hair, skin])[:, :2]), hull(top[nearer, :2])]
    return Head(
        polygons=polygons + _ears_and_nose(axes[:, :2], landmarks[:, :2], pose_visibility, long_hair),
        hair=hull(_LONG_HAIR @ axes[:, :2] + centre[:2]) if long_hair else None,
        hair_depth=float(centre[2]) - 1.2 * float(axes[2, 2]),
        keypoints=landmarks[:5, :2],
        pose_visibility=pose_visibility,
        landmarks={name: (x, y) for name, (x, y, _) in zip(LANDMARKS, landmarks.tolist(), strict=True)},
        hair_on_top=hair_on_top,
        face_to_camera=float(view[2, 2]) / length,
    )


def _ears_and_nose(axes: Floats, landmarks: Floats, pose_visibility: list[int], long_hair: bool) -> list[Floats]:
    """Return the outlines of the visible ears and of the visible nose."""
    left, down, front = axes
    cos, sin = circle()
    out = []
    for ear in (3, 4):
        if pose_visibility[ear] == VISIBLE and not long_hair:
            out.append(landmarks[ear] + 0.30 * sin[::2, None] * down + cos[::2, None] * (0.10 * left + 0.24 * front))
    if pose_visibility[0] == VISIBLE:
        nose, side = landmarks[0] + 0.05 * down, 0.16 * left
        out.append(np.stack([landmarks[6], nose + side, landmarks[0] + 0.10 * front, nose - side]))
    return out


def _pose_visibility(to_camera: Floats, long_hair: bool) -> list[int]:
    """Return the visibility of nose, eyes and ears; `to_camera` are the depths of the left, down and front axes."""
    out = [
        VISIBLE if t > seen else HIDDEN if t > guessed else UNLABELLED
        for t, seen, guessed in zip(
            (_KEYPOINT_NORMALS @ to_camera).tolist(), _VISIBLE_ABOVE, _HIDDEN_ABOVE, strict=True
        )
    ]
    if long_hair:
        out[3:] = [min(v, HIDDEN) for v in out[3:]]
    return out
