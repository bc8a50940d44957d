"""Plan a set of shards: assign images to shards and compute the key that identifies a finished shard.

The plan depends neither on the number of workers nor on time, so the same sources and options give the same bytes.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pipeline.annotations.annotated_image import AnnotatedImage, PersonFilter
from pipeline.annotations.coco import read_annotations
from pipeline.annotations.image_files import ImageFolder
from pipeline.annotations.sources import Candidate, Split, SplitFields, resolve_image_ids
from pipeline.errors import InputError
from pipeline.images.exif import ExifRule
from pipeline.storage.manifest import Source
from pipeline.storage.records import SCHEMA, VERSION

MAX_FILE_BYTES = 128 << 20
"""Maximum size of an image file in bytes. A larger file counts as damaged."""

_MIN_PAGE_BYTES, _MAX_PAGE_BYTES = 1 << 20, 256 << 20
_MIN_HEADER_BYTES, _MAX_HEADER_BYTES = 1 << 16, 128 << 20

_PERSON_BYTES = 2300
"""Upper bound of the bytes that a person adds to a record: keypoints and annotation."""

_PAGE_ENTRY_BYTES = 256
"""Upper bound of the bytes that a page adds to the header."""

_MIN_RECORDS_PER_SHARD = 16
_SMALL_SET_SHARDS = 8
"""A small set is split into up to this many shards of at least `_MIN_RECORDS_PER_SHARD` images."""


@dataclass(frozen=True)
class BuildOptions:
    """Options of a build.

    Attributes:
        person_filter: criteria for trainable people.
        keep_empty: keep images without a trainable person.
        records_per_shard: maximum number of images in a shard. Small sets are split into several smaller shards.
        skip_bad: leave out missing and damaged images instead of failing.
        exif: whether pictures are turned as their EXIF orientation says.
        max_side: longest side in px of a stored picture; larger ones are stored smaller. None stores all as they are.
        skip_bad_annotations: leave out annotations with errors instead of failing.
        links_to: folders outside the image folders to which symbolic links may lead.
        follow_links: symbolic links may lead anywhere.
    """

    person_filter: PersonFilter = field(default_factory=PersonFilter)
    keep_empty: bool = False
    records_per_shard: int = 256
    skip_bad: bool = False
    exif: ExifRule = "apply"
    max_side: int | None = None
    skip_bad_annotations: bool = False
    links_to: tuple[Path, ...] = ()
    follow_links: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the options as they are stored in the manifest: what determines the records."""
        content = {
            "min_keypoints": self.person_filter.min_keypoints,
            "min_area": self.person_filter.min_area,
            "keep_empty": self.keep_empty,
            "records_per_shard": self.records_per_shard,
            "on_bad_image": "skip" if self.skip_bad else "fail",
            "exif": self.exif,
            "max_side": self.max_side,
        }
        # an option of later versions is stored if it is set, so that the manifests of sets without it do not change
        return content | ({"on_bad_annotation": "skip"} if self.skip_bad_annotations else {})


@dataclass(frozen=True)
class Layout:
    """Layout of a MindRecord file. Files that are read together must have the same layout.

    Attributes:
        page_size: size of a page in bytes.
        header_size: size of the header in bytes.
    """

    page_size: int
    header_size: int


@dataclass(frozen=True)
class Task:
    """The work of writing one shard.

    Attributes:
        file: name of the data file.
        images: images of the shard, each with the index of its source.
        image_folders: image folder of each source.
        layout: layout of the data file.
        person_filter: criteria for trainable people.
        skip_bad: leave out missing and damaged images.
        exif, max_side: as in `BuildOptions`.
        key: hash that identifies the content of the shard. A finished shard with the same key is kept.
    """

    file: str
    images: tuple[tuple[int, AnnotatedImage], ...]
    image_folders: tuple[ImageFolder, ...]
    layout: Layout
    person_filter: PersonFilter
    skip_bad: bool
    exif: ExifRule
    max_side: int | None
    key: str


@dataclass(frozen=True)
class Plan:
    """The plan of a set.

    Attributes:
        sources: sources of the images.
        image_folders: image folder of each source.
        left_out: for each source, descriptions of the annotations that were left out because of errors.
        tasks: one task for each shard.
        image_bytes: total size of the image files in bytes.
    """

    sources: tuple[Source, ...]
    image_folders: tuple[Path, ...]
    left_out: tuple[tuple[str, ...], ...]
    tasks: tuple[Task, ...]
    image_bytes: int


