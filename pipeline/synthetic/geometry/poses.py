"""Poses of the synthetic people: joint angles, body proportions and three-dimensional joint positions.

Body frame: X to the person's own left, Y down, Z to the person's front. The unit is the standing height, and the
origin is midway between the hips. Segment lengths are the anthropometric fractions of the standing height by Drillis
and Contini (1966); the head is a little larger, so that faces are recognisable in small images.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SHOULDER, ELBOW, WRIST, HAND_TIP, HIP, KNEE, ANKLE, HEEL, TOE = range(9)
"""Indices into the second axis of `Skeleton.sides`."""

LEFT, RIGHT = 0, 1
"""Indices into the first axis of `Skeleton.sides`."""

POSE_KINDS: tuple[tuple[str, float], ...] = (
    ("standing", 0.42),
    ("walking", 0.24),
    ("running", 0.06),
    ("sitting", 0.14),
    ("bending", 0.04),
    ("crouching", 0.03),
    ("striding", 0.07),
)
"""(name, weight) of each kind of pose."""

_SIDE_SIGN = np.array([1.0, -1.0])  # sign of X on the left and on the right
_SEGMENT_LENGTHS = np.array([[0.175], [0.150], [0.240], [0.235]])  # upper arm, forearm, thigh, shank
_HAND_LENGTH = 0.075
_UP_TO_DOWN = np.array([1.0, -1.0, 1.0])  # converts the axes (left, up, front) to (left, down, front)
TORSO_LENGTH = 0.30


@dataclass(frozen=True)
class Pose:
    """Joint angles and viewing direction, in radians.

    Attributes:
        kind: one of POSE_KINDS.
        yaw: 0 faces the camera, pi/2 the right edge of the image, pi away from the camera.
        pitch: downward tilt of the camera.
        roll: rotation in the image plane.
        bend: forward bend of the torso.
        lean: lean of the torso to the person's left.
        head: (3,) yaw, pitch (down is positive) and roll of the head relative to the torso.
        limbs: (2 sides, 4 segments, 2) angles of upper arm, forearm, thigh and shank: swing (forwards from hanging
            down) and spread (away from the body).
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
class Proportions:
    """Body proportions.

    Attributes:
        shoulders, hips: half widths as fractions of the standing height.
        girth, head, limbs: factors of the usual girth, head size and limb length.
    """

    shoulders: float
    hips: float
    girth: float
    head: float
    limbs: float


@dataclass(frozen=True)
class Skeleton:
    """Joints in the body frame.

    Attributes:
        sides: (2, 9, 3) positions of the left and right joints SHOULDER … TOE.
        torso: (3, 3) columns: unit vectors to the torso's left, up and front.
        neck: (3,) base of the neck.
        head: (3,) centre of the head.
        head_axes: (3, 3) columns: unit vectors to the head's left, down and front.
    """

    sides: Floats
    torso: Floats
    neck: Floats
    head: Floats
    head_axes: Floats


def sample_proportions(rng: np.random.Generator) -> Proportions:
    """Sample body proportions."""
    u = rng.random(5).tolist()
    return Proportions(
        shoulders=0.098 + 0.026 * u[0],
        hips=0.052 + 0.014 * u[1],
        girth=0.88 + 0.38 * u[2],
        head=1.18 + 0.27 * u[3],
        limbs=0.95 + 0.10 * u[4],
    )


def _choose_kind(u: float) -> str:
    """Return the kind of pose for a uniform random number, by the weights in POSE_KINDS."""
    remaining = u * sum(weight for _, weight in POSE_KINDS)
    for name, weight in POSE_KINDS:
        remaining -= weight
        if remaining < 0:
            return name
    return POSE_KINDS[-1][0]


def _sample_yaw(rng: np.random.Generator) -> float:
    u, v = rng.random(2).tolist()
    if u < 0.76:
        return float(rng.normal(0.0, 0.35))
    if u < 0.91:
        return math.pi + float(rng.normal(0.0, 0.35))
    return float(2 * math.pi * v)


def _leg_angles(
    kind: str, ahead: float, both: list[float], own: list[float], sway: float
) -> tuple[float, float, float, float]:
    """Return swing and spread of a thigh, then of its shank.

    Args:
        kind: one of POSE_KINDS.
        ahead: 1 for the forward leg of a stride, -1 for the other.
        both: four uniform random numbers shared by both legs.
        own: four uniform random numbers of this leg.
        sway: normal random number of this leg.
    """
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
    # `flex` is not negative: a knee bends only backwards
    return swing, spread, swing - flex, spread * (0.2 + 0.6 * d)


def _sample_leg_angles(kind: str, rng: np.random.Generator) -> list[tuple[float, float, float, float]]:
    """Sample the angles of both legs, as `_leg_angles` returns them."""
    left, right, both = rng.random((3, 4)).tolist()
    sway = rng.normal(0.0, 1.0, 2).tolist()
    ahead = 1.0 if both[3] < 0.5 else -1.0
    return [_leg_angles(kind, ahead, both, left, sway[0]), _leg_angles(kind, -ahead, both, right, sway[1])]


def _arm_angles(kind: str, thigh: float, u: list[float], choice: float) -> tuple[float, float, float, float]:
    """Return swing and spread of an upper arm, then of its forearm.

    Args:
        kind: one of POSE_KINDS.
        thigh: swing of the thigh of the same side.
        u: five uniform random numbers.
        choice: uniform random number that selects the gesture.
    """
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


