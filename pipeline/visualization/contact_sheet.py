"""Lay out the samples of a batch, with their targets, as one image."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.visualization.targets import (
    Picture,
    direction_colours,
    draw_heatmaps,
    draw_ignore_mask,
    draw_keypoints,
    draw_pafs,
    side_colour,
)

CAPTIONS = ("people", "heatmaps", "part affinity fields", "ignored")

MIN_TILE_WIDTH = 280
"""px; pictures of small networks are enlarged to be seen."""

CAPTION_HEIGHT = LEGEND_HEIGHT = 24

_GAP = 6

_SIDE_GAP = ((0, 0), (_GAP, _GAP), (0, 0))

_TEXT = (230, 230, 230)

_BACKGROUND = 32


def contact_sheet(batch: dict[str, NDArray[Any]], columns: int) -> Picture:
    """Lay out all samples of a batch, four pictures each, below a legend.

    Args:
        batch: of `create_batches`, with targets.
        columns: samples side by side.

    Returns:
        (H', W', 3) uint8 BGR.
    """
    tiles = []
    for place, small in enumerate(batch["image"]):
        image, keypoints = enlarge(small, batch["keypoints"][place])
        pictures = (
            draw_keypoints(image, keypoints),
            draw_heatmaps(image, batch["heatmaps"][place]),
            draw_pafs(image, batch["pafs"][place]),
            draw_ignore_mask(image, batch["mask"][place]),
        )
        for title, picture in zip(CAPTIONS, pictures, strict=True):
            tiles.append(
                add_caption(picture, f"{batch['image_id'][place]}: {title}" if title == CAPTIONS[0] else title)
            )
    per_row = columns * len(CAPTIONS)
    tiles += [np.full_like(tiles[0], _BACKGROUND)] * (-len(tiles) % per_row)
    strips = [np.pad(strip, _SIDE_GAP, constant_values=_BACKGROUND) for strip in legend(image.shape[1])]
    rows = [strips * columns, *(tiles[at : at + per_row] for at in range(0, len(tiles), per_row))]
    return np.concatenate([np.concatenate(row, axis=1) for row in rows])


def legend(width: int) -> list[Picture]:
    """What the colours mean: four strips (LEGEND_HEIGHT, width, 3) uint8 BGR, one for each of a sample's pictures."""
    import cv2

    swatch, middle = 12, LEGEND_HEIGHT // 2
    strips = [np.full((LEGEND_HEIGHT, width, 3), _BACKGROUND, dtype=np.uint8) for _ in CAPTIONS]
    names = (("left", "left_"), ("right", "right_"), ("middle", ""))
    at = 4
    for text, side in names:
        cv2.circle(strips[0], (at + 5, middle), 4, side_colour(side), -1, cv2.LINE_AA)
        at = _write(strips[0], at + 14, text) + 10
    cv2.circle(strips[0], (at + 5, middle), 4, _TEXT, 1, cv2.LINE_AA)
    _write(strips[0], at + 14, "hidden")

    ramp = np.linspace(0, 255, 80).astype(np.uint8)[None].repeat(swatch, axis=0)
    at = _write(strips[1], 4, "0")
    _paste(strips[1], at + 4, cv2.applyColorMap(ramp, cv2.COLORMAP_HOT))
    _write(strips[1], at + 88, "1, strongest of all keypoints")

    at = 4
    for text, angle in (("right", 0), ("down", 90), ("left", 180), ("up", 270)):
        _paste(strips[2], at, np.full((swatch, swatch, 3), direction_colours(np.array([[angle]]))[0, 0], np.uint8))
        at = _write(strips[2], at + swatch + 4, text) + 10

    _paste(strips[3], 4, np.full((swatch, swatch, 3), (_BACKGROUND + 120, _BACKGROUND, _BACKGROUND + 120), np.uint8))
    _write(strips[3], 4 + swatch + 4, "the loss does not look here")
    return strips


def _write(canvas: Picture, x: int, text: str) -> int:
    """Write a line of text at x px; returns where it ends."""
    import cv2

    style = (cv2.FONT_HERSHEY_SIMPLEX, 0.45)
    cv2.putText(canvas, text, (x, 17), *style, _TEXT, 1, cv2.LINE_AA)
    return int(x + cv2.getTextSize(text, *style, 1)[0][0])


def _paste(canvas: Picture, x: int, picture: Picture) -> None:
    top = (len(canvas) - len(picture)) // 2
    room = canvas[top : top + len(picture), x : x + picture.shape[1]]
    room[:] = picture[:, : room.shape[1]]


def enlarge(image: Picture, keypoints: NDArray[np.float32]) -> tuple[Picture, NDArray[np.float32]]:
    """A picture as many times as large as it takes to be `MIN_TILE_WIDTH` px wide, and its people."""
    import cv2

    factor = -(-MIN_TILE_WIDTH // image.shape[1])
    moved = keypoints.copy()
    moved[..., :2] = (moved[..., :2] + 0.5) * factor - 0.5
    large: Picture = np.asarray(cv2.resize(image, None, fx=factor, fy=factor), dtype=np.uint8)
    return large, moved


def add_caption(picture: Picture, title: str) -> Picture:
    """A picture, (H, W, 3) uint8 BGR, below a line of text and with a frame around it."""
    label = np.full((CAPTION_HEIGHT, picture.shape[1], 3), _BACKGROUND, dtype=np.uint8)
    _write(label, 4, title)
    frame = ((_GAP, _GAP), (_GAP, _GAP), (0, 0))
    return np.pad(np.concatenate((label, picture)), frame, constant_values=_BACKGROUND)
