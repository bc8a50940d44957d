"""Skeletons drawn on pictures, for eyes.

Warm colours are the person's left side, cold ones the right, green the middle; further out from the trunk, the hue
moves on. Widths follow each person's own size, so that small people stay readable among large ones.

OpenCV is imported inside, so that `--help` stays quick.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from evaluation.decoder.person import Person
from pipeline.skeleton import KEYPOINT_INDEX, KEYPOINTS, LIMBS

Colour = tuple[int, int, int]

SHIFT = 4
"""OpenCV draws at 1 / 2^SHIFT px: keypoints are not rounded to whole pixels."""

HUES: dict[str, float] = {
    "nose": 0.36,
    "neck": 0.40,
    "left_eye": 0.30,
    "left_ear": 0.26,
    "left_shoulder": 0.02,
    "left_elbow": 0.05,
    "left_wrist": 0.09,
    "left_hip": 0.12,
    "left_knee": 0.145,
    "left_ankle": 0.17,
    "right_eye": 0.44,
    "right_ear": 0.48,
    "right_shoulder": 0.76,
    "right_elbow": 0.71,
    "right_wrist": 0.66,
    "right_hip": 0.62,
    "right_knee": 0.575,
    "right_ankle": 0.53,
}
"""Hue, 0..1 on the HSV wheel, of each keypoint; a limb has that of its outer end."""

HIDDEN_LIMBS: frozenset[tuple[str, str]] = frozenset({("right_shoulder", "right_ear"), ("left_shoulder", "left_ear")})
"""Limbs that help the assembly and would only clutter a picture."""


def _colour(name: str) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb(HUES[name], 0.82, 1.0)
    return round(255 * blue), round(255 * green), round(255 * red)


KEYPOINT_COLOURS: dict[str, Colour] = {name: _colour(name) for name in KEYPOINTS}
"""BGR of each keypoint."""

LIMB_COLOURS: dict[tuple[str, str], Colour] = {limb: KEYPOINT_COLOURS[limb[1]] for limb in LIMBS}
"""BGR of each limb."""


def draw_people(image: NDArray[np.uint8], people: Sequence[Person], *, opacity: float = 0.85) -> NDArray[np.uint8]:
    """A copy of the picture with the people's skeletons on it, the surest person on top.

    Args:
        image: (H, W, 3) uint8 BGR.
        people: people with coordinates in pixels of this picture; keypoints outside of it are cut off at its edge.
        opacity: 0..1 of the drawing.

    Returns:
        (H, W, 3) uint8 BGR.
    """
    import cv2

    canvas = np.array(image, dtype=np.uint8, copy=True, order="C")
    for person in sorted(people, key=lambda one: one.score):
        _draw_skeleton(canvas, person)
    return np.asarray(cv2.addWeighted(canvas, opacity, image, 1 - opacity, 0), dtype=np.uint8)


def draw_comparison(
    image: NDArray[np.uint8], people: Sequence[Person], truth: NDArray[np.float32], *, gap: int = 6
) -> NDArray[np.uint8]:
    """The truth and what was found, side by side: truth left, found right.

    Args:
        image: (H, W, 3) uint8 BGR.
        people: people found.
        truth: (P, 18, 3) annotated x, y in px and visibility, OpenPose-18 order.
        gap: px of white between the two.

    Returns:
        (H, 2 W + gap, 3) uint8 BGR.
    """
    annotated = [Person(keypoints, 1.0) for keypoints in np.asarray(truth, dtype=np.float32)]
    between = np.full((image.shape[0], gap, 3), 255, dtype=np.uint8)
    return np.hstack([draw_people(image, annotated), between, draw_people(image, people)])


def _draw_skeleton(canvas: NDArray[np.uint8], person: Person) -> None:
    """Draw one person in place: dark casing first, so that colours stand out on any ground, then limbs, then joints."""
    import cv2

    keypoints = person.keypoints
    lines = [
        (_fixed(keypoints[KEYPOINT_INDEX[a]]), _fixed(keypoints[KEYPOINT_INDEX[b]]), LIMB_COLOURS[a, b])
        for a, b in LIMBS
        if keypoints[KEYPOINT_INDEX[a], 2] > 0 and keypoints[KEYPOINT_INDEX[b], 2] > 0 and (a, b) not in HIDDEN_LIMBS
    ]
    width = _line_width(keypoints, canvas.shape, alone=not lines)
    dots = [(_fixed(keypoints[i]), KEYPOINT_COLOURS[name]) for name, i in KEYPOINT_INDEX.items() if keypoints[i, 2] > 0]
    casing = width + max(2, round(0.5 * width))
    for start, end, _ in lines:
        cv2.line(canvas, start, end, (24, 20, 20), casing, cv2.LINE_AA, SHIFT)
    for start, end, colour in lines:
        cv2.line(canvas, start, end, colour, width, cv2.LINE_AA, SHIFT)
    radius = round((0.62 * width + 1) * 2**SHIFT)
    for centre, colour in dots:
        cv2.circle(canvas, centre, radius + (1 << SHIFT), (24, 20, 20), cv2.FILLED, cv2.LINE_AA, SHIFT)
        cv2.circle(canvas, centre, radius, colour, cv2.FILLED, cv2.LINE_AA, SHIFT)


def _line_width(keypoints: NDArray[np.float32], shape: tuple[int, ...], *, alone: bool) -> int:
    """Px: a fraction of the person's extent, within bounds that the picture's size sets.

    Keypoints that no line joins to another say nothing of the person's size, and as small dots they would be lost.
    """
    found = keypoints[keypoints[:, 2] > 0, :2]
    extent = float(np.hypot(*np.ptp(found, axis=0))) if len(found) else 0.0
    largest = max(1.0, max(shape[:2]) / 90)
    return max(1, round(largest if alone else min(extent / 45, largest)))


def _fixed(point: NDArray[np.float32]) -> tuple[int, int]:
    """x, y in OpenCV's fixed point, bounded so that coordinates far outside cannot overflow it."""
    x, y = np.clip(np.nan_to_num(point[:2].astype(float)), -8192, 8192)
    return round(x * 2**SHIFT), round(y * 2**SHIFT)
