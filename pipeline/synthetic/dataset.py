"""Write scenes as a COCO folder: in parallel, and atomically.

An image is a function of (seed, split, index, size) only, so the bytes do not depend on the number of workers.
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

SPEC_FILE = "synthetic.json"
"""File with the arguments of the dataset; it is written last."""

GENERATOR_VERSION = 1
"""Increase it when the same arguments give other images or annotations: folders of older versions are regenerated."""

SPLITS = ("train2017", "val2017")
MAX_PICTURES = 9_999_999
"""Maximum number of images per split; `_image_id` reserves a range of this size for each split."""

_IMAGES_PER_TASK = 64
_JPEG_QUALITY = 90
_IDS_PER_IMAGE = 100

_COCO_SKELETON = (
    (16, 14), (14, 12), (17, 15), (15, 13), (12, 13), (6, 12), (7, 13), (6, 7), (6, 8), (7, 9), (8, 10), (9, 11),
    (2, 3), (1, 2), (1, 3), (2, 4), (3, 5), (4, 6), (5, 7),
)  # fmt: skip
"""COCO's `skeleton` of the category person, 1-based."""


@dataclass(frozen=True)
class DatasetSpec:
    """Arguments that determine a dataset. SPEC_FILE holds the fields under these names."""

    train: int
    val: int
    size: int
    seed: int
    pictures: bool
    drawing: int = GENERATOR_VERSION


@dataclass(frozen=True)
class _Task:
    """A range of consecutive images of one split, rendered by one worker."""

    spec: DatasetSpec
    split: int
    start: int
    stop: int
    folder: Path


def _image_id(split: int, index: int) -> int:
    return split * (MAX_PICTURES + 1) + index + 1


def _render_image(task: _Task, index: int) -> tuple[str, list[str]]:
    """Render and write one image (if requested); return the JSON text of the image and of each of its annotations."""
    import numpy as np

    from pipeline.synthetic.scenes import render_scene, sample_scene_size

    spec = task.spec
    rng = np.random.default_rng((spec.seed, task.split, index))
    height, width = sample_scene_size(rng, spec.size)
    scene = render_scene(rng, height, width, with_image=spec.pictures)
    image_id = _image_id(task.split, index)
    name = f"{image_id:012d}.jpg"
    if scene.image is not None:
        import simplejpeg

        data = simplejpeg.encode_jpeg(scene.image, quality=_JPEG_QUALITY, colorspace="BGR", colorsubsampling="420")
        (task.folder / name).write_bytes(data)
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


def _render_task(task: _Task) -> list[tuple[str, list[str]]]:
    import cv2

    cv2.setNumThreads(0)
    return [_render_image(task, index) for index in range(task.start, task.stop)]


def _json_header() -> dict[str, Any]:
    from pipeline.skeleton import COCO_KEYPOINTS

    return {
        "info": {
            "description": "Synthetic people in COCO's format",
            "url": "",
            "version": str(GENERATOR_VERSION),
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
                "skeleton": [list(bone) for bone in _COCO_SKELETON],
            }
        ],
    }


def _write_annotations(path: Path, rendered: Iterator[tuple[str, list[str]]]) -> None:
    """Write each annotation when it arrives, and all images at the end, so that memory use stays small."""
    images: list[str] = []
    separator = "\n"
    with path.open("w", encoding="ascii") as file:
        file.write(json.dumps(_json_header())[:-1] + ', "annotations": [')
        for image, annotations in rendered:
            images.append(image)
            for annotation in annotations:
                file.write(separator + annotation)
                separator = ",\n"
        file.write('\n], "images": [\n' + ",\n".join(images) + "\n]}\n")


