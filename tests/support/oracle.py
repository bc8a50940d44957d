"""Network for tests that outputs the training targets: it identifies each image by its colour."""

from __future__ import annotations

import numpy as np

from evaluation.inference.letterbox import DEFAULT_MAX_ASPECT, PADDING_GREY, choose_letterbox
from pipeline.loading.targets import encode_maps
from pipeline.maps import NUM_HEATMAPS, NUM_PAFS, STRIDE
from pipeline.skeleton import KEYPOINTS, to_coco

POSE = {
    "nose": (0.0, -0.42),
    "neck": (0.0, -0.30),
    "shoulder": (0.13, -0.30),
    "elbow": (0.20, -0.12),
    "wrist": (0.23, 0.05),
    "hip": (0.08, 0.02),
    "knee": (0.10, 0.26),
    "ankle": (0.11, 0.50),
    "eye": (0.03, -0.46),
    "ear": (0.08, -0.44),
}


def standing_person(x, y, height):
    """Return the keypoints (18, 3) of a standing person with centre (x, y), `height` px tall, all visible."""
    keypoints = np.zeros((18, 3), dtype=np.float32)
    for i, name in enumerate(KEYPOINTS):
        side, _, part = name.rpartition("_")
        across, down = POSE[part]
        keypoints[i] = x + (across if side == "left" else -across) * height, y + down * height, 2
    return keypoints


def two_people(size):
    height, width = size
    return np.stack(
        [
            standing_person(0.3 * width, 0.5 * height, 0.8 * height),
            standing_person(0.7 * width, 0.55 * height, 0.6 * height),
        ]
    )


def plain_image(colour, size):
    """Return a (H, W, 3) uint8 image of one colour."""
    return np.full((*size, 3), colour, dtype=np.uint8)


def unpadded_size(image):
    """Return (height, width) in px of the image without its grey padding."""
    seen = (image != PADDING_GREY).any(axis=2)
    return seen.any(axis=1).sum(), seen.any(axis=0).sum()


def coco_annotations(keypoints, image_id):
    """Return a COCO annotation for each person in keypoints (P, 18, 3)."""
    annotations = []
    for i, person in enumerate(keypoints):
        low, high = person[:, :2].min(axis=0), person[:, :2].max(axis=0)
        annotations.append(
            {
                "id": 10 * image_id + i,
                "image_id": image_id,
                "category_id": 1,
                "iscrowd": 0,
                "num_keypoints": 17,
                "area": float(0.6 * np.prod(high - low)),
                "bbox": [*low.tolist(), *(high - low).tolist()],
                "keypoints": to_coco(person).reshape(-1).tolist(),
            }
        )
    return tuple(annotations)


class OracleNetwork:
    """Network that outputs the targets of known images.

    `known` maps the colour of an image to its (height, width) in px and its keypoints (P, 18, 3). Grey images are
    padding of a batch.
    """

    def __init__(self, known, size, scales=(1.0,), max_aspect=DEFAULT_MAX_ASPECT):
        self.known, self.sizes, self.batches = known, [size * scale for scale in scales], []
        self.max_aspect = max_aspect

    def __call__(self, images):
        self.batches.append(images.shape)
        batch, height, width, _ = images.shape
        grid = height // STRIDE, width // STRIDE
        pafs = np.zeros((batch, NUM_PAFS, *grid), np.float32)
        heatmaps = np.zeros((batch, NUM_HEATMAPS, *grid), np.float32)
        for i, image in enumerate(images):
            if (image == PADDING_GREY).all():
                continue
            colour = round(float(image[:8, :8].mean()))
            size, keypoints = self.known[min(self.known, key=lambda known: abs(known - colour))]
            letterboxes = [choose_letterbox(size, each, (height, width), self.max_aspect) for each in self.sizes]
            (letterbox,) = {letterbox for letterbox in letterboxes if letterbox.scaled_size == unpadded_size(image)}
            moved = keypoints.copy()
            moved[..., :2] = letterbox.to_canvas(keypoints[..., :2])
            maps = encode_maps(moved, (height, width))
            pafs[i], heatmaps[i] = maps.pafs, maps.heatmaps
        return pafs, heatmaps
