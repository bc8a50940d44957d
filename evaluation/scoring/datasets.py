"""Datasets for evaluation: images and ground truth from shards or from a COCO folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from evaluation.saved_maps.writer import DatasetIdentity
from evaluation.scoring.ground_truth import GroundTruth, add_annotations
from pipeline.annotations.annotated_image import AnnotatedImage, PersonFilter
from pipeline.annotations.coco import annotation_file, read_annotations
from pipeline.annotations.image_files import ImageFolder
from pipeline.annotations.sources import Split
from pipeline.errors import InputError
from pipeline.images.exif import ExifRule
from pipeline.sample import Size
from pipeline.storage.manifest import Manifest
from pipeline.system.files import json_sha256


@dataclass(frozen=True)
class Record:
    """An encoded image and its annotations.

    Attributes:
        image_id: COCO image id.
        height, width: size in px according to the annotation file.
        annotations: COCO person annotations.
        data: (N,) uint8 bytes of the image file.
        name: name of the image in messages.
        remedy: what the user can do if the image is damaged; the end of an error message.
        exif: rule for its EXIF orientation.
    """

    image_id: int
    height: int
    width: int
    annotations: tuple[dict[str, Any], ...]
    data: NDArray[np.uint8]
    name: str
    remedy: str
    exif: ExifRule = "apply"


class EvaluationDataset(Protocol):
    """Images with ground truth, accessed by index. Instances can be pickled."""

    @property
    def name(self) -> str:
        """Path that the user gave."""
        ...

    def __len__(self) -> int:
        """Return the number of images."""
        ...

    @property
    def has_images(self) -> bool:
        """True if the image files are available, False if there are only annotations."""
        ...

    def image_ids(self) -> list[int]:
        """Return the COCO image id of every image."""
        ...

    def text_ids(self) -> dict[int, str]:
        """Return the ids of images that are text in the user's annotation file, by image id."""
        ...

    def sizes(self) -> list[Size]:
        """Return (height, width) in px of every image."""
        ...

    def ground_truth(self) -> GroundTruth:
        """Return the annotations of every image; raise InputError if an image id occurs twice."""
        ...

    def records(self, indices: Sequence[int]) -> Iterator[Record]:
        """Yield the images of `indices` in that order; raise InputError if one cannot be read."""
        ...


