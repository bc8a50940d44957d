"""Build a set of MindRecord shards from COCO folders: python -m pipeline.shards.

Plan, one joblib task a file, manifest last. The manifest is removed before anything changes, so a folder with one is
complete. Source and output must be on a file system that all workers see.
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

import click

from pipeline.build.backends import dask_cluster, explained_deaths, mortal_workers, stall_seconds
from pipeline.annotations.coco import Rules
from pipeline.system.cpu import default_workers
from pipeline.errors import InputError, reports_input_errors
from pipeline.storage.manifest import FILE_NAME, Manifest, Skipped, Source, file_problem, file_sha256
from pipeline.build.plan import Options, Plan, make_plan
from pipeline.annotations.sources import Folder, Split, named_splits
from pipeline.storage.statistics import Tally
from pipeline.build.write_shard import BUILDING, Receipt, write_shard

_LOCK = ".lock"
_OURS = re.compile(r"shard-\d{5,}\.(mindrecord|mindrecord\.db|json)")
_NAMED = 3


@dataclass(frozen=True)
class Built:
    """A finished set: its manifest, how many shards were written now, and the seconds it took."""

    manifest: Manifest
    written: int
    seconds: float


def build(
    folders: Sequence[Folder],
    out: Path,
    options: Options,
    *,
    workers: int | None = None,
    force: bool = False,
    announce: Callable[[str], None] | None = None,
) -> Built:
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
            return Built(kept, 0, time.monotonic() - start)
        plan = make_plan(folders, options)
        _clear(out, plan, everything=force)
        _check_space(out, plan)
        if announce:
            announce(_intention(out, plan, workers))
        try:
            receipts = _run(plan, out, workers)
        finally:
            shutil.rmtree(out / BUILDING, ignore_errors=True)
        bad = [picture for receipt in receipts for picture in receipt.bad]
        if bad and not options.skip_bad:
            raise InputError(_complaint(plan, bad))
        manifest = _manifest(plan, options, receipts)
        if not manifest.shards:
            raise InputError(f"{out}: every picture is bad; {_complaint(plan, bad)}")
        manifest.save(out)
    written = sum(not receipt.reused for receipt in receipts)
    return Built(manifest, written, time.monotonic() - start)


def _unchanged(folders: Sequence[Folder], out: Path, options: Options) -> Manifest | None:
    """The set's manifest, if it was built from the same annotations with the same options and every file is sound."""
    try:
        manifest = Manifest.read(out)
        given = [(split.split, file_sha256(split.file)) for split in (Split(*folder) for folder in folders)]
    except (InputError, OSError):
        return None
    same = (
        manifest.options == options.to_json()
        and not manifest.skipped
        and [(source.split, source.json_sha256) for source in manifest.sources] == given
        and not manifest.verify(out, hashes=True)
    )
    return manifest if same else None


def _clear(out: Path, plan: Plan, *, everything: bool) -> None:
    """Remove the manifest, what killed builds left, and shards that the plan does not have."""
    (out / FILE_NAME).unlink(missing_ok=True)
    shutil.rmtree(out / BUILDING, ignore_errors=True)
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

    pictures, tasks = sum(len(task.pictures) for task in plan.tasks), len(plan.tasks)
    at_once = min(effective_n_jobs(workers), tasks)
    return f"{out}: {pictures} pictures to check and pack into {tasks} shards, {at_once} at once"


def _run(plan: Plan, out: Path, workers: int | None) -> list[Receipt]:
    """Run all tasks; returns their receipts in the plan's order."""
    from joblib import Parallel, delayed
    from tqdm import tqdm

    place = {task.key: index for index, task in enumerate(plan.tasks)}
    receipts: list[Receipt] = []
    total = sum(len(task.pictures) for task in plan.tasks)
    if workers:
        workers = min(workers, len(plan.tasks))
    parallel = Parallel(
        n_jobs=workers, return_as="generator_unordered", batch_size=1, timeout=stall_seconds(), **mortal_workers()
    )
    done = parallel(delayed(write_shard)(task, out.absolute()) for task in plan.tasks)
    try:
        with explained_deaths(out), tqdm(total=total, unit=" pictures", disable=None, desc=str(out)) as bar:
            for receipt in done:
                receipts.append(receipt)
                bar.update(len(plan.tasks[place[receipt.key]].pictures))
    finally:
        done.close()
    _check_written(out, receipts)
    return sorted(receipts, key=lambda receipt: place[receipt.key])


def _check_written(out: Path, receipts: Sequence[Receipt]) -> None:
    """What a worker on another machine has written must be here."""
    for shard in (receipt.shard for receipt in receipts if receipt.shard):
        problem = file_problem(out / shard.file, shard.bytes, None)
        if problem:
            raise InputError(f"{out / shard.file}: {problem}: do all workers share this file system?")


def _manifest(plan: Plan, options: Options, receipts: Sequence[Receipt]) -> Manifest:
    tally = Tally()
    for receipt in receipts:
        tally.merge(receipt.tally)
    return Manifest(
        sources=_counted(plan, receipts),
        options=options.to_json(),
        tally=tally,
        skipped=tuple(picture for receipt in receipts for picture in receipt.bad),
        shards=tuple(receipt.shard for receipt in receipts if receipt.shard),
    )


