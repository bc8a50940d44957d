"""The manifest of a set of shards: its sources, build options and statistics, and the size and hash of every file.

A build removes the manifest before it changes anything and writes it last, so a folder with a manifest is complete and
a folder without one is not a set. MindRecord detects neither flipped bits nor a file of another set, and crashes on a
damaged index. File sizes are therefore checked whenever a set is opened. Commands that read records first also hash the
files that were modified after the manifest was written, and `pipeline.verify` hashes all files.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pipeline.errors import InputError
from pipeline.images.exif import ExifRule
from pipeline.storage.records import VERSION
from pipeline.storage.statistics import Statistics
from pipeline.system.files import file_sha256, json_sha256, write_atomically

FILE_NAME = "manifest.json"
SHARD_FILE = re.compile(r"shard-\d{5,}\.mindrecord")
_DATA_OR_INDEX_FILE = re.compile(SHARD_FILE.pattern + r"(\.db)?")
_SHA256 = re.compile(r"[0-9a-f]{64}")
REBUILD_ADVICE = "run make shards again, it rebuilds the damaged files"


@dataclass(frozen=True)
class Source:
    """A source of records.

    Attributes:
        coco: path of the COCO folder as given by the user.
        split: name of the split; the images are in `coco/split`.
        annotations: name of the annotation file.
        json_sha256: SHA-256 hash of the annotation file.
        records: number of its images in the set.
        people: number of trainable people in these images.
        repeated: number of images left out because an earlier source has them.
        renumbered: number of images that got a new id because an earlier source uses their id for a different image.
        filled: number of entries of the annotation file that were filled in or corrected, by kind
            (`pipeline.annotations.coco.FILLED`).
    """

    coco: str
    split: str
    annotations: str
    json_sha256: str
    records: int = 0
    people: int = 0
    repeated: int = 0
    renumbered: int = 0
    filled: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the entry of the manifest. An empty `filled` is left out, as in sets of earlier versions."""
        return {name: value for name, value in asdict(self).items() if name != "filled" or value}


@dataclass(frozen=True)
class Shard:
    """One MindRecord file and its index.

    Attributes:
        file: name of the data file in the folder of the set. The name of the index file has `.db` appended.
        records: number of images.
        people: number of trainable people.
        bytes, sha256: size and hash of the data file.
        index_bytes, index_sha256: size and hash of the index file.
    """

    file: str
    records: int
    people: int
    bytes: int
    sha256: str
    index_bytes: int
    index_sha256: str

    @property
    def index(self) -> str:
        """Name of the index file."""
        return self.file + ".db"


@dataclass(frozen=True)
class SkippedImage:
    """An image that was left out because its file is missing or damaged.

    Attributes:
        source: index of its source.
        file_name: path relative to the image folder of the source.
        problem: description of the problem.
    """

    source: int
    file_name: str
    problem: str


@dataclass(frozen=True)
class LeftOut:
    """An entry of an annotation file that was left out because of an error.

    Attributes:
        source: index of its source.
        problem: the entry, such as `annotation 7`, and a description of the problem.
    """

    source: int
    problem: str


@dataclass(frozen=True)
class FileProblem:
    """A difference between a file of a set and the manifest."""

    file: str
    problem: str


