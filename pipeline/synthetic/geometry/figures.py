"""Figures: a posed body as a stack of convex polygons in image coordinates, with its 17 keypoints.

Image coordinates are in px, x to the right and y down. Pixel centres are at integer coordinates, as in OpenCV.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.synthetic.geometry import poses
from pipeline.synthetic.geometry.heads import HIDDEN, VISIBLE, Head, build_head
from pipeline.synthetic.geometry.polygons import RING_POINTS, capsules, circle, hull
from pipeline.synthetic.geometry.poses import Floats, Pose, Proportions, Skeleton

TORSO, PELVIS, NECK, HEAD, LONG_HAIR, SKIRT = 1, 2, 3, 4, 5, 6
UPPER_ARM, FOREARM, HAND, THIGH, SHANK, FOOT = 8, 10, 12, 14, 16, 18
"""Ids of body parts. For parts in pairs, this is the left one; the right one is this id plus one."""

NUM_PART_IDS = 32
"""All part ids are smaller than this."""

_JOINTS = (poses.SHOULDER, poses.ELBOW, poses.WRIST, poses.HIP, poses.KNEE, poses.ANKLE)
_LIMB_KINDS = (UPPER_ARM, FOREARM, HAND, THIGH, SHANK, FOOT)
_LIMB_ENDS = np.array(
    [
        (poses.SHOULDER, poses.ELBOW),
        (poses.ELBOW, poses.WRIST),
        (poses.WRIST, poses.HAND_TIP),
        (poses.HIP, poses.KNEE),
        (poses.KNEE, poses.ANKLE),
        (poses.HEEL, poses.TOE),
    ]
)
_RADII = np.repeat(
    [[0.031, 0.024], [0.025, 0.017], [0.019, 0.015], [0.050, 0.034], [0.035, 0.021], [0.022, 0.018]], 2, axis=0
)
_NECK_RADII = (0.034, 0.030)
_BULGE = np.append(np.repeat([0.001, 0.003, 0.003, 0.001, 0.005, 0.002], 2), 0.0)
_LIMB_DEPTH_BIAS = np.repeat([0.010, 0.015, 0.016, -0.030, -0.032, -0.020], 2)
# rings of the trunk: height as a fraction of the torso length, and half depth as a fraction of the standing height
_RING_HEIGHTS = np.array([-0.22, 0.02, 0.38, 0.74, 0.95, 1.03])
_RING_DEPTH = np.array([0.052, 0.058, 0.050, 0.060, 0.042, 0.030])


@dataclass(frozen=True)
class BodyShape:
    """Properties of a person that change the silhouette.

    Attributes:
        proportions: body proportions.
        thickness: factor by which clothes make the limbs thicker.
        skirt: length as a fraction of the distance from hip to ankle, 0 for no skirt.
        long_hair: True if the hair covers the ears.
        hairline: index into HAIRLINES, from a fringe to bald.
    """

    proportions: Proportions
    thickness: float
    skirt: float
    long_hair: bool
    hairline: int


@dataclass(frozen=True)
class Figure:
    """A person in image coordinates.

    Attributes:
        pose, shape: pose and body shape of the person.
        scale: standing height in px.
        points: (N, 2) vertices of all polygons in px.
        spans: (part id, start, stop) of each polygon in `points`, from far to near.
        keypoints: (17, 2) x, y in px, in COCO order.
        pose_visibility: (17,) VISIBLE, HIDDEN or UNLABELLED, considering only the person's own orientation.
        sides: (2, 9, 2) joints in px, indexed as `Skeleton.sides`.
        rings: (6, 12, 2) outlines of the trunk in px, from the seat to the neck.
        near: (12,) True for the ring points on the side of the camera.
        head: the head at the position where `build_figure` placed it.
        head_offset: (x, y) translation in px since then.
        front: orientation of the chest, from -1 (back to the camera) to 1 (chest to the camera).
        radii: (13, 2) radii in px at both ends of each limb: left and right limb of each kind, then the neck.
        axes: (13, 2, 2) end points of the same limbs in px.
    """

    pose: Pose
    shape: BodyShape
    scale: float
    points: Floats
    spans: list[tuple[int, int, int]]
    keypoints: Floats
    pose_visibility: list[int]
    sides: Floats
    rings: Floats
    near: NDArray[np.bool_]
    head: Head
    head_offset: tuple[float, float]
    front: float
    radii: Floats
    axes: Floats

    def translated(self, dx: float, dy: float) -> Figure:
        """Return the figure moved dx px to the right and dy px down."""
        shift = np.array([dx, dy])
        return replace(
            self,
            points=self.points + shift,
            keypoints=self.keypoints + shift,
            sides=self.sides + shift,
            rings=self.rings + shift,
            axes=self.axes + shift,
            head_offset=(self.head_offset[0] + dx, self.head_offset[1] + dy),
        )

    def landmark(self, name: str) -> Floats:
        """Return the (2,) position in px of one of heads.LANDMARKS."""
        return np.add(self.head.landmarks[name], self.head_offset)


def sample_body_shape(rng: np.random.Generator) -> BodyShape:
    """Sample a person's proportions, hair and clothes, as far as they change the silhouette."""
    u = rng.random(6).tolist()
    return BodyShape(
        proportions=poses.sample_proportions(rng),
        thickness=1.0 + 0.28 * u[0],
        skirt=0.22 + 0.45 * u[1] if u[2] < 0.16 else 0.0,
        long_hair=u[3] < 0.22,
        hairline=min(int(u[4] * 4.4), 4) if u[3] >= 0.22 else int(u[4] * 3),
    )