def _write_split(folder: Path, spec: DatasetSpec, split: int, workers: int) -> None:
    from joblib import Parallel, delayed
    from tqdm import tqdm

    name, count = SPLITS[split], (spec.train, spec.val)[split]
    pictures = folder / name
    pictures.mkdir()
    tasks = (
        _Task(spec, split, start, min(start + _IMAGES_PER_TASK, count), pictures)
        for start in range(0, count, _IMAGES_PER_TASK)
    )
    workers = min(workers, -(-count // _IMAGES_PER_TASK)) or 1
    results = Parallel(n_jobs=workers, return_as="generator", **exit_with_parent_options())(
        delayed(_render_task)(task) for task in tasks
    )
    with tqdm(total=count, desc=name, unit=" pictures", disable=None) as progress:

        def rendered() -> Iterator[tuple[str, list[str]]]:
            for batch in results:
                yield from batch
                progress.update(len(batch))

        _write_annotations(folder / "annotations" / f"person_keypoints_{name}.json", rendered())


def _is_up_to_date(out: Path, spec: DatasetSpec) -> bool:
    """True if `out` holds exactly this dataset.

    Raises:
        InputError: `out` was not written by this module, so it must not be replaced.
    """
    if not out.exists():
        return False
    if not out.is_dir():
        raise InputError(f"{out}: is a file; --out must be a new folder or one written by pipeline.synthetic")
    record = out / SPEC_FILE
    if not record.is_file():
        if any(out.iterdir()):
            raise InputError(
                f"{out}: not written by pipeline.synthetic (it has no {SPEC_FILE}); choose another --out or remove it"
            )
        return False
    try:
        found = json.loads(record.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{record}: invalid JSON ({error}); remove {out} to generate it again") from error
    return bool(found == asdict(spec)) and _is_complete(out, spec)


def _is_complete(out: Path, spec: DatasetSpec) -> bool:
    for name, count in zip(SPLITS, (spec.train, spec.val), strict=True):
        if not (out / "annotations" / f"person_keypoints_{name}.json").is_file() or not (out / name).is_dir():
            return False
        if spec.pictures and sum(entry.suffix == ".jpg" for entry in (out / name).iterdir()) != count:
            return False
    return True


def _check_arguments(train: int, val: int, size: int, seed: int) -> None:
    for name, value in (("train", train), ("val", val)):
        if not 0 <= value <= MAX_PICTURES:
            raise InputError(f"--{name} {value}: must be from 0 to {MAX_PICTURES}")
    if size < 32 or seed < 0:
        raise InputError(f"--size {size}, --seed {seed}: size must be at least 32 px and seed must not be negative")


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
    """Generate a dataset of synthetic people in COCO's layout.

    The dataset is written into a temporary folder beside `out`, which is renamed when it is complete. A complete
    dataset with the same arguments is kept; a dataset with other arguments is replaced.

    Args:
        out: output folder: annotations/person_keypoints_{train,val}2017.json, train2017/ and val2017/ with JPEGs.
        train: number of training images, 0 to MAX_PICTURES.
        val: number of held-out images, 0 to MAX_PICTURES.
        size: longer side of the images in px; aspect ratios are 1:1, 4:3, 3:4 and 3:2.
        seed: random seed, not negative; the same seed gives the same bytes.
        workers: number of processes, one per CPU core if None; the result does not depend on it.
        pictures: False writes only the annotations, which are the same as with images.

    Returns:
        True if the dataset was generated, False if it already existed.

    Raises:
        InputError: `out` is a file or a folder not written by this function, or a number is out of range.
    """
    _check_arguments(train, val, size, seed)
    spec = DatasetSpec(train=train, val=val, size=size, seed=seed, pictures=pictures)
    if _is_up_to_date(out, spec):
        return False
    temporary = out.with_name(f".{out.name}.temporary")
    shutil.rmtree(temporary, ignore_errors=True)  # left by a process that was killed
    try:
        (temporary / "annotations").mkdir(parents=True)
        for split in range(len(SPLITS)):
            _write_split(temporary, spec, split, workers or default_workers())
        (temporary / SPEC_FILE).write_text(json.dumps(asdict(spec), indent=2) + "\n", encoding="utf-8")
        if out.exists():
            shutil.rmtree(out)
        temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return True
