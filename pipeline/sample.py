"""Data types of annotations and samples."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Size = tuple[int, int]
"""(height, width) px."""

Rle = dict[str, Any]
"""pycocotools' compressed run-length mask: {"size": [height, width], "counts": bytes}."""


@dataclass(frozen=True)
class Annotation:
    """Annotations of one image, without its pixels.

    Attributes:
        image_id: COCO image id.
        file_name: path relative to the split's image folder.
        height, width: px, in the frame of the annotations (as in COCO, EXIF orientation is not applied).
        keypoints: (P, K, 3) float32 x, y in px and visibility 0/1/2 of the trainable people, OpenPose-18 order.
        ignore: run-length mask of the ignore region, 1 where the loss is not computed.
        truth: all person annotations of the image as in the COCO json, without segmentation; for evaluation.
    """

    image_id: int
    file_name: str
    height: int
    width: int
    keypoints: NDArray[np.float32]
    ignore: Rle
    truth: tuple[dict[str, Any], ...] = field(default=())


@dataclass(frozen=True)
class Sample:
    """One image with its annotations, in memory.

    Attributes:
        image_id: COCO image id.
        image: (H, W, 3) uint8 BGR.
        keypoints: (P, K, 3) float32 x, y in px and visibility 0/1/2, OpenPose-18 order.
        ignore: (H, W) uint8, 1 where the loss is not computed, else 0.
    """

    image_id: int
    image: NDArray[np.uint8]
    keypoints: NDArray[np.float32]
    ignore: NDArray[np.uint8]
