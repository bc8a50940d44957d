"""The manifest of a set of shards: what was written, from what, and what every file must look like.

The manifest is written last and removed first: a folder with a manifest is complete, and one without is not a set.
MindRecord itself notices neither flipped bits nor a file of another set, and crashes on a damaged index; sizes are
therefore checked whenever a set is opened. Commands that read records also hash what changed since the manifest was
written, before they begin; `verify` hashes everything.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import InputError
from pipeline.storage.records import VERSION
from pipeline.storage.statistics import Statistics
from pipeline.system.files import file_sha256, json_sha256, write_atomically

FILE_NAME = "manifest.json"
SHARD_FILE = re.compile(r"shard-\d{5,}\.mindrecord")
_SET_FILE = re.compile(SHARD_FILE.pattern + r"(\.db)?")
_HASH = re.compile(r"[0-9a-f]{64}")
REBUILD_ADVICE = "run make shards again, it rebuilds what is damaged"


@dataclass(frozen=True)
class Source:
    """Where records came from.

    Attributes:
        coco: the COCO folder as it was given.
        split: the split's name; the pictures were in `coco/split`.
        annotations: name of its annotation file.
        json_sha256: hash of that file.
        records: pictures that are in the set.
        people: trainable people on them.
        repeated: pictures that were left out because an earlier source has them.
        renumbered: pictures that got a new id because an earlier source has another one under theirs.
    """

    coco: str
    split: str
    annotations: str
    json_sha256: str
    records: int = 0
    people: int = 0
    repeated: int = 0
    renumbered: int = 0


@dataclass(frozen=True)
class Shard:
    """One MindRecord file and its index.

    Attributes:
        file: name of the data file within the set; the index is the same with `.db` appended.
        records, people: what it holds.
        bytes, sha256: of the data file.
        index_bytes, index_sha256: of the index.
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
    """A picture that was left out because its file is bad: index of its source, its name, and what is wrong."""

    source: int
    file_name: str
    problem: str


@dataclass(frozen=True)
class FileProblem:
    """A file of a set that is not what the manifest says."""

    file: str
    problem: str


