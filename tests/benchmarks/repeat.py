"""Images for benchmarks: a small COCO folder repeated to any size, and synthetic images with file sizes as in COCO."""

from __future__ import annotations

import json
import os
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg

from pipeline.annotations.annotated_image import PersonFilter
from pipeline.annotations.coco import annotation_file

NOISE_STDDEV = 6
"""Standard deviation of the noise added to synthetic images; pixel values are 0 to 255."""


def repeat_coco(
    coco: Path, split: str, records: int, out: Path, *, trainable_only: bool = False, pictures: bool = True
) -> Path:
    """Repeat the images of a split cyclically, with new names and ids.

    The files are hard links if the file system permits: they need no disk space and stay in the page cache.

    Args:
        coco: COCO folder.
        split: split of the COCO folder.
        records: number of images to create.
        out: new COCO folder, which must not contain the split.
        trainable_only: repeat only images with a trainable person.
        pictures: False creates empty image files.

    Returns:
        `out`, with `records` images in `SPLIT/` and their annotations.
    """
    content = json.loads(annotation_file(coco, split).read_bytes())
    people: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for person in content["annotations"]:
        people[person["image_id"]].append(person)
    images = content["images"]
    if trainable_only:
        images = [image for image in images if any(map(PersonFilter().is_trainable, people[image["id"]]))]
    if not images:
        raise ValueError(f"{annotation_file(coco, split)}: nothing to repeat")
    (out / split).mkdir(parents=True)
    content["images"], content["annotations"] = [], []
    for number in range(records):
        image = images[number % len(images)]
        suffix = Path(image["file_name"]).suffix
        copy = {**image, "id": number + 1, "file_name": f"{number + 1:012d}{suffix}"}
        if pictures:
            _link(coco / split / image["file_name"], out / split / copy["file_name"])
        else:
            (out / split / copy["file_name"]).touch()
        content["images"].append(copy)
        for person in people[image["id"]]:
            content["annotations"].append({**person, "id": len(content["annotations"]) + 1, "image_id": copy["id"]})
    annotation_file(out, split).parent.mkdir(exist_ok=True)
    annotation_file(out, split).write_text(json.dumps(content), encoding="utf-8")
    return out


def add_noise(folder: Path) -> None:
    """Add noise to synthetic images, so that their files are as large as COCO's: 165 KB at 640 px.

    Without noise the JPEGs have 64 KB and are decoded in half the time, while all other stages take as long.

    Args:
        folder: folder of the images, which are overwritten.
    """
    rng = np.random.default_rng(0)
    for path in sorted(folder.iterdir()):
        image = simplejpeg.decode_jpeg(path.read_bytes(), "BGR")
        grain = rng.normal(0, NOISE_STDDEV, image.shape[:2])[:, :, None]
        grained = np.clip(image + grain, 0, 255).astype(np.uint8)
        path.write_bytes(simplejpeg.encode_jpeg(grained, 95, "BGR", "444"))


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