def make_plan(splits: Sequence[SplitFields], options: BuildOptions) -> Plan:
    """Read the annotation files and assign every image to a shard.

    Args:
        splits: COCO folder, split and, optionally, annotation file of each source.
        options: options of the build.

    Raises:
        InputError: an annotation file or image folder is missing or not valid, no image is left, or image ids collide.
    """
    source_splits = [Split(*fields) for fields in splits]
    image_folders = tuple(split.image_folder.absolute() for split in source_splits)
    sources: list[Source] = []
    folders: list[ImageFolder] = []
    left_out: list[tuple[str, ...]] = []
    candidates: list[Candidate] = []
    for index, split in enumerate(source_splits):
        folder = ImageFolder(image_folders[index], options.links_to, options.follow_links, options.exif)
        file = read_annotations(
            split.annotation_path, options.person_filter, folder, skip_bad=options.skip_bad_annotations
        )
        if not folder.path.is_dir():
            raise InputError(f"{split.image_folder}: no such folder; expected the images of {split.split} in it")
        name = split.annotation_path.name
        sources.append(Source(str(split.coco), split.split, name, file.sha256, filled=file.filled))
        left_out.append(tuple(file.left_out))
        folders.append(folder)
        candidates.extend(
            Candidate(index, image, _file_bytes(f"{image_folders[index]}{os.sep}{image.file_name}"))
            for image in file.images
            if options.keep_empty or image.has_trainable_person
        )
    if not candidates:
        kind = "picture" if options.keep_empty else "picture with a trainable person (--keep-empty keeps the others)"
        raise InputError(f"{', '.join(str(split.annotation_path) for split in source_splits)}: no {kind}")
    resolved = resolve_image_ids(candidates, image_folders)
    sources = [
        replace(source, repeated=repeated, renumbered=renumbered)
        for source, repeated, renumbered in zip(sources, resolved.repeated, resolved.renumbered, strict=True)
    ]
    image_bytes = sum(max(candidate.file_bytes, 0) for candidate in resolved.kept)
    tasks = _make_tasks(resolved.kept, sources, tuple(folders), options)
    return Plan(tuple(sources), image_folders, tuple(left_out), tasks, image_bytes)


def _make_tasks(
    kept: Sequence[Candidate], sources: Sequence[Source], image_folders: tuple[ImageFolder, ...], options: BuildOptions
) -> tuple[Task, ...]:
    groups = [kept[cut] for cut in _even_slices(len(kept), options.records_per_shard)]
    layout = _choose_layout(groups, options.max_side)
    return tuple(
        Task(
            file=f"shard-{number:05d}.mindrecord",
            images=tuple((candidate.source, candidate.image) for candidate in group),
            image_folders=image_folders,
            layout=layout,
            person_filter=options.person_filter,
            skip_bad=options.skip_bad,
            exif=options.exif,
            max_side=options.max_side,
            key=_compute_key(sources, options, layout, group),
        )
        for number, group in enumerate(groups)
    )


def _even_slices(count: int, max_records: int) -> list[slice]:
    """Split `count` images into shards of at most `max_records` images, whose sizes differ by at most one.

    Small sets are split into up to eight shards of about sixteen images, so that they can be written in parallel.
    """
    shards = max(math.ceil(count / max_records), min(_SMALL_SET_SHARDS, math.ceil(count / _MIN_RECORDS_PER_SHARD)))
    cuts = [count * index // shards for index in range(shards + 1)]
    return [slice(start, end) for start, end in itertools.pairwise(cuts)]


def _file_bytes(path: str) -> int:
    try:
        return os.stat(path).st_size  # noqa: PTH116 (118,000 Path objects would take a second)
    except OSError:
        return -1


def _record_bytes(candidate: Candidate, max_side: int | None) -> int:
    """Return an upper bound of the bytes of a record's blobs.

    A picture that is stored smaller has less than a byte for each pixel.

    After the dilation by 16 px, a row of the ignore region has at most W / 17 runs of four bytes.
    """
    if candidate.file_bytes > MAX_FILE_BYTES:
        return 0
    image = candidate.image
    has_ignored = not all(person.trainable for person in image.people)
    run_bytes = image.height * image.width // 4 + 4096 if has_ignored else 0
    image_bytes = max(candidate.file_bytes, max_side**2 if max_side else 0)
    return image_bytes + _PERSON_BYTES * len(image.people) + run_bytes


def _choose_layout(groups: Sequence[Sequence[Candidate]], max_side: int | None) -> Layout:
    """Return the smallest powers of two that fit. With MindRecord's defaults, every file would have about 50 MB."""
    record_bytes = [[_record_bytes(candidate, max_side) for candidate in group] for group in groups]
    page_size = min(_power_of_two(max(map(max, record_bytes)) + 4096, _MIN_PAGE_BYTES), _MAX_PAGE_BYTES)
    # a large record can leave half of the previous page empty, and scalars are stored in separate pages
    pages = max(2 * (sum(group) // page_size) + 8 for group in record_bytes)
    return Layout(page_size, min(_power_of_two(pages * _PAGE_ENTRY_BYTES, _MIN_HEADER_BYTES), _MAX_HEADER_BYTES))


def _power_of_two(value: int, minimum: int) -> int:
    """Return the smallest power of two that is at least `value`, or `minimum` if that is larger."""
    return max(1 << (value - 1).bit_length(), minimum)


def _compute_key(sources: Sequence[Source], options: BuildOptions, layout: Layout, group: Sequence[Candidate]) -> str:
    # the names in this dictionary are hashed: renaming one would rebuild existing shards
    content: dict[str, Any] = {
        "format": VERSION,
        "schema": SCHEMA,
        "sources": [source.json_sha256 for source in sources],
        "rules": asdict(options.person_filter),
        "layout": {"page": layout.page_size, "header": layout.header_size},
        "pictures": [(one.source, one.image.image_id, one.image.file_name, one.file_bytes) for one in group],
    }
    # options that older builds did not have are hashed only if they are used
    if options.exif != "apply":
        content["exif"] = options.exif
    if options.max_side:
        content["max_side"] = options.max_side
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