class ShardDataset:
    """Dataset in MindRecord shards. Raises InputError if it is missing or damaged."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = Manifest.load(folder, hash_modified=True)

    @property
    def name(self) -> str:
        """Path of the folder."""
        return str(self.folder)

    def __len__(self) -> int:
        """Return the number of records."""
        return self.manifest.records

    @property
    def has_images(self) -> bool:
        """Always True: the records contain the images."""
        return True

    def image_ids(self) -> list[int]:
        """Return the COCO image id of every record."""
        return [int(row["image_id"]) for row in self._rows(("image_id",), range(len(self)))]

    def text_ids(self) -> dict[int, str]:
        """Return the ids that are text in the annotation files, from the manifest."""
        return self.manifest.text_ids

    def sizes(self) -> list[Size]:
        """Return (height, width) in px of every image, from the columns of the records."""
        return [(int(row["height"]), int(row["width"])) for row in self._rows(("height", "width"), range(len(self)))]

    def ground_truth(self) -> GroundTruth:
        """Return the annotations of every record, without reading the images."""
        from pipeline.storage.records import unpack_truth

        rows = self._rows(("image_id", "truth"), range(len(self)))
        return _to_ground_truth((int(row["image_id"]), unpack_truth(row["truth"])) for row in rows)

    def records(self, indices: Sequence[int]) -> Iterator[Record]:
        """Yield the records of `indices` in that order."""
        from pipeline.storage.records import raw_bytes, unpack_truth

        for row in self._rows(("image_id", "height", "width", "truth", "image"), indices):
            image_id = int(row["image_id"])
            yield Record(
                image_id,
                int(row["height"]),
                int(row["width"]),
                unpack_truth(row["truth"]),
                raw_bytes(row["image"]),
                name=f"image {image_id}",
                remedy="run make shards again",
                exif=self.manifest.exif,
            )

    def _rows(self, columns: Sequence[str], indices: Sequence[int]) -> Iterator[Any]:
        from pipeline.storage.mindrecord_reader import read_rows

        return read_rows(self.folder, self.manifest, columns, indices)


class CocoDataset:
    """One split of a COCO folder. Raises InputError if its annotation file is missing or invalid."""

    def __init__(self, folder: Path, split: str) -> None:
        self.root = Split(folder, split).image_folder
        self.file = annotation_file(folder, split)
        self.folder = ImageFolder(self.root)
        file = read_annotations(self.file, PersonFilter(), self.folder if self.root.is_dir() else None)
        self.images: list[AnnotatedImage] = file.images

    @property
    def name(self) -> str:
        """Path of the image folder."""
        return str(self.root)

    def __len__(self) -> int:
        """Return the number of images in the annotation file."""
        return len(self.images)

    @property
    def has_images(self) -> bool:
        """True if the image folder exists; it is not needed to score results."""
        return self.root.is_dir()

    def image_ids(self) -> list[int]:
        """Return the COCO image id of every image."""
        return [image.image_id for image in self.images]

    def text_ids(self) -> dict[int, str]:
        """Return the ids that are text in the annotation file."""
        return {image.image_id: image.text_id for image in self.images if image.text_id is not None}

    def sizes(self) -> list[Size]:
        """Return (height, width) in px of every image according to the annotation file."""
        return [(image.height, image.width) for image in self.images]

    def ground_truth(self) -> GroundTruth:
        """Return the annotations of every image; the image files are not needed."""
        return _to_ground_truth((image.image_id, _annotations(image)) for image in self.images)

    def records(self, indices: Sequence[int]) -> Iterator[Record]:
        """Yield the images of `indices` in that order."""
        for index in indices:
            image = self.images[index]
            yield Record(
                image.image_id,
                image.height,
                image.width,
                _annotations(image),
                self._read(image.file_name),
                name=str(self.root / image.file_name),
                remedy=f"replace the file, or remove the image from {self.file.name}",
            )

    def _read(self, file_name: str) -> NDArray[np.uint8]:
        path = self.root / file_name
        try:
            return np.frombuffer(Path(self.folder.file_path(file_name)).read_bytes(), dtype=np.uint8)
        except FileNotFoundError:
            raise InputError(f"{path}: no such file, but {self.file} lists it") from None
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}") from error


def _annotations(image: AnnotatedImage) -> tuple[dict[str, Any], ...]:
    return tuple(person.truth for person in image.people)


def _to_ground_truth(annotations_by_image: Iterator[tuple[int, tuple[dict[str, Any], ...]]]) -> GroundTruth:
    ground_truth: GroundTruth = {}
    for image_id, people in annotations_by_image:
        add_annotations(ground_truth, image_id, people)
    return ground_truth


def identify(dataset: EvaluationDataset) -> DatasetIdentity:
    """Return the identity of a dataset. It does not depend on the order of the images, or on where they are stored."""
    ground_truth = dataset.ground_truth()
    images = {
        str(image_id): [size, [[person.get("iscrowd", 0), person["keypoints"]] for person in ground_truth[image_id]]]
        for image_id, size in zip(dataset.image_ids(), dataset.sizes(), strict=True)
    }
    return DatasetIdentity(dataset.name, len(dataset), json_sha256(images))


def load_images(dataset: EvaluationDataset, image_ids: Sequence[int]) -> dict[int, NDArray[np.uint8]]:
    """Read and decode images; return (H, W, 3) uint8 BGR by image id, in the order of `image_ids`."""
    index = {image_id: i for i, image_id in enumerate(dataset.image_ids())}
    records = dataset.records([index[image_id] for image_id in image_ids])
    return {record.image_id: load_image(record) for record in records}


def load_image(record: Record) -> NDArray[np.uint8]:
    """Decode an image to (H, W, 3) uint8 BGR; raise InputError if it is damaged or not of the annotated size."""
    from pipeline.images.decode import decode_image

    try:
        return decode_image(record.data, size=(record.height, record.width), exif=record.exif, strict=True)
    except InputError as error:
        raise InputError(f"{record.name}: {error}: {record.remedy}") from error
