"""Plan a set of shards: which pictures go into which file, and what identifies a finished file.

Nothing here depends on the number of workers or on time, so the same source and options give the same bytes.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pipeline.annotations.coco import AnnotatedImage, PersonFilter, read_annotations
from pipeline.annotations.sources import Candidate, Split, SplitFields, resolve_image_ids
from pipeline.errors import InputError
from pipeline.storage.manifest import Source
from pipeline.storage.records import SCHEMA, VERSION

MAX_FILE_BYTES = 128 << 20
"""A larger picture file is a bad picture."""

_MIN_PAGE, _MAX_PAGE = 1 << 20, 256 << 20
_MIN_HEADER, _MAX_HEADER = 1 << 16, 128 << 20
_PERSON_BYTES = 2300
_PAGE_ENTRY_BYTES = 256
_FEW = 16
_SPREAD = 8


@dataclass(frozen=True)
class BuildOptions:
    """What a set is built with.

    Attributes:
        person_filter: who trains.
        keep_empty: keep pictures without a trainable person.
        records_per_shard: pictures a file, at most; small sets are spread over several files all the same.
        skip_bad: leave bad pictures out rather than fail.
    """

    person_filter: PersonFilter = field(default_factory=PersonFilter)
    keep_empty: bool = False
    records_per_shard: int = 256
    skip_bad: bool = False

    def to_json(self) -> dict[str, Any]:
        """As the manifest holds them."""
        return {
            "min_keypoints": self.person_filter.min_keypoints,
            "min_area": self.person_filter.min_area,
            "keep_empty": self.keep_empty,
            "records_per_shard": self.records_per_shard,
            "on_bad_image": "skip" if self.skip_bad else "fail",
        }


@dataclass(frozen=True)
class Layout:
    """Bytes of a MindRecord page and header; files that are read together must agree in both."""

    page_size: int
    header_size: int


@dataclass(frozen=True)
class Task:
    """One file to write.

    Attributes:
        file: its name.
        images: what goes in, each with the index of its source.
        image_folders: each source's picture folder.
        layout: of the file.
        person_filter: who trains.
        skip_bad: leave bad pictures out.
        key: identifies what the file must hold; a finished file with the same key is kept.
    """

    file: str
    images: tuple[tuple[int, AnnotatedImage], ...]
    image_folders: tuple[Path, ...]
    layout: Layout
    person_filter: PersonFilter
    skip_bad: bool
    key: str


@dataclass(frozen=True)
class Plan:
    """All files of a set, the sources they are made from, and the bytes of their pictures."""

    sources: tuple[Source, ...]
    tasks: tuple[Task, ...]
    picture_bytes: int


def make_plan(folders: Sequence[SplitFields], options: BuildOptions) -> Plan:
    """Read the annotation files and assign every picture to a file.

    Args:
        folders: what to read: COCO folder, split and, where it is not COCO's own, annotation file.
        options: what to keep and how to cut it.

    Raises:
        InputError: an annotation file or picture folder is missing or wrong, no picture is left, or ids collide.
    """
    splits = [Split(*folder) for folder in folders]
    image_folders = tuple(split.image_folder.absolute() for split in splits)
    sources: list[Source] = []
    candidates: list[Candidate] = []
    for index, split in enumerate(splits):
        pictures, sha256 = read_annotations(split.annotation_path, options.person_filter)
        if not image_folders[index].is_dir():
            raise InputError(f"{split.image_folder}: no such folder; it should hold the pictures of {split.split}")
        sources.append(Source(str(split.coco), split.split, split.annotation_path.name, sha256))
        chosen = [picture for picture in pictures if options.keep_empty or picture.has_trainable_person]
        candidates.extend(
            Candidate(index, picture, _file_bytes(f"{image_folders[index]}{os.sep}{picture.file_name}"))
            for picture in chosen
        )
    if not candidates:
        kind = "picture" if options.keep_empty else "picture with a trainable person (--keep-empty keeps the others)"
        raise InputError(f"{', '.join(str(split.annotation_path) for split in splits)}: no {kind}")
    settled = resolve_image_ids(candidates, image_folders)
    sources = [
        replace(source, repeated=repeated, renumbered=renumbered)
        for source, repeated, renumbered in zip(sources, settled.repeated, settled.renumbered, strict=True)
    ]
    return Plan(tuple(sources), _tasks(settled.kept, sources, image_folders, options), _total(settled.kept))


def _tasks(
    kept: Sequence[Candidate], sources: Sequence[Source], image_folders: tuple[Path, ...], options: BuildOptions
) -> tuple[Task, ...]:
    groups = [kept[cut] for cut in _even_slices(len(kept), options.records_per_shard)]
    layout = _layout(groups)
    return tuple(
        Task(
            file=f"shard-{number:05d}.mindrecord",
            images=tuple((candidate.source, candidate.image) for candidate in group),
            image_folders=image_folders,
            layout=layout,
            person_filter=options.person_filter,
            skip_bad=options.skip_bad,
            key=_key(sources, options.person_filter, layout, group),
        )
        for number, group in enumerate(groups)
    )


def _even_slices(count: int, most: int) -> list[slice]:
    """Cut `count` pictures into files of at most `most`, whose sizes differ by one at most.

    Small sets still get up to eight files, of sixteen pictures or more, so that there is something to do in parallel.
    """
    files = max(-(-count // most), min(_SPREAD, -(-count // _FEW)))
    cuts = [count * index // files for index in range(files + 1)]
    return [slice(start, end) for start, end in itertools.pairwise(cuts)]


def _file_bytes(path: str) -> int:
    try:
        return os.stat(path).st_size  # noqa: PTH116 (118,000 Path objects would take a second)
    except OSError:
        return -1


def _total(kept: Sequence[Candidate]) -> int:
    return sum(max(candidate.file_bytes, 0) for candidate in kept)


def _record_bytes(candidate: Candidate) -> int:
    """Upper bound of a record's blob; after a dilation by 16 px a row has at most W / 17 runs of four bytes."""
    if candidate.file_bytes > MAX_FILE_BYTES:
        return 0
    picture = candidate.image
    ignored = not all(person.trainable for person in picture.people)
    runs = picture.height * picture.width // 4 + 4096 if ignored else 0
    return max(candidate.file_bytes, 0) + _PERSON_BYTES * len(picture.people) + runs


def _layout(groups: Sequence[Sequence[Candidate]]) -> Layout:
    """The smallest powers of two that fit; MindRecord's defaults would make every file 50 MB."""
    needed = [[_record_bytes(candidate) for candidate in group] for group in groups]
    page = min(_power_of_two(max(map(max, needed)) + 4096, _MIN_PAGE), _MAX_PAGE)
    # a page can be left half empty by a large record, and scalars have pages of their own
    pages = max(2 * (sum(group) // page) + 8 for group in needed)
    return Layout(page, min(_power_of_two(pages * _PAGE_ENTRY_BYTES, _MIN_HEADER), _MAX_HEADER))


def _power_of_two(value: int, least: int) -> int:
    return max(1 << (value - 1).bit_length(), least)


def _key(sources: Sequence[Source], person_filter: PersonFilter, layout: Layout, group: Sequence[Candidate]) -> str:
    content = {
        "format": VERSION,
        "schema": SCHEMA,
        "sources": [source.json_sha256 for source in sources],
        "rules": asdict(person_filter),
        "layout": {"page": layout.page_size, "header": layout.header_size},
        "pictures": [(one.source, one.image.image_id, one.image.file_name, one.file_bytes) for one in group],
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
