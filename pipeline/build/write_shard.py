"""Write one shard: the work of one task, which runs in whatever process joblib gives it.

A shard is made in a folder of its own under its final name (MindRecord stores a file's base name), moved, and only
then confirmed by a small json beside it, its receipt. An interrupted build finds the receipts and continues.
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
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.annotations.coco import AnnotatedImage, image_path
from pipeline.build.backends import check_folders_exist
from pipeline.build.plan import MAX_FILE_BYTES, Layout, Task
from pipeline.errors import InputError
from pipeline.sample import Annotation
from pipeline.storage.images import check_image
from pipeline.storage.manifest import Shard, SkippedImage, find_file_problem
from pipeline.storage.records import SCHEMA, encode_runs, pack
from pipeline.storage.statistics import Statistics
from pipeline.system.files import file_sha256, json_sha256, set_default_permissions, write_atomically
from pipeline.system.malloc import keep_freed_memory

STAGING_FOLDER = ".building"
"""Folder within a set where unfinished shards are."""

_BATCH_RECORDS = 32
_BATCH_BYTES = 16 << 20
"""Records a write, and bytes of their pictures after which there are no more. MindRecord starts threads for each write:
with two workers on two cores, eight at once cost 17 % of the speed of 32. The file's bytes depend on both: see VERSION.
"""

_EMPTY_RLE = {"size": [0, 0], "counts": b""}


@dataclass
class ShardResult:
    """What a task gives back.

    Attributes:
        key: the task's.
        statistics: counts of the records written.
        bad: pictures that could not be used.
        shard: the files; None where nothing was written.
        reused: whether the files were there already.
    """

    key: str
    statistics: Statistics = field(default_factory=Statistics)
    bad: list[SkippedImage] = field(default_factory=list)
    shard: Shard | None = None
    reused: bool = False


def result_path(out: Path, file: str) -> Path:
    """Where a shard's receipt is kept."""
    return out / Path(file).with_suffix(".json").name


def write_shard(task: Task, out: Path) -> ShardResult:
    """Write a task's file into `out`, or confirm that it is there already.

    Args:
        task: what to write.
        out: the set's folder.

    Returns:
        The receipt. With bad pictures and not `task.skip_bad`, nothing is written and `shard` is None.

    Raises:
        InputError: the file cannot be written, or the sources or `out` are not there.
    """
    import cv2

    check_folders_exist([out, *task.image_folders])
    finished = _finished(task, out)
    if finished:
        return finished
    cv2.setNumThreads(0)
    keep_freed_memory()
    receipt = result_path(out, task.file)
    receipt.unlink(missing_ok=True)
    # a cluster may take a slow worker for dead and start the task again elsewhere: neither may write into the other
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
            write_atomically(receipt, json.dumps(_to_json(result)) + "\n")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return result


def _write(task: Task, path: Path) -> ShardResult:
    result = ShardResult(task.key)
    with _writer(path, task.layout) as write:
        for source, picture in task.images:
            try:
                data = _read_picture(task.image_folders[source], picture)
            except InputError as error:
                result.bad.append(SkippedImage(source, picture.file_name, str(error)))
                continue
            if task.skip_bad or not result.bad:
                write(_make_record(task, source, picture, data, result.statistics))
    if result.statistics.records and (task.skip_bad or not result.bad):
        result.shard = _describe_shard(path, result.statistics)
    return result


def _read_picture(root: Path, picture: AnnotatedImage) -> bytes:
    """Read and check a picture file; raises InputError saying what is wrong with it."""
    path = image_path(root, picture.file_name)
    try:
        info = os.stat(path)  # noqa: PTH116 (Path objects would cost as much as reading does)
        if not stat.S_ISREG(info.st_mode):
            raise InputError("is not a file")
        if info.st_size > MAX_FILE_BYTES:
            raise InputError(f"has {info.st_size} bytes, expected at most {MAX_FILE_BYTES}")
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123
            data = file.read()
    except (FileNotFoundError, NotADirectoryError):
        raise InputError("is missing") from None
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}") from error
    height, width = check_image(data)
    if (height, width) != (picture.height, picture.width):
        raise InputError(f"is {width}x{height} px, its annotation says {picture.width}x{picture.height}")
    return data


def _make_record(
    task: Task, source: int, picture: AnnotatedImage, data: bytes, statistics: Statistics
) -> dict[str, Any]:
    mask = picture.ignore_mask()
    truth = tuple(person.truth for person in picture.people)
    keypoints = picture.keypoints()
    statistics.add_record(
        keypoints=keypoints,
        boxes=[person.truth["bbox"] for person in picture.people if person.trainable],
        crowds=sum(box["iscrowd"] for box in truth),
        ignored_people=sum(not person.trainable and not person.truth["iscrowd"] for person in picture.people),
        size=(picture.height, picture.width),
        ignored_pixels=0 if mask is None else int(np.count_nonzero(mask)),
        picture_bytes=len(data),
    )
    annotation = Annotation(
        picture.image_id, picture.file_name, picture.height, picture.width, keypoints, _EMPTY_RLE, truth
    )
    return pack(annotation, data, source=source, runs=b"" if mask is None else encode_runs(mask))


@contextlib.contextmanager
def _writer(path: Path, layout: Layout) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A function that appends one record to the MindRecord file at `path`."""
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
        found = re.search(r"\[ERROR\] ?(.*)", str(error))
        raise InputError(f"{path.name}: cannot be written: {(found[1] if found else str(error))[:200]}") from error


def _describe_shard(path: Path, statistics: Statistics) -> Shard:
    """Count and hash what is on disk, and give both files the mode that other new files get."""
    index = path.with_name(path.name + ".db")
    with contextlib.closing(sqlite3.connect(index)) as database:
        (rows,) = database.execute("SELECT COUNT(*) FROM INDEXES").fetchone()
    if rows != statistics.records:
        raise InputError(f"{path.name}: MindRecord kept {rows} of {statistics.records} records")
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


def _finished(task: Task, out: Path) -> ShardResult | None:
    """The receipt of an earlier run, if it is for the same task and its files are sound."""
    try:
        data = json.loads(result_path(out, task.file).read_bytes())
        if data.pop("sha256") != json_sha256(data):
            return None
        shard = data["shard"] and Shard(**data["shard"])
        bad = [SkippedImage(**item) for item in data["bad"]]
        result = ShardResult(data["key"], Statistics.from_json(data["tally"]), bad, shard, reused=True)
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


def _to_json(receipt: ShardResult) -> dict[str, Any]:
    content = {
        "key": receipt.key,
        "shard": asdict(receipt.shard) if receipt.shard else None,
        "bad": [asdict(picture) for picture in receipt.bad],
        "tally": receipt.statistics.to_json(),
    }
    return {**content, "sha256": json_sha256(content)}
