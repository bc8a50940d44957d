"""Arrange the samples of a batch, with their targets, in one image."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.visualization.targets import (
    Image,
    direction_colours,
    draw_heatmaps,
    draw_ignore_mask,
    draw_keypoints,
    draw_pafs,
    side_colour,
)

CAPTIONS = ("people", "heatmaps", "part affinity fields", "ignored")

MIN_TILE_WIDTH = 280
"""Minimum width in px; smaller images are enlarged by a whole factor."""

CAPTION_HEIGHT = LEGEND_HEIGHT = 24

_GAP = 6

_SIDE_GAP = ((0, 0), (_GAP, _GAP), (0, 0))

_TEXT_COLOUR = (230, 230, 230)

_BACKGROUND = 32
"""Grey value."""


def contact_sheet(batch: dict[str, NDArray[Any]], columns: int) -> Image:
    """Arrange all samples of a batch below a legend, with four images per sample.

    Args:
        batch: from `create_batches`, with targets.
        columns: number of samples side by side.

    Returns:
        (H', W', 3) uint8 BGR.
    """
    tiles = []
    for index, sample_image in enumerate(batch["image"]):
        image, keypoints = enlarge(sample_image, batch["keypoints"][index])
        overlays = (
            draw_keypoints(image, keypoints),
            draw_heatmaps(image, batch["heatmaps"][index]),
            draw_pafs(image, batch["pafs"][index]),
            draw_ignore_mask(image, batch["mask"][index]),
        )
        titles = (f"{batch['image_id'][index]}: {CAPTIONS[0]}", *CAPTIONS[1:])
        tiles += [add_caption(overlay, title) for overlay, title in zip(overlays, titles, strict=True)]
    per_row = columns * len(CAPTIONS)
    tiles += [np.full_like(tiles[0], _BACKGROUND)] * (-len(tiles) % per_row)
    strips = [np.pad(strip, _SIDE_GAP, constant_values=_BACKGROUND) for strip in legend(image.shape[1])]
    rows = [strips * columns, *(tiles[first : first + per_row] for first in range(0, len(tiles), per_row))]
    return np.concatenate([np.concatenate(row, axis=1) for row in rows])


def legend(width: int) -> list[Image]:
    """Explain the colours: four strips (LEGEND_HEIGHT, width, 3) uint8 BGR, one above each image of a sample."""
    import cv2

    swatch, middle = 12, LEGEND_HEIGHT // 2
    strips = [np.full((LEGEND_HEIGHT, width, 3), _BACKGROUND, dtype=np.uint8) for _ in CAPTIONS]
    x = 4
    for text, prefix in (("left", "left_"), ("right", "right_"), ("middle", "")):
        cv2.circle(strips[0], (x + 5, middle), 4, side_colour(prefix), -1, cv2.LINE_AA)
        x = _write_text(strips[0], x + 14, text) + 10
    cv2.circle(strips[0], (x + 5, middle), 4, _TEXT_COLOUR, 1, cv2.LINE_AA)
    _write_text(strips[0], x + 14, "hidden")

    ramp = np.linspace(0, 255, 80).astype(np.uint8)[None].repeat(swatch, axis=0)
    x = _write_text(strips[1], 4, "0")
    _paste(strips[1], x + 4, cv2.applyColorMap(ramp, cv2.COLORMAP_HOT))
    _write_text(strips[1], x + 88, "1, maximum over keypoints")

    x = 4
    for text, angle in (("right", 0), ("down", 90), ("left", 180), ("up", 270)):
        _paste(strips[2], x, np.full((swatch, swatch, 3), direction_colours(np.array([[angle]]))[0, 0], np.uint8))
        x = _write_text(strips[2], x + swatch + 4, text) + 10

    _paste(strips[3], 4, np.full((swatch, swatch, 3), (_BACKGROUND + 120, _BACKGROUND, _BACKGROUND + 120), np.uint8))
    _write_text(strips[3], 4 + swatch + 4, "loss not computed")
    return strips


def _write_text(canvas: Image, x: int, text: str) -> int:
    """Write a line of text that starts at column x. Return the column where it ends."""
    import cv2

    style = (cv2.FONT_HERSHEY_SIMPLEX, 0.45)
    cv2.putText(canvas, text, (x, 17), *style, _TEXT_COLOUR, 1, cv2.LINE_AA)
    return int(x + cv2.getTextSize(text, *style, 1)[0][0])


def _paste(canvas: Image, x: int, image: Image) -> None:
    """Copy an image into the canvas at column x, centred vertically and cut off at the right edge."""
    top = (len(canvas) - len(image)) // 2
    region = canvas[top : top + len(image), x : x + image.shape[1]]
    region[:] = image[:, : region.shape[1]]


def enlarge(image: Image, keypoints: NDArray[np.float32]) -> tuple[Image, NDArray[np.float32]]:
    """Enlarge an image by the smallest integer that makes it `MIN_TILE_WIDTH` px wide, and its keypoints with it."""
    import cv2

    factor = -(-MIN_TILE_WIDTH // image.shape[1])
    scaled = keypoints.copy()
    scaled[..., :2] = (scaled[..., :2] + 0.5) * factor - 0.5
    enlarged: Image = np.asarray(cv2.resize(image, None, fx=factor, fy=factor), dtype=np.uint8)
    return enlarged, scaled


def add_caption(image: Image, caption: str) -> Image:
    """Put a line of text above an image, (H, W, 3) uint8 BGR, and a frame around both."""
    strip = np.full((CAPTION_HEIGHT, image.shape[1], 3), _BACKGROUND, dtype=np.uint8)
    _write_text(strip, 4, caption)
    frame = ((_GAP, _GAP), (_GAP, _GAP), (0, 0))
    return np.pad(np.concatenate((strip, image)), frame, constant_values=_BACKGROUND)
