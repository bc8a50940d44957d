"""Outlines: the convex polygons of which everything is drawn."""

from __future__ import annotations

import functools

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.synthetic.geometry.poses import Floats

RING_POINTS = 12

SHIFT = 4
UNIT = 1 << SHIFT
"""OpenCV draws at fractions of a px, given coordinates in sixteenths and shift=4."""


@functools.lru_cache(maxsize=1)
def circle() -> Floats:
    """(2, RING_POINTS) cosines and sines around a circle."""
    angles = np.linspace(0.0, 2 * np.pi, RING_POINTS, endpoint=False)
    return np.stack([np.cos(angles), np.sin(angles)])


@functools.lru_cache(maxsize=1)
def _arcs() -> tuple[Floats, Floats]:
    """Cosines and sines, (14,) each, of a capsule's outline around its far end and then its near end."""
    far = np.linspace(-np.pi / 2, np.pi / 2, 6)
    angles = np.concatenate([far, [np.pi / 2], far + np.pi, [-np.pi / 2]])
    return np.cos(angles), np.sin(angles)


def capsules(ends: Floats, radii: Floats, bulge: Floats | float = 0.0) -> Floats:
    """Outlines of tapered limbs.

    Args:
        ends: (N, 2, 2) px of the two ends.
        radii: (N, 2) px at the ends.
        bulge: (N,) px that the middle is thicker than the mean.

    Returns:
        (N, 14, 2) convex polygons.
    """
    along = ends[:, 1] - ends[:, 0]
    unit = along / (np.sqrt((along * along).sum(axis=1, keepdims=True)) + 1e-6)
    cos, sin = _arcs()
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
    """Convex hull (M, 2) of (N, 2) points."""
    corners: Floats = cv2.convexHull(points.astype(np.float32))[:, 0]
    return corners


def fixed_point(points: Floats) -> NDArray[np.int32]:
    """Coordinates in px as OpenCV draws them with shift=SHIFT."""
    fixed: NDArray[np.int32] = np.rint(points * UNIT).astype(np.int32)
    return fixed
