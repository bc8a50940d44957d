"""Drawing of skeletons on images.

Warm colours mark the person's left side, cold colours the right side, green the middle; the hue changes from the trunk
outwards. Line widths are proportional to the size of each person, so that small people stay readable beside large ones.

OpenCV is imported inside functions, so that `--help` is fast.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from evaluation.decoder.person import Person
from pipeline.skeleton import KEYPOINT_INDEX, KEYPOINTS, LIMBS

Colour = tuple[int, int, int]

OUTLINE_COLOUR: Colour = (24, 20, 20)
"""BGR colour of the outlines of limbs and keypoints."""

FRACTION_BITS = 4
"""Fractional bits of OpenCV's drawing coordinates: keypoints are drawn with a precision of 1/16 px."""

_ANGLES = np.arange(24) * (2 * np.pi / 24)
_CIRCLE = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)

KEYPOINT_HUES: dict[str, float] = {
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
"""HSV hue, 0..1, of each keypoint. A limb has the hue of its outer end."""

HIDDEN_LIMBS: frozenset[tuple[str, str]] = frozenset({("right_shoulder", "right_ear"), ("left_shoulder", "left_ear")})
"""Limbs that the decoder uses but that are not drawn, because they would clutter the image."""


def _colour(name: str) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb(KEYPOINT_HUES[name], 0.82, 1.0)
    return round(255 * blue), round(255 * green), round(255 * red)


KEYPOINT_COLOURS: dict[str, Colour] = {name: _colour(name) for name in KEYPOINTS}
"""BGR colour of each keypoint."""

LIMB_COLOURS: dict[tuple[str, str], Colour] = {limb: KEYPOINT_COLOURS[limb[1]] for limb in LIMBS}
"""BGR colour of each limb."""


def draw_people(image: NDArray[np.uint8], people: Sequence[Person], *, opacity: float = 0.85) -> NDArray[np.uint8]:
    """Return a copy of the image with the people's skeletons, the person with the highest score on top.

    Args:
        image: (H, W, 3) uint8 BGR.
        people: people with coordinates in pixels of the image; parts outside the image are clipped.
        opacity: opacity of the skeletons, 0..1.

    Returns:
        (H, W, 3) uint8 BGR.
    """
    import cv2

    canvas = np.array(image, dtype=np.uint8, copy=True, order="C")
    for person in sorted(people, key=lambda person: person.score):
        _draw_skeleton(canvas, person)
    return np.asarray(cv2.addWeighted(canvas, opacity, image, 1 - opacity, 0), dtype=np.uint8)


def draw_comparison(
    image: NDArray[np.uint8], people: Sequence[Person], truth: NDArray[np.float32], *, gap: int = 6
) -> NDArray[np.uint8]:
    """Draw the ground truth (left) and the detections (right) side by side.

    Args:
        image: (H, W, 3) uint8 BGR.
        people: detected people.
        truth: (P, 18, 3) annotated x, y in px and visibility, OpenPose-18 order.
        gap: width in px of the white strip between the two images.

    Returns:
        (H, 2 W + gap, 3) uint8 BGR.
    """
    annotated = [Person(keypoints, 1.0) for keypoints in np.asarray(truth, dtype=np.float32)]
    strip = np.full((image.shape[0], gap, 3), 255, dtype=np.uint8)
    return np.hstack([draw_people(image, annotated), strip, draw_people(image, people)])


def _draw_skeleton(canvas: NDArray[np.uint8], person: Person) -> None:
    """Draw one person in place: first dark outlines, for contrast on any background, then limbs, then keypoints."""
    import cv2

    points = {
        name: _to_fixed_point(person.keypoints[i]) for name, i in KEYPOINT_INDEX.items() if person.keypoints[i, 2] > 0
    }
    limbs = [(a, b) for a, b in LIMBS if a in points and b in points and (a, b) not in HIDDEN_LIMBS]
    width = _line_width(person.keypoints, canvas.shape, no_limbs=not limbs)
    outline_width = width + max(2, round(0.5 * width))
    for a, b in limbs:
        cv2.line(canvas, points[a], points[b], OUTLINE_COLOUR, outline_width, cv2.LINE_AA, FRACTION_BITS)
    for a, b in limbs:
        cv2.line(canvas, points[a], points[b], LIMB_COLOURS[a, b], width, cv2.LINE_AA, FRACTION_BITS)
    radius = 0.62 * width + 1
    for name, centre in points.items():
        _draw_disc(canvas, centre, radius + 1, OUTLINE_COLOUR)
        _draw_disc(canvas, centre, radius, KEYPOINT_COLOURS[name])


def _draw_disc(canvas: NDArray[np.uint8], centre: tuple[int, int], radius: float, colour: Colour) -> None:
    """Draw a disc in place. `cv2.circle` draws a small one as a diamond.

    Args:
        canvas: (H, W, 3) uint8 BGR.
        centre: x, y in OpenCV's fixed-point numbers.
        radius: px.
        colour: BGR.
    """
    import cv2

    outline = np.rint(np.array(centre) + radius * 2**FRACTION_BITS * _CIRCLE).astype(np.int32)
    cv2.fillConvexPoly(canvas, outline, colour, cv2.LINE_AA, FRACTION_BITS)


def _line_width(keypoints: NDArray[np.float32], shape: tuple[int, ...], *, no_limbs: bool) -> int:
    """Return the line width in px: a fraction of the person's extent, at most a fraction of the image size.

    A person without limbs gets the maximum, because its extent is unknown and small dots would be invisible.
    """
    found = keypoints[keypoints[:, 2] > 0, :2]
    extent = float(np.hypot(*np.ptp(found, axis=0))) if len(found) else 0.0
    max_width = max(1.0, max(shape[:2]) / 90)
    return max(1, round(max_width if no_limbs else min(extent / 45, max_width)))


def _to_fixed_point(point: NDArray[np.float32]) -> tuple[int, int]:
    """Convert x, y to OpenCV's fixed-point numbers, clipped so that distant coordinates cannot overflow."""
    x, y = np.clip(np.nan_to_num(point[:2].astype(float)), -8192, 8192)
    return round(x * 2**FRACTION_BITS), round(y * 2**FRACTION_BITS)
