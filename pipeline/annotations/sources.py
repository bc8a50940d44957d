"""Sources of images: splits of COCO folders and other annotation files; one set can combine several sources.

Image ids must be unique within a set: evaluation identifies images by id, and the id seeds the random augmentation of a
sample. COCO 2014 and COCO 2017 contain the same images with equal ids and different file names, so an image that occurs
again is left out and the record of the first source is kept. Custom annotations often number their images from 1, so a
different image whose id is already used gets a new id.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from pipeline.annotations.annotated_image import AnnotatedImage
from pipeline.annotations.coco import annotation_file
from pipeline.errors import InputError

NEW_ID_OFFSET = 10**12
"""An id that is already used is increased by this number times the index of its source."""

_TAIL_BYTES = 4096
"""Bytes at the end of two files that are compared to find out whether the images are the same."""


class Split(NamedTuple):
    """Images of a split in a COCO folder, and their annotation file; None stands for COCO's default path.

    The images are in `coco/split`, or, as CVAT and Datumaro export them, in `coco/images/split` or `coco/images`.
    """

    coco: Path
    split: str
    annotations: Path | None = None

    @property
    def image_folder(self) -> Path:
        """Folder of the images; `coco/split` if none exists."""
        usual, images = self.coco / self.split, self.coco / "images"
        return next((folder for folder in (usual, images / self.split, images) if folder.is_dir()), usual)

    @property
    def annotation_path(self) -> Path:
        """Path of the annotation file."""
        return self.annotations or annotation_file(self.coco, self.split)


SplitFields = tuple[Path, str] | tuple[Path, str, Path | None]
"""Fields of a `Split`: COCO folder, split and, optionally, annotation file."""


def splits_from_options(
    coco: Sequence[Path], split: Sequence[str], annotations: Sequence[Path], pictures: Sequence[Path]
) -> list[Split]:
    """Combine the values of command-line options into sources, COCO folders first.

    Args:
        coco: COCO folders. A single folder is combined with every split.
        split: splits of these folders. A single split is combined with every folder.
        annotations: annotation files outside a COCO folder.
        pictures: image folders of these annotation files.

    Raises:
        InputError: the numbers of values do not match, or no source is given.
    """
    if len(coco) == 1:
        coco = list(coco) * len(split)
    if len(split) == 1:
        split = list(split) * len(coco)
    for first, first_values, second, second_values in (
        ("--coco", coco, "--split", split),
        ("--annotations", annotations, "--pictures", pictures),
    ):
        if len(first_values) != len(second_values):
            raise InputError(
                f"{first} is given {len(first_values)} times and {second} {len(second_values)} times; "
                "give both the same number of times"
            )
    if not coco and not annotations:
        raise InputError("no source: give --coco and --split, or --annotations and --pictures")
    folders = [folder.absolute() for folder in pictures]
    custom = [Split(folder.parent, folder.name, file) for folder, file in zip(folders, annotations, strict=True)]
    return [*map(Split, coco, split), *custom]


@dataclass(frozen=True)
class Candidate:
    """An image that may be added to a set.

    Attributes:
        source: index of its source.
        image: the image with its annotations.
        file_bytes: size of its file in bytes; -1 if the file is missing.
    """

    source: int
    image: AnnotatedImage
    file_bytes: int


@dataclass(frozen=True)
class ResolvedImages:
    """Images with unique ids.

    Attributes:
        kept: images of the set.
        repeated: for each source, the number of images left out because an earlier source has them.
        renumbered: for each source, the number of images that got a new id.
    """

    kept: list[Candidate]
    repeated: list[int]
    renumbered: list[int]


def resolve_image_ids(candidates: Sequence[Candidate], folders: Sequence[Path]) -> ResolvedImages:
    """Leave out images that an earlier source has, and give new ids to other images whose id is already used.

    Two images with one id are the same if their widths and heights, the sizes of their files and the last 4 KB of their
    files are equal.

    Args:
        candidates: images of all sources, ordered by source. Ids are unique within a source.
        folders: image folder of each source.

    Raises:
        InputError: a new id is already used, too.
    """
    result = ResolvedImages([], [0] * len(folders), [0] * len(folders))
    by_id: dict[int, list[Candidate]] = defaultdict(list)
    used_ids: set[int] = set()
    for candidate in candidates:
        image_id, source = candidate.image.image_id, candidate.source
        if any(_is_same(candidate, other, folders) for other in by_id[image_id]):
            result.repeated[source] += 1
            continue
        by_id[image_id].append(candidate)
        if image_id in used_ids:
            image_id += NEW_ID_OFFSET * source
            result.renumbered[source] += 1
        if image_id in used_ids:
            path = folders[source] / candidate.image.file_name
            original_id = candidate.image.image_id
            raise InputError(
                f"{path}: other images use its id {original_id} and its new id {image_id}; change its id in its file"
            )
        used_ids.add(image_id)
        result.kept.append(replace(candidate, image=candidate.image.with_id(image_id)))
    return result


def _is_same(a: Candidate, b: Candidate, folders: Sequence[Path]) -> bool:
    if (a.image.height, a.image.width, a.file_bytes) != (b.image.height, b.image.width, b.file_bytes):
        return False
    return a.file_bytes >= 0 and _read_tail(a, folders) == _read_tail(b, folders)


def _read_tail(candidate: Candidate, folders: Sequence[Path]) -> bytes | None:
    try:
        with (folders[candidate.source] / candidate.image.file_name).open("rb", buffering=0) as file:
            file.seek(max(candidate.file_bytes - _TAIL_BYTES, 0), os.SEEK_SET)
            return file.read(_TAIL_BYTES)
    except OSError:
        return None
