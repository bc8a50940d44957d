"""Dataset: scenes written as a COCO folder, in parallel and all or nothing.

A picture is a function of (seed, split, index, size) alone, so the bytes do not depend on the number of workers.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import InputError
from pipeline.system.cpu import default_workers
from pipeline.system.processes import exit_with_parent_options

RECIPE = "synthetic.json"
"""Written last into the folder: what it was made from."""

DRAWING = 1
"""Changes whenever the same arguments draw other pictures or annotations, so that older folders are made anew."""

SPLITS = ("train2017", "val2017")
MOST_PICTURES = 9_999_999
"""A split's image ids are its number times one more than this, plus the picture's index, plus one."""

_BATCH = 64
_QUALITY = 90
_IDS_PER_IMAGE = 100

_BONES = (
    (16, 14), (14, 12), (17, 15), (15, 13), (12, 13), (6, 12), (7, 13), (6, 7), (6, 8), (7, 9), (8, 10), (9, 11),
    (2, 3), (1, 2), (1, 3), (2, 4), (3, 5), (4, 6), (5, 7),
)  # fmt: skip
"""COCO's own `skeleton` of the category person, 1-based."""


@dataclass(frozen=True)
class Recipe:
    """What a dataset is a function of."""

    train: int
    val: int
    size: int
    seed: int
    pictures: bool
    drawing: int = DRAWING


@dataclass(frozen=True)
class _Batch:
    """Consecutive pictures that one worker draws."""

    recipe: Recipe
    split: int
    start: int
    stop: int
    folder: Path


def _image_id(split: int, index: int) -> int:
    return split * (MOST_PICTURES + 1) + index + 1


def _draw_one(batch: _Batch, index: int) -> tuple[str, list[str]]:
    """The json of one image and of its annotations; writes the picture if the recipe wants pictures."""
    import numpy as np

    from pipeline.synthetic.scenes import draw_scene, scene_size

    recipe = batch.recipe
    rng = np.random.default_rng((recipe.seed, batch.split, index))
    height, width = scene_size(rng, recipe.size)
    scene = draw_scene(rng, height, width, picture=recipe.pictures)
    image_id = _image_id(batch.split, index)
    name = f"{image_id:012d}.jpg"
    if scene.image is not None:
        import simplejpeg

        data = simplejpeg.encode_jpeg(scene.image, quality=_QUALITY, colorspace="BGR", colorsubsampling="420")
        (batch.folder / name).write_bytes(data)
    image = {
        "license": 1,
        "file_name": name,
        "coco_url": "",
        "height": height,
        "width": width,
        "date_captured": "2017-01-01 00:00:00",
        "flickr_url": "",
        "id": image_id,
    }
    annotations = [
        json.dumps({**annotation, "image_id": image_id, "category_id": 1, "id": image_id * _IDS_PER_IMAGE + k})
        for k, annotation in enumerate(scene.annotations)
    ]
    return json.dumps(image), annotations


def _draw_batch(batch: _Batch) -> list[tuple[str, list[str]]]:
    import cv2

    cv2.setNumThreads(0)
    return [_draw_one(batch, index) for index in range(batch.start, batch.stop)]


def _head() -> dict[str, Any]:
    from pipeline.skeleton import COCO_KEYPOINTS

    return {
        "info": {
            "description": "Synthetic people in COCO's format",
            "url": "",
            "version": str(DRAWING),
            "year": 2017,
            "contributor": "pipeline.synthetic",
            "date_created": "2017/01/01",
        },
        "licenses": [{"url": "https://www.apache.org/licenses/LICENSE-2.0", "id": 1, "name": "Apache License 2.0"}],
        "categories": [
            {
                "supercategory": "person",
                "id": 1,
                "name": "person",
                "keypoints": list(COCO_KEYPOINTS),
                "skeleton": [list(bone) for bone in _BONES],
            }
        ],
    }


def _write_annotations(path: Path, drawn: Iterator[tuple[str, list[str]]]) -> None:
    """Stream the annotations as they come, then the images: any number fits in memory."""
    images: list[str] = []
    separator = "\n"
    with path.open("w", encoding="ascii") as file:
        file.write(json.dumps(_head())[:-1] + ', "annotations": [')
        for image, annotations in drawn:
            images.append(image)
            for annotation in annotations:
                file.write(separator + annotation)
                separator = ",\n"
        file.write('\n], "images": [\n' + ",\n".join(images) + "\n]}\n")