@dataclass(frozen=True)
class Manifest:
    """A set of shards.

    Attributes:
        sources: where the records came from; a record's `source` column is an index into this.
        options: what the set was built with: min_keypoints, min_area, keep_empty, records_per_shard, …
        statistics: counts of what is in the records.
        skipped: pictures that were left out because their files are bad.
        shards: the files.
    """

    sources: tuple[Source, ...]
    options: dict[str, Any]
    statistics: Statistics
    skipped: tuple[SkippedImage, ...]
    shards: tuple[Shard, ...]

    @property
    def records(self) -> int:
        """Pictures in the set."""
        return self.statistics.records

    @property
    def people(self) -> int:
        """Trainable people in the set."""
        return self.statistics.people

    @property
    def images_with_people(self) -> int:
        """Pictures with at least one trainable person."""
        return self.statistics.images_with_people

    @property
    def max_people(self) -> int:
        """Largest P of any record."""
        return self.statistics.max_people

    @property
    def fingerprint(self) -> str:
        """sha256 of what the set contains; the same set built from another place has the same."""
        content = self._content()
        content["sources"] = [{**source, "coco": ""} for source in content["sources"]]
        return json_sha256(content)

    def files(self, folder: Path) -> list[Path]:
        """Paths of the data files, in order."""
        return [folder / shard.file for shard in self.shards]

    def to_json(self) -> dict[str, Any]:
        """The manifest as it is written."""
        return {**self._content(), "fingerprint": self.fingerprint}

    def _content(self) -> dict[str, Any]:
        return {
            "format": VERSION,
            "records": self.records,
            "people": self.people,
            "images_with_people": self.images_with_people,
            "max_people": self.max_people,
            "sources": [asdict(source) for source in self.sources],
            "options": self.options,
            "skipped": [asdict(picture) for picture in self.skipped],
            "tally": self.statistics.to_json(),
            "shards": [asdict(shard) for shard in self.shards],
        }

    def save(self, folder: Path) -> None:
        """Write `folder/manifest.json` in one step: a reader sees the whole file or none."""
        write_atomically(folder / FILE_NAME, json.dumps(self.to_json(), indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path, *, hash_all: bool = False, hash_modified: bool = False) -> Manifest:
        """Read a set's manifest and check that its files are there with the sizes they had.

        Args:
            folder: the set.
            hash_all: also hash every file.
            hash_modified: also hash files that were modified after the manifest was written.

        Raises:
            InputError: no manifest, one of another format or damaged, or a file that is missing or changed; the message
                names the file and the command that mends it.
        """
        manifest = cls.read(folder)
        damage = manifest.verify(folder, hash_all=hash_all, hash_modified=hash_modified)
        if damage:
            first = damage[0]
            more = f" (and {len(damage) - 1} more)" if len(damage) > 1 else ""
            raise InputError(f"{folder / first.file}: {first.problem}{more}: {REBUILD_ADVICE}")
        return manifest

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read a set's manifest without a look at its shards; raises InputError where it is missing or damaged."""
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
            raise InputError(f"expected an object, not {type(data).__name__}")
        if data.get("format") != VERSION:
            raise InputError(f"format {str(data.get('format'))[:20]}, this program reads format {VERSION}")
        options = data.get("options")
        if not isinstance(options, dict):
            raise InputError("options: expected an object")
        manifest = cls(
            sources=tuple(_parsed(Source, item, "sources") for item in _items(data, "sources")),
            options=options,
            statistics=Statistics.from_json(data.get("tally")),
            skipped=tuple(_parsed(SkippedImage, item, "skipped") for item in _items(data, "skipped")),
            shards=tuple(_parsed(Shard, item, "shards") for item in _items(data, "shards")),
        )
        manifest._check_sums(data)
        if data.get("fingerprint", manifest.fingerprint) != manifest.fingerprint:
            raise InputError("content changed, its fingerprint is another")
        return manifest

    def _check_sums(self, data: dict[str, Any]) -> None:
        for shard in self.shards:
            if not SHARD_FILE.fullmatch(shard.file):
                raise InputError(f"shards: {shard.file[:60]!r} is not a shard's name, such as shard-00000.mindrecord")
            if not _HASH.fullmatch(shard.sha256) or not _HASH.fullmatch(shard.index_sha256):
                raise InputError(f"shards: {shard.file}: a hash is not 64 hexadecimal digits")
        if len({shard.file for shard in self.shards}) != len(self.shards):
            raise InputError("shards: a file is named twice")
        for name in ("records", "people"):
            for parts in (self.shards, self.sources):
                total = sum(getattr(part, name) for part in parts)
                if not total == data.get(name) == getattr(self, name):
                    kind = "shards hold" if parts is self.shards else "sources gave"
                    raise InputError(f"{name}: {str(data.get(name))[:20]}, but the {kind} {total}")

    def verify(self, folder: Path, *, hash_all: bool, hash_modified: bool = False) -> list[FileProblem]:
        """Compare the files of a set with the manifest.

        Args:
            folder: the set.
            hash_all: also read every file and compare its hash.
            hash_modified: do so for files that were modified after the manifest was written.

        Returns:
            What is missing, changed, or there without being named by the manifest; empty for a sound set.
        """
        damage = []
        expected = {}
        for shard in self.shards:
            expected[shard.file] = (shard.bytes, shard.sha256)
            expected[shard.index] = (shard.index_bytes, shard.index_sha256)
        written = _modified(folder / FILE_NAME) if hash_modified else None
        for name, (size, sha256) in expected.items():
            suspect = hash_all or (written is not None and _modified(folder / name) > written)
            problem = find_file_problem(folder / name, size, sha256 if suspect else None)
            if problem:
                damage.append(FileProblem(name, problem))
        strangers = sorted(path.name for path in folder.iterdir() if _SET_FILE.fullmatch(path.name))
        damage.extend(FileProblem(name, "is not in the manifest") for name in strangers if name not in expected)
        return damage


def _modified(path: Path) -> int:
    """When a file was last modified, ns; 0 where it cannot be asked."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def find_file_problem(path: Path, size: int, sha256: str | None) -> str | None:
    """What is wrong with a file that should have `size` bytes and, where given, the hash `sha256`; None if nothing."""
    try:
        if path.is_symlink() and path.resolve().parent != path.parent.resolve():
            return "is a link that leaves its folder"
        actual = path.stat().st_size
        if actual != size:
            return f"has {actual} bytes, expected {size}"
        if sha256 is not None and file_sha256(path) != sha256:
            return "content changed, its hash is not the manifest's"
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return None


def find_sets(root: Path) -> list[Path]:
    """Folders with a manifest at or below `root`, sorted."""
    return sorted(path.parent for path in root.rglob(FILE_NAME))


def _items(data: dict[str, Any], name: str) -> list[Any]:
    items = data.get(name)
    if not isinstance(items, list):
        raise InputError(f"{name}: expected a list")
    return items


def _parsed(cls: type[Any], item: object, name: str) -> Any:
    kinds = {"int": int, "str": str}
    expected = {field: kinds[str(kind)] for field, kind in cls.__annotations__.items()}
    if not isinstance(item, dict) or set(item) != set(expected):
        raise InputError(f"{name}: an entry must be an object with {', '.join(expected)}")
    for field, kind in expected.items():
        value = item[field]
        if type(value) is not kind or (isinstance(value, int) and value < 0):
            raise InputError(f"{name}: {field} is {str(value)[:40]!r}, expected {kind.__name__}")
    return cls(**item)
