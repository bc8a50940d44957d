"""Where pictures and their truth come from: a set of shards, or a COCO folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from evaluation.scoring.truth import Truth, add_truth
from pipeline.annotations.coco import AnnotatedImage, PersonFilter, annotation_file, image_path, read_annotations
from pipeline.errors import InputError
from pipeline.sample import Size
from pipeline.storage.manifest import Manifest


@dataclass(frozen=True)
class Record:
    """A picture that is not decoded yet, and its truth.

    Attributes:
        image_id: COCO image id.
        height, width: px, as annotated.
        truth: COCO person annotations.
        data: the picture file's bytes, (N,) uint8.
        name: what messages call it.
        remedy: what to do if it is bad.
    """

    image_id: int
    height: int
    width: int
    truth: tuple[dict[str, Any], ...]
    data: NDArray[np.uint8]
    name: str
    remedy: str


class PictureSet(Protocol):
    """Pictures with truth, by index. One can be sent to another process."""

    @property
    def name(self) -> str:
        """What the user calls it."""
        ...

    def __len__(self) -> int:
        """Number of pictures."""
        ...

    @property
    def has_pictures(self) -> bool:
        """Whether there are pictures to read, and not their truth alone."""
        ...

    def ids(self) -> list[int]:
        """COCO image id of every picture."""
        ...

    def sizes(self) -> list[Size]:
        """(height, width) px of every picture."""
        ...

    def truth(self) -> Truth:
        """The annotations of every picture; InputError if two have one image id."""
        ...

    def records(self, indices: Sequence[int]) -> Iterator[Record]:
        """Some of the pictures, in the order asked for; InputError if one cannot be read."""
        ...


class ShardSet:
    """A set of shards. Raises InputError where it is missing or damaged."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = Manifest.load(folder, hash_modified=True)

    @property
    def name(self) -> str:
        """The folder."""
        return str(self.folder)

    def __len__(self) -> int:
        """Number of records."""
        return self.manifest.records

    @property
    def has_pictures(self) -> bool:
        """Records hold their pictures."""
        return True

    def ids(self) -> list[int]:
        """COCO image id of every record."""
        return [int(row["image_id"]) for row in self._rows(("image_id",), range(len(self)))]

    def sizes(self) -> list[Size]:
        """(height, width) px of every picture, from the records' columns."""
        return [(int(row["height"]), int(row["width"])) for row in self._rows(("height", "width"), range(len(self)))]

    def truth(self) -> Truth:
        """The annotations of every record, without a look at the pictures."""
        from pipeline.storage.records import unpack_truth

        rows = self._rows(("image_id", "truth"), range(len(self)))
        return _distinct((int(row["image_id"]), unpack_truth(row["truth"])) for row in rows)

    def records(self, indices: Sequence[int]) -> Iterator[Record]:
        """Some of the records, in the order asked for."""
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
            )

    def _rows(self, columns: Sequence[str], indices: Sequence[int]) -> Iterator[Any]:
        from pipeline.storage.mindrecord_reader import read_rows

        return read_rows(self.folder, self.manifest, columns, indices)


class CocoSet:
    """One split of a COCO folder. Raises InputError where its annotation file is missing or holds errors."""

    def __init__(self, folder: Path, split: str) -> None:
        self.root = folder / split
        self.file = annotation_file(folder, split)
        pictures, _ = read_annotations(self.file, PersonFilter())
        self.pictures: list[AnnotatedImage] = pictures

    @property
    def name(self) -> str:
        """The picture folder."""
        return str(self.root)

    def __len__(self) -> int:
        """Number of pictures in the annotation file."""
        return len(self.pictures)

    @property
    def has_pictures(self) -> bool:
        """Whether the split's picture folder is there; results can be scored without."""
        return self.root.is_dir()

    def ids(self) -> list[int]:
        """COCO image id of every picture."""
        return [picture.image_id for picture in self.pictures]

    def sizes(self) -> list[Size]:
        """(height, width) px of every picture, as annotated."""
        return [(picture.height, picture.width) for picture in self.pictures]

    def truth(self) -> Truth:
        """The annotations of every picture; the pictures need not be there."""
        return _distinct((picture.image_id, _truth(picture)) for picture in self.pictures)

    def records(self, indices: Sequence[int]) -> Iterator[Record]:
        """Some of the pictures, in the order asked for."""
        for index in indices:
            picture = self.pictures[index]
            yield Record(
                picture.image_id,
                picture.height,
                picture.width,
                _truth(picture),
                self._read(picture.file_name),
                name=str(self.root / picture.file_name),
                remedy=f"replace it, or take it out of {self.file.name}",
            )

    def _read(self, file_name: str) -> NDArray[np.uint8]:
        path = self.root / file_name
        try:
            return np.frombuffer(Path(image_path(self.root, file_name)).read_bytes(), dtype=np.uint8)
        except FileNotFoundError:
            raise InputError(f"{path}: no such file, but {self.file} names it") from None
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}") from error


def _truth(picture: AnnotatedImage) -> tuple[dict[str, Any], ...]:
    return tuple(person.truth for person in picture.people)


def _distinct(pictures: Iterator[tuple[int, tuple[dict[str, Any], ...]]]) -> Truth:
    truth: Truth = {}
    for image_id, people in pictures:
        add_truth(truth, image_id, people)
    return truth


def load_pictures(pictures: PictureSet, image_ids: Sequence[int]) -> dict[int, NDArray[np.uint8]]:
    """Read and decode some pictures of a set, (H, W, 3) uint8 BGR by image id, in the order asked for."""
    places = {image_id: i for i, image_id in enumerate(pictures.ids())}
    records = pictures.records([places[image_id] for image_id in image_ids])
    return {record.image_id: load_picture(record) for record in records}


def load_picture(record: Record) -> NDArray[np.uint8]:
    """Decode a record's picture, (H, W, 3) uint8 BGR; InputError if it is damaged or not of the annotated size."""
    from pipeline.storage.images import decode_image

    try:
        image = decode_image(record.data, strict=True)
    except InputError as error:
        raise InputError(f"{record.name}: {error}: {record.remedy}") from error
    height, width, _ = image.shape
    if (height, width) != (record.height, record.width):
        sizes = f"{width}x{height} px, its annotation says {record.width}x{record.height}"
        raise InputError(f"{record.name}: has {sizes}: {record.remedy}")
    return image