def _write_split(folder: Path, recipe: Recipe, split: int, workers: int) -> None:
    from joblib import Parallel, delayed
    from tqdm import tqdm

    name, count = SPLITS[split], (recipe.train, recipe.val)[split]
    pictures = folder / name
    pictures.mkdir()
    batches = (_Batch(recipe, split, start, min(start + _BATCH, count), pictures) for start in range(0, count, _BATCH))
    workers = min(workers, -(-count // _BATCH)) or 1
    done = Parallel(n_jobs=workers, return_as="generator", **exit_with_parent_options())(
        delayed(_draw_batch)(batch) for batch in batches
    )
    with tqdm(total=count, desc=name, unit=" pictures", disable=None) as progress:

        def drawn() -> Iterator[tuple[str, list[str]]]:
            for batch in done:
                yield from batch
                progress.update(len(batch))

        _write_annotations(folder / "annotations" / f"person_keypoints_{name}.json", drawn())


def _is_made(out: Path, recipe: Recipe) -> bool:
    """Whether `out` holds exactly this dataset; InputError if it holds something that is not ours to replace."""
    if not out.exists():
        return False
    if not out.is_dir():
        raise InputError(f"{out}: is a file; --out must be a folder that does not exist or one made by this command")
    record = out / RECIPE
    if not record.is_file():
        if any(out.iterdir()):
            raise InputError(
                f"{out}: not made by pipeline.synthetic (no {RECIPE} in it); give another --out or remove it"
            )
        return False
    try:
        found = json.loads(record.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{record}: not json ({error}); remove {out} to have it made again") from error
    return bool(found == asdict(recipe)) and _is_whole(out, recipe)


def _is_whole(out: Path, recipe: Recipe) -> bool:
    for name, count in zip(SPLITS, (recipe.train, recipe.val), strict=True):
        if not (out / "annotations" / f"person_keypoints_{name}.json").is_file() or not (out / name).is_dir():
            return False
        if recipe.pictures and sum(entry.suffix == ".jpg" for entry in (out / name).iterdir()) != count:
            return False
    return True


def _check(train: int, val: int, size: int, seed: int) -> None:
    for name, value in (("train", train), ("val", val)):
        if not 0 <= value <= MOST_PICTURES:
            raise InputError(f"{name}: {value} pictures; 0 to {MOST_PICTURES} are possible")
    if size < 32 or seed < 0:
        raise InputError(f"size {size}, seed {seed}: size must be at least 32 px and seed must not be negative")


def generate(
    out: Path,
    *,
    train: int,
    val: int,
    size: int = 256,
    seed: int = 0,
    workers: int | None = None,
    pictures: bool = True,
) -> bool:
    """Make a dataset of synthetic people in COCO's layout.

    It is drawn in a temporary folder beside `out` that is renamed when complete, so `out` is whole or absent. A
    complete dataset with the same arguments is left alone; one with other arguments is replaced.

    Args:
        out: folder to write: annotations/person_keypoints_{train,val}2017.json, train2017/ and val2017/ with JPEGs.
        train: number of training pictures, 0 to MOST_PICTURES.
        val: number of held-out pictures, 0 to MOST_PICTURES.
        size: longer side of the pictures in px; they are square, 4:3, 3:4 and 3:2.
        seed: not negative; same seed, same bytes.
        workers: processes, one a core if None; the result does not depend on it.
        pictures: without, only the annotations are made, the same as with pictures.

    Returns:
        False if the dataset was there already.

    Raises:
        InputError: `out` is a file, or a folder that this function did not make, or a number is out of range.
    """
    _check(train, val, size, seed)
    recipe = Recipe(train=train, val=val, size=size, seed=seed, pictures=pictures)
    if _is_made(out, recipe):
        return False
    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # of a run that was killed
    try:
        (part / "annotations").mkdir(parents=True)
        for split in range(len(SPLITS)):
            _write_split(part, recipe, split, workers or default_workers())
        (part / RECIPE).write_text(json.dumps(asdict(recipe), indent=2) + "\n", encoding="utf-8")
        if out.exists():
            shutil.rmtree(out)
        part.rename(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return True
