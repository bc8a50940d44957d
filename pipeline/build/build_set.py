"""Build a set of shards: plan the shards, write each shard in one joblib task, then write the manifest.

The manifest is removed before anything changes and written last, so a folder that has a manifest is complete.
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
from pipeline.build.staging import STAGING_FOLDER
from pipeline.build.write_shard import ShardResult, write_shard
from pipeline.errors import InputError
from pipeline.storage.manifest import FILE_NAME, LeftOut, Manifest, SkippedImage, Source, find_file_problem
from pipeline.storage.statistics import Statistics
from pipeline.system.files import file_sha256
from pipeline.system.processes import exit_with_parent_options

_LOCK_FILE = ".lock"

_SHARD_FILES = re.compile(r"shard-\d{5,}\.(mindrecord|mindrecord\.db|json)")
"""Names of data files, index files and result files of shards."""

_OWN_FILES = re.compile(r"shard-\d{5,}\.|\.shard|\.?manifest\.json|\.lock$|\.building$")
"""Start of the names in the folder of a set. There may be others beside them, such as a preview."""

_MAX_NAMED_IMAGES = 3
"""Maximum number of bad images that an error message names."""


@dataclass(frozen=True)
class BuildResult:
    """The result of a build.

    Attributes:
        manifest: manifest of the set.
        written: number of shards written by this build; 0 if the set was complete and unchanged.
        seconds: duration of the build in seconds.
    """

    manifest: Manifest
    written: int
    seconds: float


def build(
    splits: Sequence[SplitFields],
    out: Path,
    options: BuildOptions,
    *,
    workers: int | None = None,
    force: bool = False,
    announce: Callable[[str], None] | None = None,
) -> BuildResult:
    """Write the shards of one or more COCO splits into one set.

    Args:
        splits: COCO folder, split and, optionally, annotation file of each source.
        out: output folder of the set.
        options: options of the build.
        workers: number of worker processes; None uses the setting of joblib's `parallel_config`.
        force: rebuild the set even if it is complete and unchanged.
        announce: called once with a line of text that describes the work, before the work starts.

    Returns:
        The manifest, the number of shards written and the duration.

    Raises:
        InputError: a source is not valid, images are missing or damaged, or the set cannot be written. The output
            folder then has no manifest.
    """
    start = time.monotonic()
    with _output_folder(out), _lock(out):
        unchanged = None if force else _load_if_unchanged(splits, out, options)
        if unchanged:
            return BuildResult(unchanged, 0, time.monotonic() - start)
        plan = make_plan(splits, options)
        _remove_stale_files(out, plan, remove_all=force)
        _check_space(out, plan)
        if announce:
            announce(_describe_plan(out, plan, workers))
        try:
            results = _run_tasks(plan, out, workers)
        finally:
            shutil.rmtree(out / STAGING_FOLDER, ignore_errors=True)
        bad = [image for result in results for image in result.bad]
        if bad and not options.skip_bad:
            raise InputError(_describe_bad_images(plan, bad))
        manifest = _make_manifest(plan, options, results)
        if not manifest.shards:
            raise InputError(f"{out}: every picture is bad; {_describe_bad_images(plan, bad)}")
        manifest.save(out)
    written = sum(not result.reused for result in results)
    return BuildResult(manifest, written, time.monotonic() - start)


def _load_if_unchanged(splits: Sequence[SplitFields], out: Path, options: BuildOptions) -> Manifest | None:
    """Return the manifest of a set that is intact and was built from the same annotations and options; else None."""
    try:
        manifest = Manifest.read(out)
        sources = [Split(*fields) for fields in splits]
        hashes = [(source.split, file_sha256(source.annotation_path)) for source in sources]
    except (InputError, OSError):
        return None
    same = (
        manifest.options == options.to_json()
        and not manifest.skipped
        and [(source.split, source.json_sha256) for source in manifest.sources] == hashes
        and not manifest.verify(out, hash_all=True)
    )
    return manifest if same else None


def _remove_stale_files(out: Path, plan: Plan, *, remove_all: bool) -> None:
    """Remove the manifest, files of killed builds, and shards that are not in the plan (all with `remove_all`)."""
    (out / FILE_NAME).unlink(missing_ok=True)
    shutil.rmtree(out / STAGING_FOLDER, ignore_errors=True)
    planned = {Path(task.file).stem for task in plan.tasks}
    for path in list(out.iterdir()):
        stale = _SHARD_FILES.fullmatch(path.name) and (remove_all or path.name.split(".")[0] not in planned)
        if stale or path.name.startswith((f".{FILE_NAME}.", ".shard-")):
            path.unlink()


def _check_space(out: Path, plan: Plan) -> None:
    reusable = sum(path.stat().st_size for path in out.iterdir() if _SHARD_FILES.fullmatch(path.name))
    free = shutil.disk_usage(out).free
    if free + reusable < plan.image_bytes:
        raise InputError(f"{out}: {free >> 20} MB of disk space free, the images need {plan.image_bytes >> 20} MB")


def _describe_plan(out: Path, plan: Plan, workers: int | None) -> str:
    from joblib import effective_n_jobs

    images, tasks = sum(len(task.images) for task in plan.tasks), len(plan.tasks)
    parallel_tasks = min(effective_n_jobs(workers), tasks)
    return f"{out}: checking {images} pictures and packing them into {tasks} shards, {parallel_tasks} in parallel"


def _run_tasks(plan: Plan, out: Path, workers: int | None) -> list[ShardResult]:
    """Run all tasks and return their results in the order of the plan."""
    from joblib import Parallel, delayed
    from tqdm import tqdm

    positions = {task.key: index for index, task in enumerate(plan.tasks)}
    results: list[ShardResult] = []
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
    finished = parallel(delayed(write_shard)(task, out.absolute()) for task in plan.tasks)
    try:
        with (
            worker_failures_as_input_errors(out),
            tqdm(total=total, unit=" pictures", disable=None, desc=str(out)) as bar,
        ):
            for result in finished:
                results.append(result)
                bar.update(len(plan.tasks[positions[result.key]].images))
    finally:
        finished.close()
    _check_files_exist(out, results)
    return sorted(results, key=lambda result: positions[result.key])


def _check_files_exist(out: Path, results: Sequence[ShardResult]) -> None:
    """Check that the files that workers on other machines have written exist in the output folder of this process."""
    for shard in (result.shard for result in results if result.shard):
        problem = find_file_problem(out / shard.file, shard.bytes, None)
        if problem:
            raise InputError(f"{out / shard.file}: {problem}: check that all workers share this file system")


def _make_manifest(plan: Plan, options: BuildOptions, results: Sequence[ShardResult]) -> Manifest:
    statistics, counts = Statistics(), Counter[str]()
    planned = [image for task in plan.tasks for _, image in task.images]
    for result in results:
        statistics.merge(result.statistics)
        counts.update(result.counts)
    return Manifest(
        sources=_count_records(plan, results),
        options=options.to_json(),
        statistics=statistics,
        skipped=tuple(image for result in results for image in result.bad),
        shards=tuple(result.shard for result in results if result.shard),
        counts=dict(sorted(counts.items())),
        left_out=tuple(LeftOut(index, problem) for index, found in enumerate(plan.left_out) for problem in found),
        text_ids={image.image_id: image.text_id for image in planned if image.text_id is not None},
    )


def _count_records(plan: Plan, results: Sequence[ShardResult]) -> tuple[Source, ...]:
    """Return the sources of the plan with the number of records and people that each has in the set."""
    bad = {(image.source, image.file_name) for result in results for image in result.bad}
    records, people = Counter[int](), Counter[int]()
    for source, image in (pair for task in plan.tasks for pair in task.images):
        if (source, image.file_name) not in bad:
            records[source] += 1
            people[source] += sum(person.trainable for person in image.people)
    return tuple(
        replace(source, records=records[index], people=people[index]) for index, source in enumerate(plan.sources)
    )


def _describe_bad_images(plan: Plan, bad: Sequence[SkippedImage]) -> str:
    def describe(image: SkippedImage) -> str:
        return f"{plan.image_folders[image.source] / image.file_name}: {image.problem}"

    count = "1 bad picture" if len(bad) == 1 else f"{len(bad)} bad pictures"
    described = "; ".join(describe(image) for image in bad[:_MAX_NAMED_IMAGES])
    more = "; …" if len(bad) > _MAX_NAMED_IMAGES else ""
    return f"{count}: {described}{more} (--on-bad-image skip leaves them out)"


@contextlib.contextmanager
def _output_folder(out: Path) -> Iterator[None]:
    """Create the output folder; if the build fails, remove the folders that were created, unless they hold files.

    Raises:
        InputError: the folder holds files and no set, so that shards would lie among them.
    """
    entries = sorted(path.name for path in out.iterdir()) if out.is_dir() else []
    own = any(_OWN_FILES.match(name) for name in entries)
    foreign = [name for name in entries if not name.startswith(".") and not (out / name / FILE_NAME).is_file()]
    if foreign and not own:
        raise InputError(f"{out}: holds other files ({foreign[0][:60]}) and no set: choose a new or empty --out")
    created = [folder for folder in (out, *out.parents) if not folder.exists()]
    out.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):  # a folder with files is not removed
            for folder in created:
                folder.rmdir()
        raise


@contextlib.contextmanager
def _lock(out: Path) -> Iterator[None]:
    """Hold the lock of the output folder, so that only one build writes to it. A killed build releases its lock."""
    path = out / _LOCK_FILE
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read(80).strip() or "another process"
            raise InputError(f"{out}: {holder} is building this set: wait for it or choose another --out") from None
        if not path.exists() or path.stat().st_ino != os.fstat(file.fileno()).st_ino:
            raise InputError(f"{out}: another build of this set has just ended: run the command again")
        file.truncate(0)
        file.write(f"process {os.getpid()} on {os.uname().nodename}")
        file.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
