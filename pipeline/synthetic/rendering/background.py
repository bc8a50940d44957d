"""Background behind the people, and lighting and camera noise over the whole image."""

from __future__ import annotations

import functools

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.synthetic.geometry.objects import OBJECT_FACTORIES, sample_colour, shade
from pipeline.synthetic.geometry.polygons import SUBPIXEL_BITS, capsules, to_fixed_point
from pipeline.synthetic.rendering.renderer import render_object

Image = NDArray[np.uint8]

_NOISE_SIZE = 1024


@functools.lru_cache(maxsize=1)
def _noise() -> NDArray[np.int16]:
    """Return (1024, 1024, 3) normal noise of standard deviation 16. Images use crops of it, which saves time."""
    rng = np.random.default_rng(20240229)
    noise: NDArray[np.int16] = np.rint(rng.normal(0.0, 16.0, (_NOISE_SIZE, _NOISE_SIZE, 3))).astype(np.int16)
    return noise


def _crop_noise(rng: np.random.Generator, height: int, width: int) -> NDArray[np.int16]:
    tile = _noise()
    while tile.shape[0] < height or tile.shape[1] < width:
        tile = np.tile(tile, (2, 2, 1))
    y = int(rng.integers(tile.shape[0] - height + 1))
    x = int(rng.integers(tile.shape[1] - width + 1))
    return tile[y : y + height, x : x + width]


def _base_layer(rng: np.random.Generator, height: int, width: int) -> Image:
    """Sample a smooth background, sometimes with a floor."""
    cells = 2 if rng.random() < 0.5 else int(rng.integers(3, 10))
    colour = np.array(sample_colour(rng))
    grey, tint = (float(v) for v in rng.random(2))
    variation = rng.normal(0.0, 1.0, (cells, cells, 4))
    # brightness varies more than colour, as in photographs
    grid = colour + (6 + 18 * grey) * variation[..., :1] + (4 + 12 * tint**2) * variation[..., 1:]
    grid = np.clip(grid, 0, 255).astype(np.uint8)
    image: Image = cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
    if rng.random() < 0.6:
        top = int(height * (0.45 + 0.4 * float(rng.random())))
        floor = np.array(sample_colour(rng)) * np.linspace(0.7, 1.1, height - top)[:, None]
        image[top:] = np.minimum(floor, 255)[:, None]
    return image


def _draw_grid_lines(image: Image, rng: np.random.Generator) -> None:
    """Draw lines over a part of the image, like tiles or boards."""
    height, width = image.shape[:2]
    step = int(rng.integers(8, 40))
    colour = sample_colour(rng)
    y0, y1 = sorted((rng.random(2) * height).astype(int).tolist())
    for x in range(int(rng.integers(step)), width, step):
        cv2.line(image, (x, y0), (x, y1), colour, 1)
    if rng.random() < 0.5:
        for y in range(y0, y1, step):
            cv2.line(image, (0, y), (width, y), colour, 1)


def _draw_clutter(image: Image, rng: np.random.Generator) -> None:
    """Draw rectangles, ellipses and lines of all sizes, and sticks that look similar to limbs."""
    height, width = image.shape[:2]
    size = (height * width) ** 0.5
    for kind, x, y, a, b in rng.random((int(rng.integers(2, 9)), 5)).tolist():
        colour = sample_colour(rng)
        cx, cy, w, h = int(x * width), int(y * height), int(size * 0.35 * a) + 2, int(size * 0.35 * b) + 2
        if kind < 0.4:
            cv2.rectangle(image, (cx, cy), (cx + w, cy + h), colour, -1)
            if kind < 0.2:
                cv2.rectangle(image, (cx, cy), (cx + w, cy + h), shade(colour, 0.6), 1 + int(4 * a))
        elif kind < 0.6:
            cv2.ellipse(image, (cx, cy), (w // 2, h // 2), 180 * a, 0, 360, colour, -1, cv2.LINE_AA)
        elif kind < 0.75:
            cv2.line(image, (cx, cy), (cx + 2 * w - h, cy + h), colour, 1 + int(4 * b), cv2.LINE_AA)
        else:
            _draw_stick(
                image, colour, np.array([[cx, cy], [cx + (a - 0.5) * 0.5 * size, cy + (b - 0.3) * 0.5 * size]]), size
            )


def _draw_stick(image: Image, colour: tuple[float, float, float], ends: NDArray[np.float64], size: float) -> None:
    radius = size * (0.01 + 0.015 * (colour[0] / 255))
    outer, inner = capsules(np.stack([ends, ends]), np.array([[radius, 0.7 * radius], [0.7 * radius, 0.4 * radius]]))
    for polygon, tone in ((outer, shade(colour, 0.66)), (inner, colour)):
        cv2.fillConvexPoly(image, to_fixed_point(polygon), tone, cv2.LINE_AA, SUBPIXEL_BITS)


def render_background(rng: np.random.Generator, height: int, width: int) -> Image:
    """Sample and render a background.

    Args:
        rng: random number generator.
        height: image height in px.
        width: image width in px.

    Returns:
        (height, width, 3) uint8 BGR.
    """
    image = _base_layer(rng, height, width)
    if rng.random() < 0.25:
        _draw_grid_lines(image, rng)
    _draw_clutter(image, rng)
    for _ in range(int(rng.integers(0, 3))):
        x, y, s, k = rng.random(4).tolist()
        size = (0.15 + 0.3 * s) * (height * width) ** 0.5
        render_object(
            image, OBJECT_FACTORIES[int(k * len(OBJECT_FACTORIES))](rng, x * width, (0.4 + 0.6 * y) * height, size)
        )
    if rng.random() < 0.35:
        image = cv2.GaussianBlur(image, (0, 0), 0.8 + 1.6 * float(rng.random()))
    strength = float(rng.random())
    if strength > 0.3:
        image = np.clip(image + _crop_noise(rng, height, width) * np.float32(0.6 * strength), 0, 255).astype(np.uint8)
    return image


def apply_lighting(image: Image, rng: np.random.Generator) -> Image:
    """Return a copy of a (H, W, 3) uint8 image with uneven light, tint, brightness, blur and sensor noise."""
    height, width = image.shape[:2]
    u = rng.random(5).tolist()
    corners = 1.0 + (rng.random((2, 2, 1)) - 0.5) * 0.3
    gain = corners * (0.80 + 0.35 * u[0]) * (1.0 + (rng.random(3) - 0.5) * 0.16)
    lit = image.astype(np.float32)
    lit *= cv2.resize(gain.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    lit += np.float32(24 * (u[1] - 0.5))
    lit += _crop_noise(rng, height, width) * np.float32(0.05 + 0.2 * u[2] ** 2)
    out: Image = np.clip(lit, 0, 255).astype(np.uint8)
    if u[3] < 0.25:
        out = cv2.GaussianBlur(out, (0, 0), 0.4 + 0.5 * u[4])
    if u[3] > 0.985:
        out = cv2.cvtColor(cv2.cvtColor(out, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    return out
