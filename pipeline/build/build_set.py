"""Build a set of shards: plan, run one joblib task for each shard, write the manifest last.

The manifest is removed before anything changes, so a folder that has one is complete.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.annotations.sources import Split, SplitFields
from pipeline.build.backends import stall_timeout, worker_failures_as_input_errors
from pipeline.build.plan import BuildOptions, Plan, make_plan
from pipeline.build.write_shard import STAGING_FOLDER, ShardResult, write_shard
from pipeline.errors import InputError
from pipeline.storage.manifest import FILE_NAME, Manifest, SkippedImage, Source, find_file_problem
from pipeline.storage.statistics import Statistics
from pipeline.system.files import file_sha256
from pipeline.system.processes import exit_with_parent_options

_LOCK = ".lock"

_OURS = re.compile(r"shard-\d{5,}\.(mindrecord|mindrecord\.db|json)")

_NAMED = 3


@dataclass(frozen=True)
class BuildResult:
    """A finished set: its manifest, how many shards were written now, and the seconds it took."""

    manifest: Manifest
    written: int
    seconds: float


def build(
    folders: Sequence[SplitFields],
    out: Path,
    options: BuildOptions,
    *,
    workers: int | None = None,
    force: bool = False,
    announce: Callable[[str], None] | None = None,
) -> BuildResult:
    """Write the shards of one or more COCO splits into one set.

    Args:
        folders: what to read: COCO folder, split and, where it is not COCO's own, annotation file.
        out: the set's folder.
        options: what to keep and how to cut it.
        workers: processes; None leaves it to joblib's `parallel_config`.
        force: build again even where the set is complete and unchanged.
        announce: is told once, before the work starts, what is going to be done by how many.

    Raises:
        InputError: the source is wrong, pictures are bad, or the set cannot be written; no manifest is left then.
    """
    start = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    with _lock(out):
        kept = None if force else _unchanged(folders, out, options)
        if kept:
            return BuildResult(kept, 0, time.monotonic() - start)
        plan = make_plan(folders, options)
        _clear(out, plan, everything=force)
        _check_space(out, plan)
        if announce:
            announce(_intention(out, plan, workers))
        try:
            receipts = _run(plan, out, workers)
        finally:
            shutil.rmtree(out / STAGING_FOLDER, ignore_errors=True)
        bad = [picture for receipt in receipts for picture in receipt.bad]
        if bad and not options.skip_bad:
            raise InputError(_complaint(plan, bad))
        manifest = _manifest(plan, options, receipts)
        if not manifest.shards:
            raise InputError(f"{out}: every picture is bad; {_complaint(plan, bad)}")
        manifest.save(out)
    written = sum(not receipt.reused for receipt in receipts)
    return BuildResult(manifest, written, time.monotonic() - start)


def _unchanged(folders: Sequence[SplitFields], out: Path, options: BuildOptions) -> Manifest | None:
    """The set's manifest, if it was built from the same annotations with the same options and every file is sound."""
    try:
        manifest = Manifest.read(out)
        given = [(split.split, file_sha256(split.annotation_path)) for split in (Split(*folder) for folder in folders)]
    except (InputError, OSError):
        return None
    same = (
        manifest.options == options.to_json()
        and not manifest.skipped
        and [(source.split, source.json_sha256) for source in manifest.sources] == given
        and not manifest.verify(out, hash_all=True)
    )
    return manifest if same else None


def _clear(out: Path, plan: Plan, *, everything: bool) -> None:
    """Remove the manifest, what killed builds left, and shards that the plan does not have."""
    (out / FILE_NAME).unlink(missing_ok=True)
    shutil.rmtree(out / STAGING_FOLDER, ignore_errors=True)
    planned = {Path(task.file).stem for task in plan.tasks}
    for path in list(out.iterdir()):
        stale = _OURS.fullmatch(path.name) and (everything or path.name.split(".")[0] not in planned)
        if stale or path.name.startswith((f".{FILE_NAME}.", ".shard-")):
            path.unlink()


def _check_space(out: Path, plan: Plan) -> None:
    present = sum(path.stat().st_size for path in out.iterdir() if _OURS.fullmatch(path.name))
    free = shutil.disk_usage(out).free
    if free + present < plan.picture_bytes:
        raise InputError(f"{out}: {free >> 20} MB free, the pictures need {plan.picture_bytes >> 20} MB")


