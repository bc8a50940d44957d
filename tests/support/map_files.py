"""Files of maps as another program writes them, and images with a known person."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.loading.targets import encode_maps
from pipeline.maps import Maps
from tests.support import coco_folder
from tests.support.oracle import coco_annotations, standing_person

SIZE = (128, 192)
"""(height, width) in px of every image of `write_dataset`, and of its input to the network."""


def channels_last(maps: Maps) -> NDArray[np.float16]:
    """Return (h, w, 57) float16: heatmaps, then fields."""
    return np.concatenate([maps.heatmaps, maps.pafs]).transpose(1, 2, 0).astype(np.float16)


def write_file(folder: Path, image_id: int, **arrays: Any) -> Path:
    """Write a file of maps; `arrays` replaces arrays or, with None, removes them."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "maps": channels_last(encode_maps(people_of(image_id), SIZE)),
        "picture_hw": np.array(SIZE),
        "input_hw": np.array(SIZE),
    }
    content |= arrays
    path = folder / f"{image_id:012d}.npz"
    np.savez(path, **{name: np.asarray(array) for name, array in content.items() if array is not None})
    return path


def people_of(image_id: int) -> NDArray[np.float32]:
    """Return the keypoints (P, 18, 3) of one or two people; their position depends on the image."""
    left = standing_person(40 + image_id % 7, 62, 110 - image_id % 5)
    right = standing_person(135 - image_id % 4, 66, 90 + image_id % 3)
    return np.stack([left, right][: 1 + image_id % 2])


def write_dataset(folder: Path, image_ids: list[int]) -> Path:
    """Write the annotations of images with `people_of` as the split `val` of a COCO folder, without image files."""
    height, width = SIZE
    content = {
        "images": [coco_folder.image(image_id, height, width) for image_id in image_ids],
        "annotations": [person for image_id in image_ids for person in coco_annotations(people_of(image_id), image_id)],
        "categories": [coco_folder.CATEGORY],
    }
    return coco_folder.write(folder, content, "val", pictures=False)
