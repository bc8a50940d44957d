"""Layout: the people and objects of an image, their positions and their depth order."""

from __future__ import annotations

import numpy as np

from pipeline.synthetic.geometry import objects as things
from pipeline.synthetic.geometry.figures import Figure, build_figure, sample_body_shape
from pipeline.synthetic.geometry.objects import SceneObject
from pipeline.synthetic.geometry.poses import ANKLE, HIP, Floats, sample_pose

SceneElement = Figure | SceneObject

_PEOPLE_COUNT_PROBABILITIES = (0.05, 0.60, 0.21, 0.07, 0.035, 0.02, 0.015)  # of 0, 1, … 6 people
_MEDIAN_HEIGHT = (0.0, 0.88, 0.74, 0.62, 0.54, 0.48, 0.45)  # relative to the image size, by number of people
_PLACEMENT_TRIES = 8

Box = tuple[float, float, float, float]


def _people_count(u: float) -> int:
    u *= sum(_PEOPLE_COUNT_PROBABILITIES)
    for number, share in enumerate(_PEOPLE_COUNT_PROBABILITIES):
        u -= share
        if u < 0:
            return number
    return len(_PEOPLE_COUNT_PROBABILITIES) - 1


def _bounding_box(points: Floats) -> Box:
    x0, y0 = points.min(axis=0).tolist()
    x1, y1 = points.max(axis=0).tolist()
    return x0, y0, x1, y1


def _overlap(a: Box, b: Box) -> float:
    """Return the area of the intersection of two boxes, relative to the smaller box."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / max(1.0, min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1])))


def _placement_offset(box: Box, height: int, width: int, u: list[float]) -> tuple[float, float]:
    """Return the (dx, dy) that places a box inside the image, or sometimes partly or mostly outside.

    `u` holds four uniform random numbers.
    """
    x0, y0, x1, y1 = box
    room_x, room_y = width - (x1 - x0) - 4, height - (y1 - y0) - 4
    if u[0] < 0.95 and room_x > 0:
        dx = 2 + room_x * u[1] - x0
    elif u[0] < 0.98:
        dx = width * u[1] - 0.5 * (x0 + x1)
    else:  # more outside than inside
        out = 0.40 * (x1 - x0) * abs(2 * u[1] - 1)
        dx = (width + out if u[1] > 0.5 else -out) - 0.5 * (x0 + x1)
    if u[2] < 0.95 and room_y > 0:
        dy = height - 2 - y1 - room_y * u[3] ** 1.3
    elif u[2] < 0.98 or room_y <= 0:
        top = 0.02 + 0.20 * u[3] if room_y <= 0 else 0.30 + 0.45 * u[3]
        dy = height * top - y0
    else:
        dy = height * (0.35 + 0.5 * u[3]) - y1
    return dx, dy


def _place(figure: Figure, occupied: list[Box], height: int, width: int, rng: np.random.Generator) -> Figure:
    """Move a figure to a random position with little overlap with the boxes in `occupied`, and add its box to them."""
    x0, y0, x1, y1 = _bounding_box(figure.points)
    uniforms = rng.random((_PLACEMENT_TRIES, 4)).tolist()
    max_overlap = 0.05 if rng.random() < 0.9 else 0.45
    best_offset, best_overlap = (0.0, 0.0), 9.0
    for u in uniforms:
        dx, dy = _placement_offset((x0, y0, x1, y1), height, width, u)
        box = (x0 + dx, y0 + dy, x1 + dx, y1 + dy)
        overlap = max((_overlap(box, other) for other in occupied), default=0.0)
        if overlap < best_overlap:
            best_offset, best_overlap = (dx, dy), overlap
        if overlap <= max_overlap:
            break
    dx, dy = best_offset
    occupied.append((x0 + dx, y0 + dy, x1 + dx, y1 + dy))
    return figure.translated(dx, dy)


def _sample_figures(rng: np.random.Generator, height: int, width: int) -> list[Figure]:
    u = rng.random(3).tolist()
    number = _people_count(u[0])
    reference = (height * width) ** 0.5
    heights = [
        reference * min(1.10, max(0.25, _MEDIAN_HEIGHT[number] * float(np.exp(rng.normal(0.0, 0.22)))))
        for _ in range(number)
    ]
    if u[1] < 0.10:
        heights += (reference * (0.10 + 0.09 * rng.random(1 + (u[2] < 0.3)))).tolist()
    heights.sort(reverse=True)
    occupied: list[Box] = []
    figures = [
        _place(build_figure(sample_pose(rng), sample_body_shape(rng), scale), occupied, height, width, rng)
        for scale in heights
    ]
    return figures[::-1]


def _sample_seat(figure: Figure, rng: np.random.Generator) -> SceneObject:
    hip = figure.sides[:, HIP].mean(axis=0)
    ground = float(figure.sides[:, ANKLE, 1].max())
    low = float(hip[1]) + 0.05 * figure.scale
    return things.stool(rng, float(hip[0]), low, max(ground - low, 0.15 * figure.scale))


def _sample_obstacle(figure: Figure | None, rng: np.random.Generator, height: int, width: int) -> SceneObject:
    """Sample an object in front of the lower or outer part of a figure, or anywhere if there is no figure."""
    u = rng.random(5).tolist()
    make = things.OBJECT_FACTORIES[int(u[0] * len(things.OBJECT_FACTORIES))]
    size = (height * width) ** 0.5 * (0.16 + 0.20 * u[1])
    if figure is None:
        return make(rng, width * u[2], height * (0.75 + 0.3 * u[3]), size)
    x0, y0, x1, y1 = _bounding_box(figure.points)
    size = min(size, 0.45 * figure.scale)
    x = x0 + (x1 - x0) * (1.3 * u[2] - 0.15)
    y = y1 + 0.25 * size * u[3] if u[4] < 0.75 else y0 + (y1 - y0) * (0.5 + 0.5 * u[3])
    return make(rng, x, y, size)


def sample_layout(rng: np.random.Generator, height: int, width: int) -> list[SceneElement]:
    """Sample the people and objects of an image, ordered from far to near.

    Args:
        rng: random number generator.
        height: image height in px.
        width: image width in px.
    """
    figures = _sample_figures(rng, height, width)
    elements: list[SceneElement] = []
    u = rng.random(5).tolist()
    if u[0] < 0.07:
        tall = height * (0.10 + 0.08 * u[1])
        across = width * (0.3 + 0.6 * u[2])
        elements.append(things.crowd(rng, width * u[3], height * (0.30 + 0.40 * u[4]), across, tall))
    for figure in figures:
        if figure.pose.kind == "sitting" and rng.random() < 0.85:
            elements.append(_sample_seat(figure, rng))
        elements.append(figure)
        if rng.random() < 0.10:
            elements.append(_sample_obstacle(figure, rng, height, width))
    if rng.random() < (0.10 if figures else 0.6):
        elements.append(_sample_obstacle(None, rng, height, width))
    return elements
