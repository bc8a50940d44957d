"""Small COCO folders with known content, for several test modules."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg

from pipeline.skeleton import COCO_KEYPOINTS

ROOT = Path(__file__).resolve().parents[2]


def real_coco() -> Path | None:
    """Return a COCO folder with real images: from the environment variable COCO_MINI, or beside the project."""
    folder = Path(os.environ.get("COCO_MINI", ROOT.parent / "shared" / "coco-mini"))
    return folder if folder.is_dir() else None


CATEGORY = {"id": 1, "name": "person", "supercategory": "person", "keypoints": list(COCO_KEYPOINTS), "skeleton": []}


def jpeg(height: int, width: int, seed: int = 0) -> bytes:
    """Return the bytes of a JPEG with noise."""
    pixels = np.random.default_rng(seed).integers(0, 255, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    image = np.ascontiguousarray(pixels.repeat(8, axis=0).repeat(8, axis=1)[:height, :width])
    return bytes(simplejpeg.encode_jpeg(image, quality=90, colorspace="BGR"))


def image(image_id: int, height: int = 48, width: int = 64) -> dict[str, Any]:
    return {"id": image_id, "file_name": f"{image_id:012d}.jpg", "height": height, "width": width, "license": 1}


def person(annotation_id: int, image_id: int, labelled: int = 17, area: float = 1500.0, crowd: int = 0) -> Any:
    """Return a person annotation with its first `labelled` keypoints labelled, in a box of 20x15 px at (10, 12)."""
    keypoints = []
    for index in range(17):
        keypoints += [10 + index, 12.5 + index % 3, 1 + index % 2] if index < labelled else [0, 0, 0]
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": 1,
        "iscrowd": crowd,
        "area": area,
        "bbox": [10, 12, 20, 15],
        "num_keypoints": labelled,
        "keypoints": keypoints,
        "segmentation": [[10.0, 12.0, 30.0, 12.0, 30.0, 27.0, 10.0, 27.0]],
    }


def mixed(count: int) -> dict[str, Any]:
    """Return annotations of `count` images: in turn one trainable person, a second small one, a crowd, nobody."""
    images, people = [], []
    for index in range(count):
        image_id = 100 + index
        images.append(image(image_id, 48 + index % 5, 64 + index % 7))
        kind = index % 4
        if kind in (0, 1):
            people.append(person(1000 + 10 * index, image_id, labelled=17 - index % 9))
        if kind == 1:
            people.append(person(1001 + 10 * index, image_id, area=300.0))
        if kind == 2:
            people.append(person(1000 + 10 * index, image_id, labelled=0, crowd=1))
    return {"images": images, "annotations": people, "categories": [copy.deepcopy(CATEGORY)]}


def write(folder: Path, content: Any, split: str = "train", *, pictures: bool = True) -> Path:
    """Write a COCO folder and return its path."""
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    (folder / split).mkdir(exist_ok=True)
    (folder / "annotations" / f"person_keypoints_{split}.json").write_text(json.dumps(content))
    for entry in content["images"] if pictures else ():
        data = jpeg(entry["height"], entry["width"], entry["id"])
        (folder / split / entry["file_name"]).write_bytes(data)
    return folder