def _sample_limb_angles(kind: str, rng: np.random.Generator) -> Floats:
    legs = _sample_leg_angles(kind, rng)
    u = rng.random((2, 5)).tolist()
    same_gesture = rng.random() < 0.55
    rows = []
    for side in (LEFT, RIGHT):
        choice = u[LEFT if same_gesture else side][4]
        rows.append(_arm_angles(kind, legs[side][0], u[side], choice) + legs[side])
    return np.array(rows).reshape(2, 4, 2)


def sample_pose(rng: np.random.Generator) -> Pose:
    """Sample a pose and a viewing direction."""
    kind = _choose_kind(float(rng.random()))
    limbs = _sample_limb_angles(kind, rng)
    n = rng.normal(0.0, 1.0, 7).tolist()
    u = rng.random(2).tolist()
    bend = {"bending": 0.6 + 0.8 * u[0], "crouching": 0.2 + 0.5 * u[0], "running": 0.15 + 0.25 * u[0]}.get(
        kind, 0.03 + 0.07 * n[0]
    )
    return Pose(
        kind=kind,
        yaw=_sample_yaw(rng),
        pitch=0.08 + 0.10 * n[1],
        roll=0.06 * n[2] if u[1] < 0.97 else 0.30 * n[2],
        bend=bend,
        lean=0.07 * n[3],
        head=(0.35 * n[4], 0.05 + 0.14 * n[5] - 0.4 * max(bend - 0.4, 0.0), 0.10 * n[6]),
        limbs=limbs,
    )


def _directions(angles: Floats) -> Floats:
    """Convert (2, ..., 2) swing and spread to (2, ..., 3) unit vectors; the first axis is the side of the body."""
    sin, cos = np.sin(angles), np.cos(angles)
    out = np.empty((*angles.shape[:-1], 3))
    out[..., 0] = sin[..., 1] * _SIDE_SIGN[:, None]
    out[..., 1] = cos[..., 0] * cos[..., 1]
    out[..., 2] = sin[..., 0] * cos[..., 1]
    return out


def rotation_matrix(yaw: float, pitch: float) -> Floats:
    """Return the (3, 3) rotation from the body frame to camera coordinates: right, down, towards the camera."""
    c, s, cp, sp = math.cos(yaw), math.sin(yaw), math.cos(pitch), math.sin(pitch)
    return np.array([[c, 0.0, s], [-s * sp, cp, c * sp], [-s * cp, -sp, c * cp]])


def _roll_matrix(angle: float) -> Floats:
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def camera_matrix(pose: Pose) -> Floats:
    """Return the (3, 3) rotation from the body frame to camera coordinates, including the roll of the pose."""
    view: Floats = _roll_matrix(pose.roll) @ rotation_matrix(pose.yaw, pose.pitch)
    return view


def _head_axes(pose: Pose, torso: Floats) -> Floats:
    yaw, nod, roll = pose.head
    # Euler angles in the order roll, pitch (positive is down), yaw
    cy, sy, cn, sn = math.cos(yaw), math.sin(yaw), math.cos(nod), math.sin(nod)
    cr, sr = math.cos(roll), math.sin(roll)
    turned = np.array(
        [
            [cy * cr - sy * sn * sr, -cy * sr - sy * sn * cr, sy * cn],
            [cn * sr, cn * cr, sn],
            [-sy * cr - cy * sn * sr, sy * sr - cy * sn * cr, cy * cn],
        ]
    )
    axes: Floats = (torso * _UP_TO_DOWN) @ turned
    return axes


def pose_skeleton(pose: Pose, proportions: Proportions) -> Skeleton:
    """Compute the joints of a body in the body frame."""
    cb, sb, cl, sl = math.cos(pose.bend), math.sin(pose.bend), math.cos(pose.lean), math.sin(pose.lean)
    torso = np.array([[cl, sl, 0.0], [sl * cb, -cl * cb, sb], [-sl * sb, cl * sb, cb]])
    neck = torso[:, 1] * TORSO_LENGTH
    sides = np.empty((2, 9, 3))
    sides[:, SHOULDER] = neck - 0.018 * torso[:, 1] + (_SIDE_SIGN * proportions.shoulders)[:, None] * torso[:, 0]
    sides[:, HIP] = 0.0
    sides[:, HIP, 0] = _SIDE_SIGN * proportions.hips
    unit = _directions(pose.limbs)
    segments = unit * (_SEGMENT_LENGTHS * proportions.limbs)
    np.add(sides[:, SHOULDER], segments[:, 0], out=sides[:, ELBOW])
    np.add(sides[:, ELBOW], segments[:, 1], out=sides[:, WRIST])
    np.add(sides[:, WRIST], _HAND_LENGTH * unit[:, 1], out=sides[:, HAND_TIP])
    np.add(sides[:, HIP], segments[:, 2], out=sides[:, KNEE])
    np.add(sides[:, KNEE], segments[:, 3], out=sides[:, ANKLE])
    # the foot is at a right angle to the shank and points forwards and a little outwards
    down, ahead = unit[:, 3], np.empty((2, 3))
    ahead[:, 0], ahead[:, 1], ahead[:, 2] = 0.25 * _SIDE_SIGN, -down[:, 2], down[:, 1]
    ahead /= np.sqrt((ahead * ahead).sum(axis=1, keepdims=True))
    sides[:, HEEL] = sides[:, ANKLE] + 0.026 * down - 0.018 * ahead
    sides[:, TOE] = sides[:, ANKLE] + 0.030 * down + 0.095 * ahead
    axes = _head_axes(pose, torso)
    head = neck + 0.020 * torso[:, 1] - 0.068 * proportions.head * axes[:, 1] + 0.012 * torso[:, 2]
    return Skeleton(sides=sides, torso=torso, neck=neck, head=head, head_axes=axes)
