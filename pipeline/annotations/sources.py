"""Where pictures come from: splits of COCO folders and own annotations, several of them in one set.

Image ids have to be unique within a set: evaluation counts by them, and they decide a sample's chance. COCO 2014 and
2017 give one id to one picture under two names, so of a picture that comes again only the first source's record is
kept. Own annotations often count from 1, as others do, so another picture under a taken id gets a new one.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from pipeline.annotations.coco import AnnotatedImage, annotation_file
from pipeline.errors import InputError

NEW_ID_OFFSET = 10**12
"""A taken id is raised by this times the index of its source."""

_TAIL = 4096


class Split(NamedTuple):
    """Pictures in the folder `coco/split`, and their annotation file, by default where COCO has it."""

    coco: Path
    split: str
    annotations: Path | None = None

    @property
    def pictures(self) -> Path:
        """Folder of the pictures."""
        return self.coco / self.split

    @property
    def file(self) -> Path:
        """The annotation file."""
        return self.annotations or annotation_file(self.coco, self.split)


Folder = tuple[Path, str] | tuple[Path, str, Path | None]
"""The fields of a `Split`; the annotation file may be left out."""


def splits_from_options(
    coco: Sequence[Path], split: Sequence[str], annotations: Sequence[Path], pictures: Sequence[Path]
) -> list[Split]:
    """The sources that a command's options name, those in COCO's layout first.

    Args:
        coco: COCO folders.
        split: their splits; a single one of either goes with all of the other.
        annotations: annotation files anywhere else.
        pictures: their picture folders.

    Raises:
        InputError: the numbers do not match, or nothing is named.
    """
    if len(coco) == 1:
        coco = list(coco) * len(split)
    if len(split) == 1:
        split = list(split) * len(coco)
    for one, ones, other, others in (
        ("--coco", coco, "--split", split),
        ("--annotations", annotations, "--pictures", pictures),
    ):
        if len(ones) != len(others):
            raise InputError(
                f"{one} is given {len(ones)} times and {other} {len(others)} times; give both equally often"
            )
    if not coco and not annotations:
        raise InputError("no source: give --coco and --split, or --annotations and --pictures")
    folders = [folder.absolute() for folder in pictures]
    own = [Split(folder.parent, folder.name, file) for folder, file in zip(folders, annotations, strict=True)]
    return [*map(Split, coco, split), *own]


@dataclass(frozen=True)
class Candidate:
    """A picture that could go into a set.

    Attributes:
        source: index of its source.
        picture: itself.
        size: bytes of its file; -1 where it is missing.
    """

    source: int
    picture: AnnotatedImage
    size: int


@dataclass(frozen=True)
class ResolvedImages:
    """Pictures with unique ids, and for each source how many it repeated and how many got new ids."""

    kept: list[Candidate]
    repeated: list[int]
    renumbered: list[int]


def resolve_image_ids(candidates: Sequence[Candidate], folders: Sequence[Path]) -> ResolvedImages:
    """Leave out pictures that an earlier source has, and give other pictures under taken ids new ones.

    Two pictures under one id are the same if their sides, their files' sizes and last 4 KB agree.

    Args:
        candidates: source after source, each source's ids unique.
        folders: the sources' picture folders.

    Raises:
        InputError: a new id is taken, too.
    """
    result = ResolvedImages([], [0] * len(folders), [0] * len(folders))
    by_id: dict[int, list[Candidate]] = defaultdict(list)
    taken: set[int] = set()
    for candidate in candidates:
        image_id, source = candidate.picture.image_id, candidate.source
        if any(_is_same(candidate, other, folders) for other in by_id[image_id]):
            result.repeated[source] += 1
            continue
        by_id[image_id].append(candidate)
        if image_id in taken:
            image_id += NEW_ID_OFFSET * source
            result.renumbered[source] += 1
        if image_id in taken:
            path = folders[source] / candidate.picture.file_name
            wanted = candidate.picture.image_id
            raise InputError(f"{path}: other pictures have its id {wanted} and also {image_id}; give it another one")
        taken.add(image_id)
        result.kept.append(replace(candidate, picture=candidate.picture.with_id(image_id)))
    return result


def _is_same(a: Candidate, b: Candidate, folders: Sequence[Path]) -> bool:
    sides = [(one.picture.height, one.picture.width, one.size) for one in (a, b)]
    return sides[0] == sides[1] and a.size >= 0 and _tail(a, folders) == _tail(b, folders)


def _tail(candidate: Candidate, folders: Sequence[Path]) -> bytes | None:
    try:
        with (folders[candidate.source] / candidate.picture.file_name).open("rb", buffering=0) as file:
            file.seek(max(candidate.size - _TAIL, 0), os.SEEK_SET)
            return file.read(_TAIL)
    except OSError:
        return None