def _trunk_rings(skeleton: Skeleton, proportions: Proportions) -> Floats:
    """Return (6, 12, 3) rings around the torso in the body frame; the lowest ring does not bend with the torso."""
    g = proportions.girth
    width = np.array(
        [
            proportions.hips + 0.030 * g,
            proportions.hips + 0.034 * g,
            0.074 * g,
            0.088 * g,
            proportions.shoulders - 0.004,
            0.040,
        ]
    )
    cos, sin = circle()
    left, up, front = skeleton.torso.T
    rings: Floats = (_RING_HEIGHTS * poses.TORSO_LENGTH)[:, None, None] * up + (width[:, None] * cos)[..., None] * left
    rings = rings + ((_RING_DEPTH * g)[:, None] * sin)[..., None] * front
    rings[0] -= _RING_HEIGHTS[0] * poses.TORSO_LENGTH * (up - np.array([0.0, -1.0, 0.0]))
    return rings


def _stack_polygons(stack: list[tuple[float, int, Floats]]) -> tuple[Floats, list[tuple[int, int, int]]]:
    """Sort (depth, part id, polygon) from far to near; return the points and spans of a Figure."""
    stack.sort(key=lambda item: item[0])
    spans, start = [], 0
    for _, part, polygon in stack:
        spans.append((part, start, start + len(polygon)))
        start += len(polygon)
    return np.concatenate([polygon for _, _, polygon in stack]), spans


def _limb_geometry(sides: Floats, neck: Floats, head: Floats, shape: BodyShape, scale: float) -> tuple[Floats, Floats]:
    """Return (13, 2, 3) ends in camera coordinates and (13, 2) radii in px of all limbs and the neck."""
    ends = np.empty((13, 2, 3))
    ends[:12] = sides[:, _LIMB_ENDS].transpose(1, 0, 2, 3).reshape(12, 2, 3)
    ends[12, 0], ends[12, 1] = neck, 0.5 * (neck + head)
    radii = np.empty((13, 2))
    radii[:12] = _RADII * (shape.thickness * shape.proportions.girth) ** 0.5
    radii[12] = _NECK_RADII
    radii *= scale
    return ends, radii


