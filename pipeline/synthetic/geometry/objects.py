"""Objects: boxes, poles, plants, tables, stools, balls and crowds, as stacks of coloured polygons."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pipeline.synthetic.geometry.poses import Floats

Colour = tuple[float, float, float]


@dataclass(frozen=True)
class SceneObject:
    """An object, or a crowd of people too small to annotate one by one.

    Attributes:
        kind: name of the object, such as "box"; "crowd" for a crowd.
        points: (N, 2) vertices of all convex polygons in px.
        spans: (0, start, stop) of each polygon in `points`, in drawing order; see `Figure.spans`.
        colours: BGR colour of each polygon.
    """

    kind: str
    points: Floats
    spans: list[tuple[int, int, int]]
    colours: list[Colour]


def sample_colour(rng: np.random.Generator) -> Colour:
    """Sample a BGR colour; low saturations are more frequent."""
    value, saturation, hue = rng.random(3).tolist()
    value, saturation = 40 + 200 * value, 0.95 * saturation**2
    wheel = [max(0.0, min(1.0, abs((6 * hue + shift) % 6 - 3) - 1)) for shift in (2.0, 4.0, 0.0)]
    b, g, r = (value * (1 - saturation + saturation * w) for w in wheel)
    return b, g, r


def shade(colour: Colour, factor: float) -> Colour:
    """Return a darker (factor < 1) or lighter colour, clipped to 255."""
    b, g, r = colour
    return min(b * factor, 255.0), min(g * factor, 255.0), min(r * factor, 255.0)


def create_object(kind: str, polygons: list[tuple[Floats, Colour]]) -> SceneObject:
    """Create an object from (polygon, colour) pairs in drawing order."""
    spans, start = [], 0
    for polygon, _ in polygons:
        spans.append((0, start, start + len(polygon)))
        start += len(polygon)
    return SceneObject(kind, np.concatenate([p for p, _ in polygons]), spans, [c for _, c in polygons])


def _quad(x0: float, y0: float, x1: float, y1: float, skew: float = 0.0) -> Floats:
    return np.array([[x0 + skew, y0], [x1 + skew, y0], [x1, y1], [x0, y1]])


@functools.lru_cache(maxsize=4)
def _circle(corners: int) -> Floats:
    angles = np.linspace(0.0, 2 * math.pi, corners, endpoint=False)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _oval(x: float, y: float, rx: float, ry: float, *, tilt: float = 0.0, corners: int = 14) -> Floats:
    c, s = math.cos(tilt), math.sin(tilt)
    turned: Floats = _circle(corners) @ np.array([[rx * c, rx * s], [-ry * s, ry * c]]) + (x, y)
    return turned


def box(rng: np.random.Generator, x: float, y: float, size: float) -> SceneObject:
    """Sample a box about `size` px wide; (x, y) is the bottom centre of its front.

    The other functions of OBJECT_FACTORIES take the same arguments.
    """
    a, b, c = rng.random(3).tolist()
    half, height, deep = 0.5 * size, size * (0.5 + 0.8 * a), size * (0.1 + 0.25 * b)
    skew = deep * (c - 0.5) * 2
    colour = sample_colour(rng)
    front = _quad(x - half, y - height, x + half, y)
    top = _quad(x - half, y - height - 0.6 * deep, x + half, y - height, skew)
    band = _quad(x - 0.12 * size, y - height, x + 0.12 * size, y)
    label = _quad(x - 0.4 * size, y - 0.6 * height, x - 0.15 * size, y - 0.35 * height)
    return create_object(
        "box",
        [(top, shade(colour, 1.2)), (front, colour), (band, shade(colour, 0.75)), (label, sample_colour(rng))],
    )


def pole(rng: np.random.Generator, x: float, y: float, size: float) -> SceneObject:
    """Sample a post or a tree trunk."""
    a, b = rng.random(2).tolist()
    half, height, lean = size * (0.05 + 0.10 * a), size * 4.0, size * 0.2 * (b - 0.5)
    colour = sample_colour(rng)
    body, lit = _quad(x - half, y - height, x + half, y, lean), _quad(x - 0.5 * half, y - height, x, y, lean)
    return create_object("pole", [(body, shade(colour, 0.8)), (lit, shade(colour, 1.15))])


def plant(rng: np.random.Generator, x: float, y: float, size: float) -> SceneObject:
    """Sample a plant in a pot."""
    leaves = int(rng.integers(8, 15))
    u = rng.random((leaves, 4))
    g = float(rng.random())
    polygons: list[tuple[Floats, Colour]] = []
    for a, b, c, d in u.tolist():
        angle = -math.pi / 2 + 2.2 * (a - 0.5)
        reach = size * (0.35 + 0.55 * b)
        cx, cy = x + 0.6 * reach * math.cos(angle), y - 0.3 * size + 0.6 * reach * math.sin(angle)
        green = shade((40 + 50 * g, 95 + 60 * c, 40 + 60 * g), 0.7 + 0.6 * d)
        polygons.append((_oval(cx, cy, 0.5 * reach, size * (0.04 + 0.05 * c), tilt=angle, corners=10), green))
    pot = np.array([[-0.22, -0.35], [0.22, -0.35], [0.15, 0.0], [-0.15, 0.0]]) * size + np.array([x, y])
    polygons.append((pot, (60 + 40 * g, 90.0, 150 + 60 * g)))
    return create_object("plant", polygons)


def table(rng: np.random.Generator, x: float, y: float, size: float) -> SceneObject:
    """Sample a table, sometimes with a cup on it."""
    a, b, c = rng.random(3).tolist()
    half, height, deep = 0.9 * size, size * (0.45 + 0.25 * a), size * (0.12 + 0.15 * b)
    colour = shade((70.0, 110.0, 160.0), 0.5 + c) if a < 0.7 else sample_colour(rng)
    leg = 0.05 * size
    polygons = [
        (_quad(x + s * (half - 2 * leg) - leg, y - height, x + s * (half - 2 * leg) + leg, y), shade(colour, 0.6))
        for s in (-1, 1)
    ]
    polygons.append((_quad(x - half, y - height, x + half, y - height + 0.10 * size), shade(colour, 0.75)))
    top = np.array([[x - 0.9 * half, y - height - deep], [x + 0.9 * half, y - height - deep]])
    polygons.append((np.concatenate([top, [[x + half, y - height], [x - half, y - height]]]), shade(colour, 1.1)))
    if b < 0.6:
        cup = x + half * (2 * c - 1) * 0.7
        polygons.append(
            (_quad(cup - leg, y - height - 0.8 * deep, cup + leg, y - height - 0.2 * deep), sample_colour(rng))
        )
    return create_object("table", polygons)


def stool(rng: np.random.Generator, x: float, y: float, size: float) -> SceneObject:
    """Sample a seat; (x, y) is the middle of its top, `size` its height above the ground in px."""
    a, b = rng.random(2).tolist()
    colour = sample_colour(rng)
    half = size * (0.40 + 0.3 * a)
    if b < 0.4:
        return create_object("stool", [(_quad(x - half, y, x + half, y + size), colour)])
    leg = 0.07 * size
    polygons = [
        (_quad(x + s * half * 0.8 - leg, y, x + s * half * 0.8 + leg, y + size), shade(colour, 0.6)) for s in (-1, 1)
    ]
    if b < 0.75:
        polygons.append((_quad(x - half, y - 1.1 * size, x + half, y), shade(colour, 0.85)))
    polygons.append((_quad(x - 1.1 * half, y - 0.08 * size, x + 1.1 * half, y + 0.12 * size), colour))
    return create_object("stool", polygons)


def ball(rng: np.random.Generator, x: float, y: float, size: float) -> SceneObject:
    """Sample a ball or a balloon, sometimes in the colour of skin."""
    r = 0.25 * size
    colour = sample_colour(rng) if rng.random() < 0.6 else (120.0, 155.0, 205.0)
    return create_object(
        "ball",
        [(_oval(x, y - r, r, r), shade(colour, 0.85)), (_oval(x - 0.15 * r, y - 1.2 * r, 0.6 * r, 0.6 * r), colour)],
    )


OBJECT_FACTORIES: tuple[Callable[[np.random.Generator, float, float, float], SceneObject], ...] = (
    box,
    pole,
    plant,
    table,
    ball,
)
"""Functions that sample an object to place in front of or behind people."""


def crowd(rng: np.random.Generator, x: float, y: float, width: float, height: float) -> SceneObject:
    """Sample rows of tiny people within a box whose bottom centre is at (x, y)."""
    rows = 1 + int(rng.integers(0, 3))
    each = height / (1 + 0.35 * (rows - 1))
    columns = min(max(3, int(width / (0.34 * each))), 24)
    polygons: list[tuple[Floats, Colour]] = []
    for row in range(rows):
        foot = y - 0.35 * each * (rows - 1 - row)
        for i, (a, b, c, d, e) in enumerate(rng.random((columns, 5)).tolist()):
            cx = x - width / 2 + width * (i + 0.5 + 0.6 * (a - 0.5)) / columns
            legs, chest, head, hair = _tiny_person(cx, foot, each * (0.85 + 0.2 * b))
            polygons.append((legs, shade((90.0, 70.0, 60.0), 0.4 + d)))
            polygons.append((chest, sample_colour(rng)))
            polygons.append((head, shade((125.0, 160.0, 215.0), 0.45 + 0.6 * c)))
            polygons.append((hair, shade((40.0, 60.0, 90.0), 0.2 + e)))
    return create_object("crowd", polygons)


@functools.lru_cache(maxsize=1)
def _tiny_parts() -> tuple[Floats, ...]:
    """Return outlines of legs, chest, head and hair of a person one unit tall, with the feet at (0, 0)."""
    legs = np.array([[-0.09, -0.5], [0.09, -0.5], [0.08, 0.0], [-0.08, 0.0]])
    chest = np.array([[-0.09, -0.84], [0.09, -0.84], [0.14, -0.72], [0.10, -0.45], [-0.10, -0.45], [-0.14, -0.72]])
    hair = np.array([[-0.06, -0.93], [-0.04, -1.0], [0.04, -1.0], [0.06, -0.93]])
    return legs, chest, _oval(0.0, -0.92, 0.055, 0.075, corners=8), hair


def _tiny_person(x: float, y: float, height: float) -> tuple[Floats, ...]:
    return tuple(part * height + (x, y) for part in _tiny_parts())
