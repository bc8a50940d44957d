"""Draw keypoints, heatmaps, part affinity fields and the loss mask of a sample over its image."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.maps import NUM_PAFS, pixel_to_grid
from pipeline.skeleton import KEYPOINTS, LIMB_INDICES

Picture = NDArray[np.uint8]

_SIDES = {"left_": (80, 200, 80), "right_": (60, 60, 240)}

_MIDDLE = (0, 200, 255)


def side_colour(name: str) -> tuple[int, int, int]:
    """BGR: green for the left side of the body, red for the right, yellow between."""
    return next((colour for side, colour in _SIDES.items() if name.startswith(side)), _MIDDLE)


def draw_keypoints(image: Picture, keypoints: NDArray[np.float32]) -> Picture:
    """Draw people into a copy of a picture; hidden keypoints (visibility 1) as rings.

    Args:
        image: (H, W, 3) uint8 BGR.
        keypoints: (P, K, 3) float32 x, y in px and visibility.
    """
    import cv2

    canvas = image.copy()
    for person in keypoints:
        spots = [(round(float(x)), round(float(y))) for x, y in person[:, :2]]
        for start, stop in LIMB_INDICES.tolist():
            if person[start, 2] > 0 and person[stop, 2] > 0:
                cv2.line(canvas, spots[start], spots[stop], side_colour(KEYPOINTS[stop]), 2, cv2.LINE_AA)
        for name, spot, visibility in zip(KEYPOINTS, spots, person[:, 2], strict=True):
            if visibility > 0:
                cv2.circle(canvas, spot, 4, side_colour(name), -1 if visibility > 1 else 1, cv2.LINE_AA)
    return canvas


def draw_heatmaps(image: Picture, heatmaps: NDArray[np.float32]) -> Picture:
    """Lay the strongest of all keypoints' heatmaps over a darkened picture.

    Args:
        image: (H, W, 3) uint8 BGR.
        heatmaps: (K + 1, h, w) float32; the background is left out.
    """
    import cv2

    strength = _on_pixels(heatmaps[:-1].max(axis=0), image)
    colours = cv2.applyColorMap((strength.clip(0, 1) * 255).astype(np.uint8), cv2.COLORMAP_HOT)
    return _blend(image, colours, strength)


def draw_pafs(image: Picture, pafs: NDArray[np.float32]) -> Picture:
    """Lay the part affinity fields over a darkened picture: direction as hue, length as opacity.

    Args:
        image: (H, W, 3) uint8 BGR.
        pafs: (2L, h, w) float32; where limbs overlap, the longest vector shows.
    """
    vectors = pafs.reshape(NUM_PAFS // 2, 2, *pafs.shape[1:])
    lengths = np.hypot(vectors[:, 0], vectors[:, 1])  # (L, h, w)
    longest = lengths.argmax(axis=0)[None]
    x, y, length = (
        _on_pixels(np.take_along_axis(values, longest, axis=0)[0], image)
        for values in (vectors[:, 0], vectors[:, 1], lengths)
    )
    return _blend(image, direction_colours(np.degrees(np.arctan2(y, x))), length)


def draw_ignore_mask(image: Picture, mask: NDArray[np.uint8]) -> Picture:
    """Paint the grid cells where the loss does not count (mask 0) magenta.

    Args:
        image: (H, W, 3) uint8 BGR.
        mask: (h, w) uint8.
    """
    stride = len(image) // len(mask)
    ignored = np.repeat(np.repeat(mask == 0, stride, axis=0), stride, axis=1)
    canvas = image.copy()
    canvas[ignored] = canvas[ignored] // 2 + np.array((120, 0, 120), dtype=np.uint8)
    return canvas


def _on_pixels(cells: NDArray[np.float32], image: Picture) -> NDArray[np.float32]:
    """Values (h, w) of grid cells at every pixel of a picture, (H, W), linear between the cells' centres."""
    import cv2

    height, width = image.shape[:2]
    stride = height // len(cells)
    xs = pixel_to_grid(np.arange(width, dtype=np.float32), stride)
    ys = pixel_to_grid(np.arange(height, dtype=np.float32), stride)
    x_map, y_map = np.meshgrid(xs, ys)
    pixels: NDArray[np.float32] = cv2.remap(cells, x_map, y_map, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return pixels


def _blend(image: Picture, colours: Picture, opacity: NDArray[np.float32]) -> Picture:
    weight = opacity.clip(0, 1)[..., None]
    mixed: Picture = (image * (0.5 * (1 - weight)) + colours * weight).astype(np.uint8)
    return mixed


def direction_colours(degrees: NDArray[Any]) -> Picture:
    """(H, W, 3) uint8 BGR of directions (H, W) in degrees, clockwise from rightwards as pictures have y downwards."""
    import cv2

    hue = (degrees % 360 / 2).astype(np.uint8)
    full = np.full_like(hue, 255)
    colours: Picture = cv2.cvtColor(cv2.merge((hue, full, full)), cv2.COLOR_HSV2BGR)
    return colours