def _trunk_visibility(joints: Floats, neck_depth: float, scale: float) -> list[int]:
    """Return HIDDEN for shoulders and hips on the far side of the trunk, else VISIBLE; joints (12, 3) in px."""
    out = [VISIBLE] * len(joints)
    for i, reference, limit in ((0, neck_depth, 0.072), (1, neck_depth, 0.072), (6, 0.0, 0.045), (7, 0.0, 0.045)):
        if float(joints[i, 2]) < reference - limit * scale:
            out[i] = HIDDEN
    return out


def build_figure(pose: Pose, shape: BodyShape, scale: float) -> Figure:
    """Project a posed body to polygons and keypoints, with the centre of the hips at (0, 0).

    Args:
        pose: joint angles and viewing direction.
        shape: proportions, hair and clothes.
        scale: standing height in px.
    """
    skeleton = poses.pose_skeleton(pose, shape.proportions)
    view = poses.camera_matrix(pose).T * scale  # row vectors @ view: px to the right, down and towards the camera
    sides = skeleton.sides @ view  # (2, 9, 3)
    trunk = _trunk_rings(skeleton, shape.proportions) @ view  # (6, 12, 3)
    neck, centre = skeleton.neck @ view, skeleton.head @ view
    head = build_head(skeleton.head_axes.T @ view, centre, shape.proportions.head, shape.hairline, shape.long_hair)
    ends, radii = _limb_geometry(sides, neck, centre, shape, scale)
    outlines = capsules(ends[..., :2], radii, _BULGE * scale)
    depths = (0.5 * (ends[:12, 0, 2] + ends[:12, 1, 2]) + _LIMB_DEPTH_BIAS * scale).tolist()

    stack = [(depth, _LIMB_KINDS[i // 2] + i % 2, outlines[i]) for i, depth in enumerate(depths)]
    trunk_depth, head_depth = 0.55 * float(neck[2]), float(centre[2])
    stack.append((min(trunk_depth, head_depth) - 0.004 * scale, NECK, outlines[12]))
    stack.append((trunk_depth, TORSO, hull(trunk[2:, :, :2].reshape(-1, 2))))
    stack.append((trunk_depth - 0.002 * scale, PELVIS, hull(trunk[:3, :, :2].reshape(-1, 2))))
    if shape.skirt:
        stack.append((max(*depths[6:10], 0.0) + 0.002 * scale, SKIRT, _skirt_outline(sides, trunk, shape)))
    stack += [(head_depth, HEAD, polygon) for polygon in head.polygons]
    if head.hair is not None:
        stack.append((head.hair_depth, LONG_HAIR, head.hair))
    points, spans = _stack_polygons(stack)

    joints = sides[:, _JOINTS].transpose(1, 0, 2).reshape(12, 3)
    return Figure(
        pose=pose,
        shape=shape,
        scale=scale,
        points=points,
        spans=spans,
        keypoints=np.concatenate([head.keypoints, joints[:, :2]]),
        pose_visibility=head.pose_visibility + _trunk_visibility(joints, float(neck[2]), scale),
        sides=sides[..., :2],
        rings=trunk[..., :2],
        near=trunk[3, :, 2] > trunk[3, :, 2].sum() / RING_POINTS,
        head=head,
        head_offset=(0.0, 0.0),
        front=float((skeleton.torso[:, 2] @ view)[2]) / scale,
        radii=radii,
        axes=ends[..., :2],
    )


def _skirt_outline(sides: Floats, trunk: Floats, shape: BodyShape) -> Floats:
    """Return the convex hull of the waist and of a flared hem around both legs."""
    if shape.skirt < 0.5:
        hem = sides[:, poses.HIP] + (shape.skirt / 0.5) * (sides[:, poses.KNEE] - sides[:, poses.HIP])
    else:
        hem = sides[:, poses.KNEE] + (2 * shape.skirt - 1) * (sides[:, poses.ANKLE] - sides[:, poses.KNEE])
    ring = trunk[1, :, :2] - trunk[1, :, :2].mean(axis=0)
    around = (hem[:, None, :2] + (0.55 + 0.5 * shape.skirt) * ring).reshape(-1, 2)
    return hull(np.concatenate([trunk[1:3, :, :2].reshape(-1, 2), around]))
