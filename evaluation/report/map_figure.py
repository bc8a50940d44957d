"""What a network answers beside what it should: heatmaps and part affinity fields of some pictures, for eyes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from evaluation.inference.letterbox import apply_letterbox, choose_letterbox, crop_maps
from evaluation.scoring.datasets import Record, load_picture
from evaluation.scoring.truth import true_keypoints
from pipeline.loading.targets import TargetConfig, encode_maps
from pipeline.maps import Maps
from pipeline.visualization.contact_sheet import MIN_TILE_WIDTH, add_caption, enlarge
from pipeline.visualization.targets import draw_heatmaps, draw_keypoints, draw_pafs

if TYPE_CHECKING:
    from evaluation.inference.predictor import Predictor

SHOWN = 4
"""Pictures on a sheet."""

WIDTH = MIN_TILE_WIDTH
"""px of a picture on a sheet."""

Picture = NDArray[np.uint8]


def draw_map_figure(predictor: Predictor, records: Iterable[Record], target: TargetConfig) -> Picture:
    """Draw one row a picture: its people, then its maps, true and found; all at the recipe's first scale.

    Args:
        predictor: the network, with one canvas for all of the pictures.
        records: the pictures, at least one.
        target: how true maps are drawn.

    Returns:
        (H', W', 3) uint8 BGR.
    """
    shown = list(records)
    images = [load_picture(record) for record in shown]
    rows = [
        _row(record, image, found, predictor, target)
        for record, image, found in zip(shown, images, predictor.predict_maps(images), strict=True)
    ]
    return np.concatenate(rows)


def _row(record: Record, image: Picture, found: Maps, predictor: Predictor, target: TargetConfig) -> Picture:
    config = predictor.config
    letterbox = choose_letterbox((record.height, record.width), config.size * config.scales[0], predictor.fixed_canvas)
    keypoints = true_keypoints(record.truth)
    keypoints[..., :2] = letterbox.to_canvas(keypoints[..., :2])
    true = crop_maps(encode_maps(keypoints, letterbox.canvas, target), letterbox)
    height, width = (side * true.stride for side in true.grid)
    seen, keypoints = enlarge(apply_letterbox(image, letterbox)[:height, :width], keypoints)
    tiles = {
        f"{record.image_id}": draw_keypoints(seen, keypoints),
        "heatmaps, true": draw_heatmaps(seen, true.heatmaps),
        "heatmaps, found": draw_heatmaps(seen, found.heatmaps),
        "part affinity fields, true": draw_pafs(seen, true.pafs),
        "part affinity fields, found": draw_pafs(seen, found.pafs),
    }
    return np.concatenate([add_caption(_resized(tile), title) for title, tile in tiles.items()], axis=1)


def _resized(picture: Picture) -> Picture:
    import cv2

    size = (WIDTH, max(1, round(len(picture) * WIDTH / picture.shape[1])))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
