"""Convex polygons, from which every figure and object is drawn."""

from __future__ import annotations

import functools

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.synthetic.geometry.poses import Floats

RING_POINTS = 12

SUBPIXEL_BITS = 4
SUBPIXELS = 1 << SUBPIXEL_BITS
"""OpenCV draws with sub-pixel precision: coordinates are integers in 1/16 px, with shift=4."""


@functools.lru_cache(maxsize=1)
def circle() -> Floats:
    """Return (2, RING_POINTS) cosines and sines around a circle."""
    angles = np.linspace(0.0, 2 * np.pi, RING_POINTS, endpoint=False)
    return np.stack([np.cos(angles), np.sin(angles)])


@functools.lru_cache(maxsize=1)
def _capsule_directions() -> tuple[Floats, Floats]:
    """Return cosines and sines, (14,) each, of the outline of a capsule: around its far end, then its near end."""
    far = np.linspace(-np.pi / 2, np.pi / 2, 6)
    angles = np.concatenate([far, [np.pi / 2], far + np.pi, [-np.pi / 2]])
    return np.cos(angles), np.sin(angles)


def capsules(ends: Floats, radii: Floats, bulge: Floats | float = 0.0) -> Floats:
    """Return the outlines of tapered limbs.

    Args:
        ends: (N, 2, 2) positions of the two ends in px.
        radii: (N, 2) radii at the ends in px.
        bulge: (N,) px by which the middle is thicker than the mean of the radii.

    Returns:
        (N, 14, 2) convex polygons.
    """
    along = ends[:, 1] - ends[:, 0]
    unit = along / (np.sqrt((along * along).sum(axis=1, keepdims=True)) + 1e-6)
    cos, sin = _capsule_directions()
    reach = np.empty((len(ends), 14))
    reach[:, :6], reach[:, 7:13] = radii[:, 1:], radii[:, :1]
    reach[:, 6::7] = (0.5 * (radii[:, 0] + radii[:, 1]) + bulge)[:, None]
    out = np.empty((len(ends), 14, 2))
    out[:, :6], out[:, 7:13] = ends[:, None, 1], ends[:, None, 0]
    out[:, 6::7] = (ends[:, 0] + 0.4 * along)[:, None]
    forth, aside = reach * cos, reach * sin
    out[..., 0] += forth * unit[:, :1] - aside * unit[:, 1:]
    out[..., 1] += forth * unit[:, 1:] + aside * unit[:, :1]
    return out


def hull(points: Floats) -> Floats:
    """Return the convex hull (M, 2) of (N, 2) points."""
    corners: Floats = cv2.convexHull(points.astype(np.float32))[:, 0]
    return corners


def to_fixed_point(points: Floats) -> NDArray[np.int32]:
    """Convert coordinates in px to the integers that OpenCV expects with shift=SUBPIXEL_BITS."""
    fixed: NDArray[np.int32] = np.rint(points * SUBPIXELS).astype(np.int32)
    return fixed
