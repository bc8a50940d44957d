"""Heads: hair, face, ears and nose from the head's turn, and which facial keypoints can be seen."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np

from pipeline.synthetic.geometry.polygons import circle, hull
from pipeline.synthetic.geometry.poses import Floats

VISIBLE, HIDDEN, UNLABELLED = 2, 1, 0
"""COCO's visibility of a keypoint."""

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
"""Left, down, front in units of the head's half axes; the first five are COCO's, in COCO's order."""

_LANDMARKS = np.array(list(LANDMARKS.values()))

_NORMALS = np.array([[0.0, 0.0, 1.0], [0.36, 0.0, 0.93], [-0.36, 0.0, 0.93], [1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]])
# how far a normal must point at us for a keypoint to be seen, or else to be guessed by who labels
_SEEN_ABOVE = (-0.10, 0.10, 0.10, -0.14, -0.14)
_GUESSED_ABOVE = (-0.25, -0.10, -0.10, -0.14, -0.14)
_LONG_HAIR = np.array(
    [
        (1.1, 0.0, -0.3), (-1.1, 0.0, -0.3), (0.9, -0.6, -0.4), (-0.9, -0.6, -0.4),
        (1.05, 1.5, -0.55), (-1.05, 1.5, -0.55), (0.8, 1.7, -0.95), (-0.8, 1.7, -0.95),
    ]
)  # fmt: skip

HAIRLINES: tuple[tuple[float, float], ...] = ((0.62, 0.0), (0.75, 0.10), (0.80, 0.22), (0.95, 0.35), (0.90, 2.0))
"""Tilt backwards in radians and height of the plane that parts hair from face; the last one is bald."""


@functools.lru_cache(maxsize=2 * len(HAIRLINES))
def _cap(tilt: float, height: float, skin: bool) -> Floats:
    """(N, 3) points of the unit sphere above (hair) or below (skin) a tilted plane, in the head's frame."""
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
    """A head in camera coordinates: px to the right, down and towards us.

    Attributes:
        polygons: outlines of skull and hair, of face or hair over them, of shown ears and nose, in drawing order.
        hair: outline of long hair, and hair_depth its depth; None if it is short.
        keypoints: (5, 2) px nose, eyes and ears, left before right.
        facing: of the same, VISIBLE, HIDDEN or UNLABELLED by the head's own turn.
        landmarks: px of LANDMARKS by name.
        hair_on_top: the second polygon is hair over a face; else it is a face over hair.
        gaze: how far the face looks at us, -1 (back of the head) to 1.
    """

    polygons: list[Floats]
    hair: Floats | None
    hair_depth: float
    keypoints: Floats
    facing: list[int]
    landmarks: dict[str, tuple[float, float]]
    hair_on_top: bool
    gaze: float


def build_head(view: Floats, centre: Floats, size: float, hairline: int, long_hair: bool) -> Head:
    """Project a head.

    Args:
        view: (3, 3) rows: the head's left, down and front in camera coordinates, as long as the person is tall.
        centre: (3,) px.
        size: factor of the usual size.
        hairline: index into HAIRLINES.
        long_hair: covers the ears.
    """
    axes = view * (_HALF_AXES * size)  # (3, 3) rows: half axes in px
    marks = _LANDMARKS @ axes + centre
    length = math.sqrt(float(view[2] @ view[2]))
    facing = _facing(view[:, 2] / length, long_hair)
    tilt, height = HAIRLINES[hairline]
    hair_on_top = float(axes[1, 2]) * math.cos(tilt) + float(axes[2, 2]) * math.sin(tilt) < 0
    skin = _cap(tilt, height, True) @ axes + centre
    if height > 1:
        polygons = [hull(skin[:, :2])]
    else:
        hair = _cap(tilt, height, False) @ (1.09 * axes) + centre
        # of hair and face, the one turned to us is convex; it is drawn over the other, which fills the whole head
        top = hair if hair_on_top else skin
        nearer = top[:, 2] > float(centre[2]) - 0.006 * length
        polygons = [hull(np.concatenate([hair, skin])[:, :2]), hull(top[nearer, :2])]
    return Head(
        polygons=polygons + _features(axes[:, :2], marks[:, :2], facing, long_hair),
        hair=hull(_LONG_HAIR @ axes[:, :2] + centre[:2]) if long_hair else None,
        hair_depth=float(centre[2]) - 1.2 * float(axes[2, 2]),
        keypoints=marks[:5, :2],
        facing=facing,
        landmarks={name: (x, y) for name, (x, y, _) in zip(LANDMARKS, marks.tolist(), strict=True)},
        hair_on_top=hair_on_top,
        gaze=float(view[2, 2]) / length,
    )


def _features(axes: Floats, marks: Floats, facing: list[int], long_hair: bool) -> list[Floats]:
    """Outlines of the ears and the nose, where they show."""
    left, down, front = axes
    cos, sin = circle()
    out = []
    for ear in (3, 4):
        if facing[ear] == VISIBLE and not long_hair:
            out.append(marks[ear] + 0.30 * sin[::2, None] * down + cos[::2, None] * (0.10 * left + 0.24 * front))
    if facing[0] == VISIBLE:
        nose, side = marks[0] + 0.05 * down, 0.16 * left
        out.append(np.stack([marks[6], nose + side, marks[0] + 0.10 * front, nose - side]))
    return out


def _facing(towards_us: Floats, long_hair: bool) -> list[int]:
    """Whether nose, eyes and ears are turned to us, from the depths of the head's left, down and front axes."""
    out = [
        VISIBLE if t > seen else HIDDEN if t > guessed else UNLABELLED
        for t, seen, guessed in zip((_NORMALS @ towards_us).tolist(), _SEEN_ABOVE, _GUESSED_ABOVE, strict=True)
    ]
    if long_hair:
        out[3:] = [min(v, HIDDEN) for v in out[3:]]
    return out
