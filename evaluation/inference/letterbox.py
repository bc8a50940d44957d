"""Letterbox: scale and pad an image to the network's input, and map coordinates back to the image.

The image is scaled so that its shorter side has the configured size, as in the reference, but its longer side has at
most `evaluation.max_aspect` times that size. It is then padded at the right and at the bottom. The padded array is
called the canvas. The sides of a canvas are multiples of 64 px, so that images of many shapes share a few canvas sizes:
MindSpore compiles one graph for each.

Pixel centres have integer coordinates, so the left edge of an image is at x = -0.5.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evaluation.decoder.person import Person
from pipeline.maps import Maps
from pipeline.sample import Size

CANVAS_MULTIPLE = 64
"""The sides of a canvas are multiples of this number of pixels."""

DEFAULT_MAX_ASPECT = 2.0
"""Default of `evaluation.max_aspect`, which limits the length of the scaled image: a panorama that is ten times as wide
as high would otherwise need five times the memory of the widest usual image."""

PADDING_GREY = 128
"""Value of the padding pixels, the same as in training."""


@dataclass(frozen=True)
class Letterbox:
    """Scale and padding of one image. All sizes are (height, width) in px.

    Attributes:
        image_size: size of the original image.
        scaled_size: size of the scaled image, which lies at the top left corner of the canvas.
        canvas: size of the canvas, which is the network's input.
    """

    image_size: Size
    scaled_size: Size
    canvas: Size

    @property
    def scale(self) -> NDArray[np.float64]:
        """(2,) scale factors in x and y. They differ slightly, because scaled sides are rounded to whole pixels."""
        return np.array([self.scaled_size[1] / self.image_size[1], self.scaled_size[0] / self.image_size[0]])

    def to_canvas(self, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """Convert (..., 2) x, y from image pixels to canvas pixels."""
        return np.asarray((points + 0.5) * self.scale - 0.5, dtype=np.float32)

    def to_image(self, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """Convert (..., 2) x, y from canvas pixels to image pixels."""
        return np.asarray((points + 0.5) / self.scale - 0.5, dtype=np.float32)


def choose_letterbox(
    image_size: Size, size: float, fixed_canvas: Size | None = None, max_aspect: float = DEFAULT_MAX_ASPECT
) -> Letterbox:
    """Choose the scale and the canvas of an image.

    Args:
        image_size: (height, width) in px, each at least 1.
        size: target length of the shorter side in px. The image is scaled less if its longer side would exceed
            `max_aspect * size`.
        fixed_canvas: (height, width) in px of the only canvas that the network accepts; the image is scaled down until
            it fits. None chooses the smallest canvas that holds the scaled image.
        max_aspect: maximum length of the longer side of the scaled image, divided by `size`.
    """
    scale = min(size / min(image_size), max_aspect * size / max(image_size))
    if fixed_canvas:
        scale = min(scale, fixed_canvas[0] / image_size[0], fixed_canvas[1] / image_size[1])
    height, width = (max(1, round(side * scale)) for side in image_size)
    return Letterbox(image_size, (height, width), fixed_canvas or (_round_up(height), _round_up(width)))


def _round_up(side: int) -> int:
    return -(-side // CANVAS_MULTIPLE) * CANVAS_MULTIPLE


def apply_letterbox(image: NDArray[np.uint8], letterbox: Letterbox) -> NDArray[np.uint8]:
    """Scale and pad an image.

    Area averaging is used to shrink, so that no pixel is skipped; bilinear interpolation, as in training, to enlarge.

    Args:
        image: (H, W, 3) uint8 BGR of size `letterbox.image_size`.
        letterbox: result of `choose_letterbox`.

    Returns:
        (h, w, 3) uint8 BGR of size `letterbox.canvas`.

    Raises:
        ValueError: the image has another size.
    """
    import cv2

    if image.shape != (*letterbox.image_size, 3):
        raise ValueError(f"image: shape {image.shape}, expected {(*letterbox.image_size, 3)}")
    height, width = letterbox.scaled_size
    canvas = np.full((*letterbox.canvas, 3), PADDING_GREY, dtype=np.uint8)
    method = cv2.INTER_AREA if height < image.shape[0] else cv2.INTER_LINEAR
    canvas[:height, :width] = cv2.resize(image, (width, height), interpolation=method)
    return canvas


def crop_maps(maps: Maps, letterbox: Letterbox) -> Maps:
    """Remove the grid cells of a canvas's maps that cover only padding."""
    height, width = (-(-side // maps.stride) for side in letterbox.scaled_size)
    return Maps(maps.heatmaps[:, :height, :width], maps.pafs[:, :height, :width], maps.stride)


def people_to_image(people: Iterable[Person], letterbox: Letterbox) -> list[Person]:
    """Convert keypoint coordinates from canvas pixels to image pixels; keypoints that were not found stay 0."""
    converted = []
    for person in people:
        keypoints = person.keypoints.copy()
        keypoints[person.found, :2] = letterbox.to_image(keypoints[person.found, :2])
        converted.append(Person(keypoints, person.score))
    return converted
