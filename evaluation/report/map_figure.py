"""Figure of what a network finds in a few images: people and maps, beside the annotated ones."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from evaluation.decoder.decode import decode
from evaluation.decoder.person import Person
from evaluation.inference.letterbox import apply_letterbox, crop_maps
from evaluation.media.overlay import draw_people
from evaluation.scoring.datasets import Record, load_image
from evaluation.scoring.ground_truth import annotated_keypoints
from pipeline.loading.targets import TargetConfig, encode_maps
from pipeline.maps import Maps
from pipeline.visualization.contact_sheet import MIN_TILE_WIDTH, add_caption, enlarge
from pipeline.visualization.targets import draw_heatmaps, draw_keypoints, draw_pafs

if TYPE_CHECKING:
    from evaluation.inference.predictor import Predictor

NUM_IMAGES = 4
"""Number of images in a figure, one in each row."""

TILE_WIDTH = MIN_TILE_WIDTH
"""Width in px of each column of a figure."""

Image = NDArray[np.uint8]


def draw_map_figure(predictor: Predictor, records: Iterable[Record], target_config: TargetConfig) -> Image:
    """Draw one row for each image: people and maps, annotated and found, at the first configured scale.

    Args:
        predictor: the network, with a fixed canvas for all images.
        records: the images, at least one.
        target_config: configuration of the targets.

    Returns:
        (H', W', 3) uint8 BGR.
    """
    records = list(records)
    images = [load_image(record) for record in records]
    rows = [
        _draw_row(record, image, output, predictor, target_config)
        for record, image, output in zip(records, images, predictor.predict_maps(images), strict=True)
    ]
    return np.concatenate(rows)


def _draw_row(record: Record, image: Image, output: Maps, predictor: Predictor, target_config: TargetConfig) -> Image:
    config = predictor.config
    letterbox = predictor.choose_letterbox((record.height, record.width), config.size * config.scales[0])
    keypoints = annotated_keypoints(record.annotations)
    keypoints[..., :2] = letterbox.to_canvas(keypoints[..., :2])
    target = crop_maps(encode_maps(keypoints, letterbox.canvas, target_config), letterbox)
    height, width = (side * target.stride for side in target.grid)
    scaled = apply_letterbox(image, letterbox)[:height, :width]
    found = [
        Person(enlarge(scaled, person.keypoints)[1], person.score) for person in decode(output, predictor.decode_config)
    ]
    background, keypoints = enlarge(scaled, keypoints)
    tiles = {
        f"{record.image_id}, annotated": draw_keypoints(background, keypoints),
        "found": draw_people(background, found),
        "heatmaps, target": draw_heatmaps(background, target.heatmaps),
        "heatmaps, output": draw_heatmaps(background, output.heatmaps),
        "part affinity fields, target": draw_pafs(background, target.pafs),
        "part affinity fields, output": draw_pafs(background, output.pafs),
    }
    return np.concatenate([add_caption(_resize(tile), title) for title, tile in tiles.items()], axis=1)


def _resize(image: Image) -> Image:
    import cv2

    size = (TILE_WIDTH, max(1, round(len(image) * TILE_WIDTH / image.shape[1])))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
