"""Build a set of MindRecord shards from COCO folders: python -m pipeline.shards.

Plan, one joblib task a file, manifest last. The manifest is removed before anything changes, so a folder with one is
complete. Source and output must be on a file system that all workers see.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import click

from pipeline.annotations.coco import PersonFilter
from pipeline.annotations.sources import splits_from_options
from pipeline.build.backends import dask_cluster
from pipeline.build.build_set import BuildResult, build
from pipeline.build.plan import BuildOptions
from pipeline.errors import InputError, reports_input_errors
from pipeline.system.cpu import default_workers


def _summary(out: Path, built: BuildResult) -> str:
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
    sources = splits_from_options(coco, split, annotations, pictures)
    if keep_empty is None:
        keep_empty = not all(source.annotations or source.split.startswith("train") for source in sources)
    options = BuildOptions(PersonFilter(min_keypoints, min_area), keep_empty, records_per_shard, on_bad_image == "skip")
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