def _counted(plan: Plan, receipts: Sequence[Receipt]) -> tuple[Source, ...]:
    """The plan's sources, with what each of them gave to the set."""
    bad = {(picture.source, picture.file_name) for receipt in receipts for picture in receipt.bad}
    records, people = Counter[int](), Counter[int]()
    for source, picture in (pair for task in plan.tasks for pair in task.pictures):
        if (source, picture.file_name) not in bad:
            records[source] += 1
            people[source] += sum(person.trains for person in picture.people)
    return tuple(
        replace(source, records=records[index], people=people[index]) for index, source in enumerate(plan.sources)
    )


def _complaint(plan: Plan, bad: Sequence[Skipped]) -> str:
    def name(picture: Skipped) -> str:
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


def _summary(out: Path, built: Built) -> str:
    manifest, seconds = built.manifest, built.seconds
    megabytes = sum(shard.bytes + shard.index_bytes for shard in manifest.shards) / 1e6
    content = (
        f"{manifest.records} pictures, {manifest.people} people, {len(manifest.shards)} shards, {megabytes:.1f} MB"
    )
    repeated, renumbered = (
        sum(getattr(source, name) for source in manifest.sources) for name in ("repeated", "renumbered")
    )
    notes = [
        (repeated, "repeated left out"),
        (renumbered, "renumbered"),
        (len(manifest.skipped), "bad pictures skipped"),
    ]
    content += "".join(f", {count} {note}" for count, note in notes if count)
    if not built.written:
        return f"{out}: complete and unchanged: {content}"
    kept = len(manifest.shards) - built.written
    reused = f", {kept} shards kept" if kept > 0 else ""
    return f"{out}: {content}{reused}, {seconds:.1f} s, {manifest.records / seconds:.0f} pictures/s"


def _announce(line: str) -> None:
    click.echo(line, err=True)


@click.command(context_settings={"show_default": True})
@click.option("--coco", type=click.Path(path_type=Path), multiple=True, help="COCO folder; repeatable.")
@click.option("--split", multiple=True, help="Split of it, such as train2017; repeatable.")
@click.option("--annotations", type=click.Path(path_type=Path), multiple=True, help="Own COCO json; repeatable.")
@click.option("--pictures", type=click.Path(path_type=Path), multiple=True, help="Folder of its pictures; repeatable.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the set.")
@click.option("--workers", type=click.IntRange(1), show_default="one a core, at most 32", help="Processes.")
@click.option("--backend", type=click.Choice(["processes", "dask"]), default="processes", help="What runs the tasks.")
@click.option(
    "--scheduler",
    metavar="HOST:PORT",
    help="Of the Dask cluster. Its workers read the pictures and write the shards: sources and --out have to be on a "
    "file system that all of them mount at the same path.",
)
@click.option("--records-per-shard", type=click.IntRange(1, 100_000), default=256, help="Pictures a file, at most.")
@click.option("--min-keypoints", type=click.IntRange(1, 17), default=5, help="Labelled keypoints to train on a person.")
@click.option("--min-area", type=click.FloatRange(0), default=1024.0, help="px; a larger area to train on a person.")
@click.option(
    "--keep-empty/--trainable-only",
    default=None,
    show_default="trainable only for --annotations and splits named train…",
    help="Keep pictures without a trainable person.",
)
@click.option("--on-bad-image", type=click.Choice(["fail", "skip"]), default="fail", help="Corrupt or missing picture.")
@click.option("--force", is_flag=True, help="Build again what is complete.")
@reports_input_errors
def main(
    *,
    coco: tuple[Path, ...],
    split: tuple[str, ...],
    annotations: tuple[Path, ...],
    pictures: tuple[Path, ...],
    out: Path,
    workers: int | None,
    backend: str,
    scheduler: str | None,
    records_per_shard: int,
    min_keypoints: int,
    min_area: float,
    keep_empty: bool | None,
    on_bad_image: str,
    force: bool,
) -> None:
    """Pack pictures and annotations into MindRecord shards.

    Several sources make one set: every --coco with its --split, and every --annotations file with its --pictures
    folder. A picture that comes again is left out; another one under a taken image id gets a new id.
    """
    sources = named_splits(coco, split, annotations, pictures)
    if keep_empty is None:
        keep_empty = not all(source.annotations or source.split.startswith("train") for source in sources)
    options = Options(Rules(min_keypoints, min_area), keep_empty, records_per_shard, on_bad_image == "skip")
    if (backend == "dask") != bool(scheduler):
        raise InputError("--backend dask and --scheduler HOST:PORT go together")
    if scheduler and workers:
        raise InputError("--workers: a cluster has the workers that it has")
    with contextlib.ExitStack() as stack:
        if scheduler:
            stack.enter_context(
                dask_cluster(scheduler, [source.pictures.absolute() for source in sources], out.absolute())
            )
        else:
            workers = workers or default_workers()
        try:
            built = build(sources, out, options, workers=workers, force=force, announce=_announce)
        except OSError as error:
            raise InputError(f"{error.filename or out}: {error.strerror or error}") from error
    click.echo(_summary(out, built))


if __name__ == "__main__":
    main()