@dataclass(frozen=True)
class Manifest:
    """The manifest of a set of shards.

    Attributes:
        sources: sources of the records. The `source` column of a record is an index into this tuple.
        options: options of the build: min_keypoints, min_area, keep_empty, records_per_shard, on_bad_image, exif,
            max_side.
        statistics: statistics of the records; their JSON key is `tally`.
        skipped: images left out because their files are missing or damaged.
        shards: the shards in reading order.
        counts: numbers of pictures by what is special about them, see `pipeline.build.write_shard`.
        left_out: entries of the annotation files left out because of errors.
        text_ids: ids of images that are text in their annotation file, by image id.
    """

    sources: tuple[Source, ...]
    options: dict[str, Any]
    statistics: Statistics
    skipped: tuple[SkippedImage, ...]
    shards: tuple[Shard, ...]
    counts: dict[str, int] = field(default_factory=dict)
    left_out: tuple[LeftOut, ...] = ()
    text_ids: dict[int, str] = field(default_factory=dict)

    @property
    def exif(self) -> ExifRule:
        """Whether pictures are turned as their EXIF orientation says. Sets of version 0.3 and earlier ignore it."""
        return "apply" if self.options.get("exif") == "apply" else "ignore"

    @property
    def records(self) -> int:
        """Number of images in the set."""
        return self.statistics.records

    @property
    def people(self) -> int:
        """Number of trainable people in the set."""
        return self.statistics.people

    @property
    def images_with_people(self) -> int:
        """Number of images with at least one trainable person."""
        return self.statistics.images_with_people

    @property
    def max_people(self) -> int:
        """Largest number of trainable people in one image."""
        return self.statistics.max_people

    @property
    def fingerprint(self) -> str:
        """SHA-256 hash of the manifest without the paths of the COCO folders, which do not affect the records."""
        content = self._content()
        content["sources"] = [{**source, "coco": ""} for source in content["sources"]]
        return json_sha256(content)

    def files(self, folder: Path) -> list[Path]:
        """Return the paths of the data files in reading order."""
        return [folder / shard.file for shard in self.shards]

    def to_json(self) -> dict[str, Any]:
        """Return the content of manifest.json."""
        return {**self._content(), "fingerprint": self.fingerprint}

    def _content(self) -> dict[str, Any]:
        return {
            "format": VERSION,
            "records": self.records,
            "people": self.people,
            "images_with_people": self.images_with_people,
            "max_people": self.max_people,
            "sources": [source.to_json() for source in self.sources],
            "options": self.options,
            "skipped": [asdict(picture) for picture in self.skipped],
            "tally": self.statistics.to_json(),
            "shards": [asdict(shard) for shard in self.shards],
            **dict(self._later_content()),
        }

    def _later_content(self) -> Iterator[tuple[str, Any]]:
        """Yield entries that sets of earlier versions do not have; they are left out if they are empty."""
        if self.counts:
            yield "counts", self.counts
        if self.left_out:
            yield "left_out", [asdict(entry) for entry in self.left_out]
        if self.text_ids:
            yield "text_ids", [[image_id, text] for image_id, text in self.text_ids.items()]

    def save(self, folder: Path) -> None:
        """Write `folder/manifest.json` atomically: readers see the complete file or no file."""
        write_atomically(folder / FILE_NAME, json.dumps(self.to_json(), indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path, *, hash_all: bool = False, hash_modified: bool = False) -> Manifest:
        """Read the manifest of a set and check that every file exists and has the size in the manifest.

        Args:
            folder: folder of the set.
            hash_all: also compare the hash of every file.
            hash_modified: also compare the hashes of files that were modified after the manifest was written.

        Raises:
            InputError: the manifest is missing, damaged or of another version, or a file is missing or has changed. The
                message contains the file and the command that repairs it.
        """
        manifest = cls.read(folder)
        problems = manifest.verify(folder, hash_all=hash_all, hash_modified=hash_modified)
        if problems:
            first = problems[0]
            more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
            raise InputError(f"{folder / first.file}: {first.problem}{more}: {REBUILD_ADVICE}")
        return manifest

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read the manifest of a set without checking the files. Raise InputError if it is missing or damaged."""
        path = folder / FILE_NAME
        try:
            data = json.loads(path.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            raise InputError(f"{folder}: no {FILE_NAME}: run make shards") from None
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}") from error
        except (ValueError, RecursionError):
            raise InputError(f"{path}: not JSON: {REBUILD_ADVICE}") from None
        try:
            return cls._from_json(data)
        except InputError as error:
            raise InputError(f"{path}: {error}: {REBUILD_ADVICE}") from None

    @classmethod
    def _from_json(cls, data: object) -> Manifest:
        if not isinstance(data, dict):
            raise InputError(f"expected an object, got {type(data).__name__}")
        if data.get("format") != VERSION:
            raise InputError(f"format {str(data.get('format'))[:20]}, this program reads format {VERSION}")
        options = data.get("options")
        if not isinstance(options, dict):
            raise InputError("options: expected an object")
        manifest = cls(
            sources=tuple(_parse_source(item) for item in _get_list(data, "sources")),
            options=options,
            statistics=Statistics.from_json(data.get("tally")),
            skipped=tuple(_parse_entry(SkippedImage, item, "skipped") for item in _get_list(data, "skipped")),
            shards=tuple(_parse_entry(Shard, item, "shards") for item in _get_list(data, "shards")),
            counts=_parse_counts(data.get("counts", {})),
            left_out=tuple(
                _parse_entry(LeftOut, item, "left_out") for item in _get_list({"left_out": [], **data}, "left_out")
            ),
            text_ids=_parse_text_ids(_get_list({"text_ids": [], **data}, "text_ids")),
        )
        manifest._check_consistency(data)
        if data.get("fingerprint", manifest.fingerprint) != manifest.fingerprint:
            raise InputError("the content does not match the fingerprint")
        return manifest

    def _check_consistency(self, data: dict[str, Any]) -> None:
        for shard in self.shards:
            if not SHARD_FILE.fullmatch(shard.file):
                raise InputError(f"shards: {shard.file[:60]!r} is not a shard name such as shard-00000.mindrecord")
            if not _SHA256.fullmatch(shard.sha256) or not _SHA256.fullmatch(shard.index_sha256):
                raise InputError(f"shards: {shard.file}: a hash is not 64 hexadecimal digits")
        if len({shard.file for shard in self.shards}) != len(self.shards):
            raise InputError("shards: two entries have the same file")
        for name in ("records", "people"):
            for parts in (self.shards, self.sources):
                total = sum(getattr(part, name) for part in parts)
                if not total == data.get(name) == getattr(self, name):
                    kind = "shards hold" if parts is self.shards else "sources have"
                    raise InputError(f"{name}: {str(data.get(name))[:20]}, but the {kind} {total}")

    def verify(self, folder: Path, *, hash_all: bool, hash_modified: bool = False) -> list[FileProblem]:
        """Compare the files of a set with the manifest.

        Args:
            folder: folder of the set.
            hash_all: read every file and compare its hash.
            hash_modified: read files that were modified after the manifest was written and compare their hashes.

        Returns:
            Files that are missing, have changed, or are not in the manifest; an empty list for an intact set.
        """
        problems = []
        expected = {}
        for shard in self.shards:
            expected[shard.file] = (shard.bytes, shard.sha256)
            expected[shard.index] = (shard.index_bytes, shard.index_sha256)
        written_ns = _modification_time(folder / FILE_NAME) if hash_modified else None
        for name, (size, sha256) in expected.items():
            compare_hash = hash_all or (written_ns is not None and _modification_time(folder / name) > written_ns)
            problem = find_file_problem(folder / name, size, sha256 if compare_hash else None)
            if problem:
                problems.append(FileProblem(name, problem))
        present = sorted(path.name for path in folder.iterdir() if _DATA_OR_INDEX_FILE.fullmatch(path.name))
        problems.extend(FileProblem(name, "is not in the manifest") for name in present if name not in expected)
        return problems


def _modification_time(path: Path) -> int:
    """Return the modification time of a file in ns, or 0 if it cannot be read."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def find_file_problem(path: Path, size: int, sha256: str | None) -> str | None:
    """Check the size of a file in bytes and, if given, its hash; return a description of the problem, or None."""
    try:
        if path.is_symlink() and path.resolve().parent != path.parent.resolve():
            return "is a symbolic link that points outside its folder"
        actual = path.stat().st_size
        if actual != size:
            return f"has {actual} bytes, expected {size}"
        if sha256 is not None and file_sha256(path) != sha256:
            return "has changed: its hash differs from the manifest"
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return None


def find_sets(root: Path) -> list[Path]:
    """Return the sorted folders in or below `root` that contain a manifest."""
    return sorted(path.parent for path in root.rglob(FILE_NAME))


def _get_list(data: dict[str, Any], name: str) -> list[Any]:
    items = data.get(name)
    if not isinstance(items, list):
        raise InputError(f"{name}: expected a list")
    return items


def _parse_counts(data: object) -> dict[str, int]:
    if not isinstance(data, dict) or not all(type(count) is int and count >= 0 for count in data.values()):
        raise InputError("counts: expected an object of integers")
    return data


def _parse_source(item: object) -> Source:
    if not isinstance(item, dict):
        raise InputError("sources: each entry must be an object")
    filled = item.get("filled", {})
    if not isinstance(filled, dict) or not all(type(count) is int and count > 0 for count in filled.values()):
        raise InputError(f"sources: filled is {str(filled)[:40]!r}, expected numbers by kind")
    entry: Source = _parse_entry(Source, {name: value for name, value in item.items() if name != "filled"}, "sources")
    return replace(entry, filled=filled)


def _parse_text_ids(items: list[Any]) -> dict[int, str]:
    for item in items:
        if not isinstance(item, list) or [type(value) for value in item] != [int, str]:
            raise InputError(f"text_ids: {str(item)[:40]!r}, expected an image id and its text")
    return dict(items)


def _parse_entry(cls: type[Any], item: object, name: str) -> Any:
    kinds = {"int": int, "str": str}
    expected = {key: kinds[str(kind)] for key, kind in cls.__annotations__.items() if str(kind) in kinds}
    if not isinstance(item, dict) or set(item) != set(expected):
        raise InputError(f"{name}: each entry must be an object with {', '.join(expected)}")
    for key, kind in expected.items():
        value = item[key]
        if type(value) is not kind or (isinstance(value, int) and value < 0):
            raise InputError(f"{name}: {key} is {str(value)[:40]!r}, expected {kind.__name__}")
    return cls(**item)
