"""Draw the keypoints, heatmaps, part affinity fields and loss mask of a sample over its image."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.maps import NUM_PAFS, pixel_to_grid
from pipeline.skeleton import KEYPOINTS, LIMB_INDICES

Image = NDArray[np.uint8]
"""(H, W, 3) BGR."""

_SIDE_COLOURS = {"left_": (80, 200, 80), "right_": (60, 60, 240)}

_CENTRE_COLOUR = (0, 200, 255)


def side_colour(name: str) -> tuple[int, int, int]:
    """Return the BGR colour of a keypoint: green on the left side of the body, red on the right, yellow between."""
    return next((colour for side, colour in _SIDE_COLOURS.items() if name.startswith(side)), _CENTRE_COLOUR)


def draw_keypoints(image: Image, keypoints: NDArray[np.float32]) -> Image:
    """Draw people into a copy of an image, with hidden keypoints (visibility 1) as circles.

    Args:
        image: (H, W, 3) uint8 BGR.
        keypoints: (P, K, 3) float32 x, y in px and visibility.
    """
    import cv2

    canvas = image.copy()
    for person in keypoints:
        points = [(round(float(x)), round(float(y))) for x, y in person[:, :2]]
        for start, stop in LIMB_INDICES.tolist():
            if person[start, 2] > 0 and person[stop, 2] > 0:
                cv2.line(canvas, points[start], points[stop], side_colour(KEYPOINTS[stop]), 2, cv2.LINE_AA)
        for name, point, visibility in zip(KEYPOINTS, points, person[:, 2], strict=True):
            if visibility > 0:
                cv2.circle(canvas, point, 4, side_colour(name), -1 if visibility > 1 else 1, cv2.LINE_AA)
    return canvas


def draw_heatmaps(image: Image, heatmaps: NDArray[np.float32]) -> Image:
    """Draw the maximum of all keypoint heatmaps over a darkened image.

    Args:
        image: (H, W, 3) uint8 BGR.
        heatmaps: (K + 1, h, w) float32; the background is not drawn.
    """
    import cv2

    strength = _upsample_to_image(heatmaps[:-1].max(axis=0), image)
    colours = cv2.applyColorMap((strength.clip(0, 1) * 255).astype(np.uint8), cv2.COLORMAP_HOT)
    return _blend(image, colours, strength)


def draw_pafs(image: Image, pafs: NDArray[np.float32]) -> Image:
    """Draw part affinity fields over a darkened image: direction as hue, length as opacity.

    Args:
        image: (H, W, 3) uint8 BGR.
        pafs: (2L, h, w) float32; where limbs overlap, the longest vector is drawn.
    """
    vectors = pafs.reshape(NUM_PAFS // 2, 2, *pafs.shape[1:])
    lengths = np.hypot(vectors[:, 0], vectors[:, 1])  # (L, h, w)
    longest = lengths.argmax(axis=0)[None]
    x, y, length = (
        _upsample_to_image(np.take_along_axis(values, longest, axis=0)[0], image)
        for values in (vectors[:, 0], vectors[:, 1], lengths)
    )
    return _blend(image, direction_colours(np.degrees(np.arctan2(y, x))), length)


def draw_ignore_mask(image: Image, mask: NDArray[np.uint8]) -> Image:
    """Tint the grid cells magenta where the loss is not computed (mask 0).

    Args:
        image: (H, W, 3) uint8 BGR.
        mask: (h, w) uint8.
    """
    stride = len(image) // len(mask)
    ignored = np.repeat(np.repeat(mask == 0, stride, axis=0), stride, axis=1)
    canvas = image.copy()
    canvas[ignored] = canvas[ignored] // 2 + np.array((120, 0, 120), dtype=np.uint8)
    return canvas


def _upsample_to_image(cells: NDArray[np.float32], image: Image) -> NDArray[np.float32]:
    """Interpolate (h, w) values of grid cells bilinearly at every pixel, (H, W), of an image."""
    import cv2

    height, width = image.shape[:2]
    stride = height // len(cells)
    xs = pixel_to_grid(np.arange(width, dtype=np.float32), stride)
    ys = pixel_to_grid(np.arange(height, dtype=np.float32), stride)
    x_map, y_map = np.meshgrid(xs, ys)
    pixels: NDArray[np.float32] = cv2.remap(cells, x_map, y_map, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return pixels


def _blend(image: Image, colours: Image, opacity: NDArray[np.float32]) -> Image:
    weight = opacity.clip(0, 1)[..., None]
    mixed: Image = (image * (0.5 * (1 - weight)) + colours * weight).astype(np.uint8)
    return mixed


def direction_colours(degrees: NDArray[Any]) -> Image:
    """Return the colours, (H, W, 3) uint8 BGR, of directions (H, W) in degrees: 0 is right and 90 is down."""
    import cv2

    hue = (degrees % 360 / 2).astype(np.uint8)
    full = np.full_like(hue, 255)
    colours: Image = cv2.cvtColor(cv2.merge((hue, full, full)), cv2.COLOR_HSV2BGR)
    return colours
