"""Write one shard. This is the work of one joblib task and runs in a worker process.

A shard is written in a temporary folder under its final name, because MindRecord stores the name in the index. It is
then moved to the output folder, and finally its result is written to a JSON file beside it. A build that was
interrupted reads these result files and continues with the other shards.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import sqlite3
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.annotations.annotated_image import AnnotatedImage
from pipeline.annotations.image_files import ImageFolder
from pipeline.build.backends import check_folders_exist
from pipeline.build.plan import MAX_FILE_BYTES, Layout, Task
from pipeline.build.reduce_image import reduce_image
from pipeline.build.staging import STAGING_FOLDER, note_progress
from pipeline.errors import InputError
from pipeline.images.decode import check_image, decode_image, describe_size_difference
from pipeline.images.exif import UPRIGHT, choose_orientation, is_ambiguous
from pipeline.sample import Annotation
from pipeline.storage.manifest import Shard, SkippedImage, find_file_problem
from pipeline.storage.records import SCHEMA, encode_runs, pack
from pipeline.storage.statistics import Statistics
from pipeline.system.files import file_sha256, json_sha256, set_default_permissions, write_atomically
from pipeline.system.malloc import keep_freed_memory

_BATCH_RECORDS = 32
_BATCH_BYTES = 16 << 20
"""A write to MindRecord has at most `_BATCH_RECORDS` records, and ends at the record with which its images reach
`_BATCH_BYTES` bytes. MindRecord starts threads for each write: with two workers on two cores, writes of 8 records are
17 % slower than writes of 32. The bytes of a shard depend on both values, so increase VERSION when you change one.
"""

_EMPTY_RLE = {"size": [0, 0], "counts": b""}


@dataclass
class ShardResult:
    """The result of a task.

    Attributes:
        key: key of the task.
        statistics: statistics of the records; their JSON key is `tally`.
        bad: images that are missing or damaged.
        counts: number of images by format, if it is not JPEG, and by name: "turned" as their EXIF orientation says;
            "ambiguous", where the sizes do not show whether the annotations refer to the turned or the stored picture;
            "reduced" to `max_side`.
        shard: the files of the shard; None if no shard was written.
        reused: True if the files of an earlier build were kept.
    """

    key: str
    statistics: Statistics = field(default_factory=Statistics)
    bad: list[SkippedImage] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    shard: Shard | None = None
    reused: bool = False


def result_path(out: Path, file: str) -> Path:
    """Return the path of the result file of a shard."""
    return out / Path(file).with_suffix(".json").name


def write_shard(task: Task, out: Path) -> ShardResult:
    """Write the shard of a task into `out`, unless an earlier build has already written it.

    Args:
        task: the task.
        out: output folder of the set.

    Returns:
        The result. If there are bad images and `task.skip_bad` is False, no shard is written and `shard` is None.

    Raises:
        InputError: the shard cannot be written, or an image folder or `out` does not exist.
    """
    import cv2

    check_folders_exist([out, *(folder.path for folder in task.image_folders)])
    finished = _load_finished(task, out)
    if finished:
        return finished
    cv2.setNumThreads(0)
    keep_freed_memory()
    result_file = result_path(out, task.file)
    result_file.unlink(missing_ok=True)
    # a cluster may consider a slow worker dead and run its task on another one: each attempt has its own folder
    folder = out / STAGING_FOLDER / f"{Path(task.file).stem}-{secrets.token_hex(8)}"
    folder.mkdir(parents=True)
    try:
        result = _write(task, folder / task.file)
        for name in (task.file, task.file + ".db"):
            if result.shard:
                (folder / name).replace(out / name)
            else:
                (out / name).unlink(missing_ok=True)
        if task.skip_bad or not result.bad:
            write_atomically(result_file, json.dumps(_to_json(result)) + "\n")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return result


def _write(task: Task, path: Path) -> ShardResult:
    result = ShardResult(task.key)
    with _open_writer(path, task.layout) as write, note_progress(path.parent) as note:
        for source, image in task.images:
            note(f"{task.image_folders[source].path}{os.sep}{image.file_name}")
            try:
                data, stored, counts = _read_image(task, source, image)
            except InputError as error:
                result.bad.append(SkippedImage(source, image.file_name, str(error)))
                continue
            result.counts.update(counts)
            if task.skip_bad or not result.bad:
                write(_make_record(source, stored, data, result.statistics))
    if result.statistics.records and (task.skip_bad or not result.bad):
        result.shard = _describe_shard(path, result.statistics)
    return result


def _read_image(task: Task, source: int, image: AnnotatedImage) -> tuple[bytes, AnnotatedImage, list[str]]:
    """Read and check an image, and shrink it if it is too large. Raise InputError with a description of the problem.

    Returns:
        The bytes to store, the annotations that belong to them, and the names under which the image is counted.
    """
    data = _read_file(task.image_folders[source], image.file_name)
    header = check_image(data)
    annotated = (image.height, image.width)
    orientation = choose_orientation(header.size, header.orientation, annotated, task.exif)
    if orientation is None:
        raise InputError(describe_size_difference(header, annotated, task.exif))
    counts = [] if header.format == "JPEG" else [header.format]
    if orientation != UPRIGHT:
        counts.append("turned")
    if is_ambiguous(header.size, header.orientation):
        counts.append("ambiguous")
    if task.max_side and max(annotated) > task.max_side:
        data, image = reduce_image(decode_image(data, size=annotated, exif=task.exif), image, task.max_side)
        counts.append("reduced")
    return data, image, counts


def _read_file(folder: ImageFolder, file_name: str) -> bytes:
    try:
        path = folder.file_path(file_name)
        info = os.stat(path)  # noqa: PTH116 (Path objects would cost as much as reading does)
        if not stat.S_ISREG(info.st_mode):
            raise InputError("is not a file")
        if info.st_size > MAX_FILE_BYTES:
            raise InputError(f"has {info.st_size} bytes, expected at most {MAX_FILE_BYTES}")
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123
            return file.read()
    except (FileNotFoundError, NotADirectoryError):
        raise InputError("is missing") from None
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}") from error


def _make_record(source: int, image: AnnotatedImage, data: bytes, statistics: Statistics) -> dict[str, Any]:
    """Return the record of an image and add the image to the statistics."""
    mask = image.ignore_mask()
    truth = tuple(person.truth for person in image.people)
    keypoints = image.keypoints()
    statistics.add_record(
        keypoints=keypoints,
        boxes=[person.truth["bbox"] for person in image.people if person.trainable],
        crowds=sum(annotation["iscrowd"] for annotation in truth),
        ignored_people=sum(not person.trainable and not person.truth["iscrowd"] for person in image.people),
        size=(image.height, image.width),
        ignored_pixels=0 if mask is None else int(np.count_nonzero(mask)),
        picture_bytes=len(data),
    )
    annotation = Annotation(image.image_id, image.file_name, image.height, image.width, keypoints, _EMPTY_RLE, truth)
    return pack(annotation, data, source=source, runs=b"" if mask is None else encode_runs(mask))


@contextlib.contextmanager
def _open_writer(path: Path, layout: Layout) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Create a MindRecord file; yield a function that appends one record to it."""
    from pipeline.storage.mindrecord_writer import create_writer

    try:
        writer = create_writer(path, SCHEMA, page_size=layout.page_size, header_size=layout.header_size)
        waiting: list[dict[str, Any]] = []

        def write(record: dict[str, Any]) -> None:
            waiting.append(record)
            if len(waiting) == _BATCH_RECORDS or sum(len(record["image"]) for record in waiting) >= _BATCH_BYTES:
                writer.write(waiting)
                waiting.clear()

        yield write
        if waiting:
            writer.write(waiting)
        writer.commit()
    except InputError:
        raise
    except (RuntimeError, OSError) as error:
        match = re.search(r"\[ERROR\] ?(.*)", str(error))
        message = match[1] if match else str(error)
        raise InputError(f"{path.name}: cannot be written: {message[:200]}") from error


