"""How a picture is scaled and padded for the network, and how coordinates come back.

A picture is scaled so that its shorter side has the recipe's size, as in the reference, but its longer side at most
twice that; then it is padded at its right and bottom to a canvas of whole blocks, so that pictures of all shapes share
few canvases: MindSpore compiles a graph once for each.

Pixel centres are at whole coordinates, so the picture's left edge is at -0.5.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evaluation.decoder.person import Person
from pipeline.maps import Maps
from pipeline.sample import Size

BLOCK = 64
"""px; a canvas's sides are multiples of it."""

LONGEST = 2
"""Longer side of a scaled picture, at most, in sizes of its shorter side."""

GREY = 128
"""What surrounds a picture, as in training."""


@dataclass(frozen=True)
class Fit:
    """Where a picture lies on the network's input; all sizes are (height, width) px.

    Attributes:
        picture: as it was given.
        scaled: what it is scaled to, at the canvas's top left corner.
        canvas: the network's input.
    """

    picture: Size
    scaled: Size
    canvas: Size

    @property
    def scale(self) -> NDArray[np.float64]:
        """(2,) px of the canvas per px of the picture, in x and in y: whole sides make them differ a little."""
        return np.array([self.scaled[1] / self.picture[1], self.scaled[0] / self.picture[0]])

    def to_canvas(self, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """(..., 2) x, y from pixels of the picture to pixels of the canvas."""
        return np.asarray((points + 0.5) * self.scale - 0.5, dtype=np.float32)

    def to_picture(self, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """Inverse of `to_canvas`."""
        return np.asarray((points + 0.5) / self.scale - 0.5, dtype=np.float32)


def fit_size(picture: Size, size: float, canvas: Size | None = None) -> Fit:
    """Choose scale and canvas.

    Args:
        picture: (height, width) px, at least 1.
        size: px; what the shorter side becomes, unless the longer one would exceed LONGEST times that.
        canvas: (height, width) px of the only canvas that the network takes; what would not fit it is made smaller.
            None for the smallest of whole blocks.
    """
    scale = min(size / min(picture), LONGEST * size / max(picture))
    if canvas:
        scale = min(scale, canvas[0] / picture[0], canvas[1] / picture[1])
    height, width = (max(1, round(side * scale)) for side in picture)
    return Fit(picture, (height, width), canvas or (_blocks(height), _blocks(width)))


def _blocks(side: int) -> int:
    return -(-side // BLOCK) * BLOCK


def place(image: NDArray[np.uint8], fit: Fit) -> NDArray[np.uint8]:
    """Scale a picture onto its canvas.

    Areas are averaged where it shrinks, so that no pixel is skipped; where it grows, interpolation is linear as in
    training.

    Args:
        image: (H, W, 3) uint8 BGR of size `fit.picture`.
        fit: from `fit_size`.

    Returns:
        (h, w, 3) uint8 BGR of size `fit.canvas`, grey beside the picture.
    """
    import cv2

    if image.shape != (*fit.picture, 3):
        raise ValueError(f"image: shape {image.shape}, expected {(*fit.picture, 3)}")
    height, width = fit.scaled
    canvas = np.full((*fit.canvas, 3), GREY, dtype=np.uint8)
    method = cv2.INTER_AREA if height < image.shape[0] else cv2.INTER_LINEAR
    canvas[:height, :width] = cv2.resize(image, (width, height), interpolation=method)
    return canvas


def cut(maps: Maps, fit: Fit) -> Maps:
    """The part of a canvas's maps that shows some of the picture: what the network sees in the padding is dropped."""
    height, width = (-(-side // maps.stride) for side in fit.scaled)
    return Maps(maps.heatmaps[:, :height, :width], maps.pafs[:, :height, :width], maps.stride)


def people_to_picture(people: Iterable[Person], fit: Fit) -> list[Person]:
    """The people with coordinates in pixels of the picture instead of the canvas; what was not found stays 0."""
    moved = []
    for person in people:
        keypoints = person.keypoints.copy()
        keypoints[person.found, :2] = fit.to_picture(keypoints[person.found, :2])
        moved.append(Person(keypoints, person.score))
    return moved
