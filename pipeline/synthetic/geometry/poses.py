"""Poses of the synthetic people: joint angles, body proportions and the three-dimensional joints that follow.

Body frame: X to the person's own left, Y down, Z to the person's front; the unit is the standing height, the origin
is the middle between the hips. Segment lengths follow the usual anthropometric fractions of the standing height
(Drillis and Contini, 1966), with the head enlarged a little so that faces can be read in small pictures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SHOULDER, ELBOW, WRIST, HAND_TIP, HIP, KNEE, ANKLE, HEEL, TOE = range(9)
"""Second index of `Skeleton.sides`."""

LEFT, RIGHT = 0, 1
"""First index of `Skeleton.sides`."""

POSE_KINDS: tuple[tuple[str, float], ...] = (
    ("standing", 0.42),
    ("walking", 0.24),
    ("running", 0.06),
    ("sitting", 0.14),
    ("bending", 0.04),
    ("crouching", 0.03),
    ("striding", 0.07),
)
"""What people do and how often, relative to the sum."""

_SIDE = np.array([1.0, -1.0])  # sign of X on the left and on the right
_SEGMENTS = np.array([[0.175], [0.150], [0.240], [0.235]])  # upper arm, forearm, thigh, shank
_HAND = 0.075
_UPSIDE = np.array([1.0, -1.0, 1.0])  # left, up, front to left, down, front
TORSO = 0.30


@dataclass(frozen=True)
class Pose:
    """Angles in radians.

    Attributes:
        kind: one of POSE_KINDS.
        yaw: 0 faces the camera, pi/2 faces the right edge of the picture, pi turns the back.
        pitch: how far the camera looks down.
        roll: turn in the picture plane.
        bend, lean: of the torso, forwards and to the person's left.
        head: (3,) yaw, pitch (down is positive) and roll of the head relative to the torso.
        limbs: (2 sides, 4 segments, 2) swing forwards from hanging down, and spread away from the body, of upper arm,
            forearm, thigh and shank.
    """

    kind: str
    yaw: float
    pitch: float
    roll: float
    bend: float
    lean: float
    head: tuple[float, float, float]
    limbs: Floats


@dataclass(frozen=True)
class Build:
    """Proportions, as fractions of the standing height; `girth` and `head` scale the usual values."""

    shoulders: float
    hips: float
    girth: float
    head: float
    limbs: float


@dataclass(frozen=True)
class Skeleton:
    """Joints in the body frame.

    Attributes:
        sides: (2, 9, 3) left and right SHOULDER … TOE.
        torso: (3, 3) columns: the torso's left, up and front.
        neck: (3,) base of the neck.
        head: (3,) centre of the head.
        head_axes: (3, 3) columns: the head's left, down and front.
    """

    sides: Floats
    torso: Floats
    neck: Floats
    head: Floats
    head_axes: Floats


def sample_build(rng: np.random.Generator) -> Build:
    """Draw proportions."""
    u = rng.random(5).tolist()
    return Build(
        shoulders=0.098 + 0.026 * u[0],
        hips=0.052 + 0.014 * u[1],
        girth=0.88 + 0.38 * u[2],
        head=1.18 + 0.27 * u[3],
        limbs=0.95 + 0.10 * u[4],
    )


def _pick(u: float, table: tuple[tuple[str, float], ...]) -> str:
    left = u * sum(weight for _, weight in table)
    for name, weight in table:
        left -= weight
        if left < 0:
            return name
    return table[-1][0]


def _yaw(rng: np.random.Generator) -> float:
    u, v = rng.random(2).tolist()
    if u < 0.76:
        return float(rng.normal(0.0, 0.35))
    if u < 0.91:
        return math.pi + float(rng.normal(0.0, 0.35))
    return float(2 * math.pi * v)


def _leg(
    kind: str, ahead: float, both: list[float], own: list[float], sway: float
) -> tuple[float, float, float, float]:
    """Swing and spread of a thigh, then of its shank; `ahead` is 1 or -1 in a stride."""
    a, b, c, d = own
    swing, flex, spread = 0.06 * sway, 0.12 * a, 0.02 + 0.12 * b
    if kind == "walking":
        swing += ahead * (0.25 + 0.30 * both[0])
        flex += (0.35 if ahead < 0 else 0.05) * (0.5 + c)
    elif kind == "running":
        swing += ahead * (0.5 + 0.45 * both[0]) + 0.15
        flex += (1.0 if ahead < 0 else 0.5) * (0.5 + c)
    elif kind == "striding":
        spread += 0.12 + 0.35 * c
        flex += 0.25 * a
    elif kind == "sitting":
        swing, flex, spread = 1.25 + 0.35 * c, 1.10 + 0.60 * a, 0.04 + 0.30 * b
    elif kind == "crouching":
        swing = 1.3 + 0.6 * c
        flex, spread = swing + 0.35 + 0.4 * a, 0.08 + 0.35 * b
    elif kind == "bending":
        swing += 0.35 * both[0] - 0.05
        flex += 0.5 * both[1]
    # a knee only bends backwards
    return swing, spread, swing - flex, spread * (0.2 + 0.6 * d)


def _leg_angles(kind: str, rng: np.random.Generator) -> list[tuple[float, float, float, float]]:
    """Both legs, as `_leg` gives them."""
    left, right, both = rng.random((3, 4)).tolist()
    sway = rng.normal(0.0, 1.0, 2).tolist()
    ahead = 1.0 if both[3] < 0.5 else -1.0
    return [_leg(kind, ahead, both, left, sway[0]), _leg(kind, -ahead, both, right, sway[1])]


def _arm(kind: str, thigh: float, u: list[float], choice: float) -> tuple[float, float, float, float]:
    """Swing and spread of an upper arm, then of its forearm: one of several gestures, or the swing of a step."""
    a, b, c, d, _ = u
    if kind in ("walking", "running") and choice < 0.7:
        swing = -0.8 * thigh + 0.1 * (a - 0.5)
        elbow = 0.25 + 0.5 * b if kind == "walking" else 1.2 + 0.6 * b
        arm = (swing, 0.10 + 0.15 * c, swing + elbow, 0.05 - 0.35 * d * (elbow > 1))
    elif choice < 0.36:  # hanging down
        arm = (0.3 * (a - 0.5), 0.08 + 0.28 * b, 0.1 + 0.5 * c, 0.02 + 0.22 * d)
    elif choice < 0.54:  # raised
        spread = 1.5 + 1.4 * a
        arm = (0.3 * (b - 0.3), spread, 0.5 * (c - 0.3), spread + 1.3 * d - 0.3)
    elif choice < 0.66:  # hand on the hip
        arm = (-0.35 + 0.3 * a, 0.60 + 0.30 * b, 0.30 * c, -0.75 - 0.35 * d)
    elif choice < 0.84:  # holding something in front
        arm = (0.15 + 0.5 * a, 0.10 + 0.3 * b, 1.1 + 0.9 * c, -0.15 - 0.5 * d)
    elif choice < 0.93:  # reaching forwards
        arm = (1.0 + 0.7 * a, 0.1 + 0.5 * b, 1.1 + 0.9 * c, 0.35 * (d - 0.5))
    else:  # out to the side
        arm = (0.3 * (a - 0.5), 0.9 + 0.6 * b, 0.3 * c, 0.9 + 1.3 * d)
    return arm


def _limb_angles(kind: str, rng: np.random.Generator) -> Floats:
    legs = _leg_angles(kind, rng)
    u = rng.random((2, 5)).tolist()
    alike = rng.random() < 0.55
    rows = []
    for side in (LEFT, RIGHT):
        choice = u[LEFT if alike else side][4]
        rows.append(_arm(kind, legs[side][0], u[side], choice) + legs[side])
    return np.array(rows).reshape(2, 4, 2)


def sample_pose(rng: np.random.Generator) -> Pose:
    """Draw what a person does and from where we look."""
    kind = _pick(float(rng.random()), POSE_KINDS)
    limbs = _limb_angles(kind, rng)
    n = rng.normal(0.0, 1.0, 7).tolist()
    u = rng.random(2).tolist()
    bend = {"bending": 0.6 + 0.8 * u[0], "crouching": 0.2 + 0.5 * u[0], "running": 0.15 + 0.25 * u[0]}.get(
        kind, 0.03 + 0.07 * n[0]
    )
    return Pose(
        kind=kind,
        yaw=_yaw(rng),
        pitch=0.08 + 0.10 * n[1],
        roll=0.06 * n[2] if u[1] < 0.97 else 0.30 * n[2],
        bend=bend,
        lean=0.07 * n[3],
        head=(0.35 * n[4], 0.05 + 0.14 * n[5] - 0.4 * max(bend - 0.4, 0.0), 0.10 * n[6]),
        limbs=limbs,
    )


def _directions(angles: Floats) -> Floats:
    """Unit vectors (..., 3) of segments from (..., 2) swing and spread; the first axis is the side."""
    sin, cos = np.sin(angles), np.cos(angles)
    out = np.empty((*angles.shape[:-1], 3))
    out[..., 0] = sin[..., 1] * _SIDE[:, None]
    out[..., 1] = cos[..., 0] * cos[..., 1]
    out[..., 2] = sin[..., 0] * cos[..., 1]
    return out


def turn(yaw: float, pitch: float) -> Floats:
    """(3, 3) matrix that turns body coordinates into camera coordinates: right, down, towards the camera."""
    c, s, cp, sp = math.cos(yaw), math.sin(yaw), math.cos(pitch), math.sin(pitch)
    return np.array([[c, 0.0, s], [-s * sp, cp, c * sp], [-s * cp, -sp, c * cp]])


def _roll(angle: float) -> Floats:
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def camera(pose: Pose) -> Floats:
    """(3, 3) body frame to picture: right, down, towards the camera."""
    view: Floats = _roll(pose.roll) @ turn(pose.yaw, pose.pitch)
    return view


def _head_axes(pose: Pose, torso: Floats) -> Floats:
    yaw, nod, roll = pose.head
    # Euler angles: the head tilts, then nods (positive is down), then turns
    cy, sy, cn, sn = math.cos(yaw), math.sin(yaw), math.cos(nod), math.sin(nod)
    cr, sr = math.cos(roll), math.sin(roll)
    turned = np.array(
        [
            [cy * cr - sy * sn * sr, -cy * sr - sy * sn * cr, sy * cn],
            [cn * sr, cn * cr, sn],
            [-sy * cr - cy * sn * sr, sy * sr - cy * sn * cr, cy * cn],
        ]
    )
    axes: Floats = (torso * _UPSIDE) @ turned
    return axes


def pose_skeleton(pose: Pose, build: Build) -> Skeleton:
    """Joints of a body in a pose, in the body frame."""
    cb, sb, cl, sl = math.cos(pose.bend), math.sin(pose.bend), math.cos(pose.lean), math.sin(pose.lean)
    torso = np.array([[cl, sl, 0.0], [sl * cb, -cl * cb, sb], [-sl * sb, cl * sb, cb]])
    neck = torso[:, 1] * TORSO
    sides = np.empty((2, 9, 3))
    sides[:, SHOULDER] = neck - 0.018 * torso[:, 1] + (_SIDE * build.shoulders)[:, None] * torso[:, 0]
    sides[:, HIP] = 0.0
    sides[:, HIP, 0] = _SIDE * build.hips
    unit = _directions(pose.limbs)
    segments = unit * (_SEGMENTS * build.limbs)
    np.add(sides[:, SHOULDER], segments[:, 0], out=sides[:, ELBOW])
    np.add(sides[:, ELBOW], segments[:, 1], out=sides[:, WRIST])
    np.add(sides[:, WRIST], _HAND * unit[:, 1], out=sides[:, HAND_TIP])
    np.add(sides[:, HIP], segments[:, 2], out=sides[:, KNEE])
    np.add(sides[:, KNEE], segments[:, 3], out=sides[:, ANKLE])
    # the foot stands at a right angle to the shank, its toes forwards and a little outwards
    down, ahead = unit[:, 3], np.empty((2, 3))
    ahead[:, 0], ahead[:, 1], ahead[:, 2] = 0.25 * _SIDE, -down[:, 2], down[:, 1]
    ahead /= np.sqrt((ahead * ahead).sum(axis=1, keepdims=True))
    sides[:, HEEL] = sides[:, ANKLE] + 0.026 * down - 0.018 * ahead
    sides[:, TOE] = sides[:, ANKLE] + 0.030 * down + 0.095 * ahead
    axes = _head_axes(pose, torso)
    head = neck + 0.020 * torso[:, 1] - 0.068 * build.head * axes[:, 1] + 0.012 * torso[:, 2]
    return Skeleton(sides=sides, torso=torso, neck=neck, head=head, head_axes=axes)