def _describe_shard(path: Path, statistics: Statistics) -> Shard:
    """Check the number of records on disk, set the default permissions of both files, and measure and hash them."""
    index = path.with_name(path.name + ".db")
    # MindRecord drops records that do not match the schema without an error, and creates files with mode 0600
    with contextlib.closing(sqlite3.connect(index)) as database:
        (rows,) = database.execute("SELECT COUNT(*) FROM INDEXES").fetchone()
    if rows != statistics.records:
        raise InputError(f"{path.name}: MindRecord stored {rows} of {statistics.records} records")
    for file in (path, index):
        set_default_permissions(file)
    return Shard(
        file=path.name,
        records=statistics.records,
        people=statistics.people,
        bytes=path.stat().st_size,
        sha256=file_sha256(path),
        index_bytes=index.stat().st_size,
        index_sha256=file_sha256(index),
    )


def _load_finished(task: Task, out: Path) -> ShardResult | None:
    """Return the result of an earlier build if it has the same key and the files of the shard are intact; else None."""
    try:
        data = json.loads(result_path(out, task.file).read_bytes())
        if data.pop("sha256") != json_sha256(data):
            return None
        shard = data["shard"] and Shard(**data["shard"])
        bad = [SkippedImage(**item) for item in data["bad"]]
        counts = Counter(data["counts"] if bad else data.get("counts", {}))  # without counts, EXIF was ignored
        result = ShardResult(data["key"], Statistics.from_json(data["tally"]), bad, counts, shard, reused=True)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    if result.key != task.key or (bad and not task.skip_bad):
        return None
    if shard and (
        shard.file != task.file
        or find_file_problem(out / shard.file, shard.bytes, shard.sha256)
        or find_file_problem(out / shard.index, shard.index_bytes, shard.index_sha256)
    ):
        return None
    return result


def _to_json(result: ShardResult) -> dict[str, Any]:
    content = {
        "key": result.key,
        "shard": asdict(result.shard) if result.shard else None,
        "bad": [asdict(image) for image in result.bad],
        "counts": result.counts,
        "tally": result.statistics.to_json(),
    }
    return {**content, "sha256": json_sha256(content)}