def _intention(out: Path, plan: Plan, workers: int | None) -> str:
    from joblib import effective_n_jobs

    pictures, tasks = sum(len(task.images) for task in plan.tasks), len(plan.tasks)
    at_once = min(effective_n_jobs(workers), tasks)
    return f"{out}: {pictures} pictures to check and pack into {tasks} shards, {at_once} at once"


def _run(plan: Plan, out: Path, workers: int | None) -> list[ShardResult]:
    """Run all tasks; returns their receipts in the plan's order."""
    from joblib import Parallel, delayed
    from tqdm import tqdm

    place = {task.key: index for index, task in enumerate(plan.tasks)}
    receipts: list[ShardResult] = []
    total = sum(len(task.images) for task in plan.tasks)
    if workers:
        workers = min(workers, len(plan.tasks))
    parallel = Parallel(
        n_jobs=workers,
        return_as="generator_unordered",
        batch_size=1,
        timeout=stall_timeout(),
        **exit_with_parent_options(),
    )
    done = parallel(delayed(write_shard)(task, out.absolute()) for task in plan.tasks)
    try:
        with (
            worker_failures_as_input_errors(out),
            tqdm(total=total, unit=" pictures", disable=None, desc=str(out)) as bar,
        ):
            for receipt in done:
                receipts.append(receipt)
                bar.update(len(plan.tasks[place[receipt.key]].images))
    finally:
        done.close()
    _check_written(out, receipts)
    return sorted(receipts, key=lambda receipt: place[receipt.key])


def _check_written(out: Path, receipts: Sequence[ShardResult]) -> None:
    """What a worker on another machine has written must be here."""
    for shard in (receipt.shard for receipt in receipts if receipt.shard):
        problem = find_file_problem(out / shard.file, shard.bytes, None)
        if problem:
            raise InputError(f"{out / shard.file}: {problem}: do all workers share this file system?")


def _manifest(plan: Plan, options: BuildOptions, receipts: Sequence[ShardResult]) -> Manifest:
    statistics = Statistics()
    for receipt in receipts:
        statistics.merge(receipt.statistics)
    return Manifest(
        sources=_counted(plan, receipts),
        options=options.to_json(),
        statistics=statistics,
        skipped=tuple(picture for receipt in receipts for picture in receipt.bad),
        shards=tuple(receipt.shard for receipt in receipts if receipt.shard),
    )


def _counted(plan: Plan, receipts: Sequence[ShardResult]) -> tuple[Source, ...]:
    """The plan's sources, with what each of them gave to the set."""
    bad = {(picture.source, picture.file_name) for receipt in receipts for picture in receipt.bad}
    records, people = Counter[int](), Counter[int]()
    for source, picture in (pair for task in plan.tasks for pair in task.images):
        if (source, picture.file_name) not in bad:
            records[source] += 1
            people[source] += sum(person.trainable for person in picture.people)
    return tuple(
        replace(source, records=records[index], people=people[index]) for index, source in enumerate(plan.sources)
    )


def _complaint(plan: Plan, bad: Sequence[SkippedImage]) -> str:
    def name(picture: SkippedImage) -> str:
        source = plan.sources[picture.source]
        return f"{Path(source.coco) / source.split / picture.file_name}: {picture.problem}"

    count = "1 bad picture" if len(bad) == 1 else f"{len(bad)} bad pictures"
    named = "; ".join(name(picture) for picture in bad[:_NAMED])
    return f"{count}: {named}{'; …' if len(bad) > _NAMED else ''} (--on-bad-image skip leaves them out)"


@contextlib.contextmanager
def _lock(out: Path) -> Iterator[None]:
    """Let one build at a time into a folder; the lock of a killed build is free again."""
    path = out / _LOCK
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read(80).strip() or "another process"
            raise InputError(f"{out}: {holder} is building this set; wait for it or choose another --out") from None
        if not path.exists() or path.stat().st_ino != os.fstat(file.fileno()).st_ino:
            raise InputError(f"{out}: another build has just ended here; start again")
        file.truncate(0)
        file.write(f"process {os.getpid()} on {os.uname().nodename}")
        file.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
