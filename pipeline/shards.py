"""Build a set of MindRecord shards from COCO folders: python -m pipeline.shards.

`pipeline.build` assigns the images to shards and writes each shard in one joblib task. The manifest is removed before
anything changes and written last, so a folder that has a manifest is complete. The images and the output folder must be
on a file system that all workers can access.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import click

from pipeline.annotations.annotated_image import PersonFilter
from pipeline.annotations.coco import FILLED, describe_filled, describe_problems
from pipeline.annotations.sources import splits_from_options
from pipeline.build.backends import dask_cluster
from pipeline.build.build_set import BuildResult, build
from pipeline.build.plan import BuildOptions
from pipeline.errors import InputError, reports_input_errors
from pipeline.images.exif import ExifRule
from pipeline.storage.manifest import Manifest
from pipeline.system.cpu import default_workers


def _format_summary(out: Path, result: BuildResult) -> str:
    manifest, seconds = result.manifest, result.seconds
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
        (manifest.counts.get("turned", 0), "turned as their EXIF orientation says"),
        (manifest.counts.get("reduced", 0), "stored smaller"),
    ]
    content += "".join(f", {count} {note}" for count, note in notes if count)
    if not result.written:
        return f"{out}: complete and unchanged: {content}"
    kept = len(manifest.shards) - result.written
    kept_note = f", {kept} shards kept" if kept > 0 else ""
    return f"{out}: {content}{kept_note}, {seconds:.1f} s, {manifest.records / seconds:.0f} pictures/s"


def _warn_of_orientation(manifest: Manifest) -> None:
    """Warn of pictures whose sizes do not show whether their annotations refer to the turned or the stored picture."""
    count = manifest.counts.get("ambiguous", 0)
    if count and manifest.exif == "apply":
        _print_to_stderr(
            f"Warning: {count} pictures have an EXIF orientation that their size does not confirm (upside down, "
            "mirrored or square): they were turned; if the annotations refer to the stored pictures: --exif ignore"
        )


def _describe_annotations(out: Path, manifest: Manifest) -> Iterator[str]:
    """Yield a line about what was filled in, and a line about what was left out."""
    filled = {kind: sum(source.filled.get(kind, 0) for source in manifest.sources) for kind in FILLED}
    if any(filled.values()):
        yield f"{out}: filled in or corrected: {describe_filled({kind: n for kind, n in filled.items() if n})}"
    if manifest.left_out:
        yield f"{out}: left out: {describe_problems([entry.problem for entry in manifest.left_out])}"


def _print_to_stderr(line: str) -> None:
    click.echo(line, err=True)


@click.command(context_settings={"show_default": True})
@click.option("--coco", type=click.Path(path_type=Path), multiple=True, help="COCO folder; may be repeated.")
@click.option("--split", multiple=True, help="Split of the folder, such as train2017; may be repeated.")
@click.option(
    "--annotations",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Annotation file of any tool in COCO's keypoint format, .json or .json.gz; may be repeated. README.md, "
    "section Your own data, lists the fields.",
)
@click.option(
    "--pictures", type=click.Path(path_type=Path), multiple=True, help="Image folder of --annotations; may be repeated."
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Output folder of the set.")
@click.option("--workers", type=click.IntRange(1), show_default="one per core, at most 32", help="Worker processes.")
@click.option("--backend", type=click.Choice(["processes", "dask"]), default="processes", help="Where tasks run.")
@click.option(
    "--scheduler",
    metavar="HOST:PORT",
    help="Address of the Dask scheduler. Its workers read the images and write the shards: the sources and --out must "
    "be on a file system that every worker mounts at the same path.",
)
@click.option(
    "--records-per-shard", type=click.IntRange(1, 100_000), default=256, help="Maximum number of images in a shard."
)
@click.option(
    "--min-keypoints",
    type=click.IntRange(1, 17),
    default=5,
    help="Minimum number of labelled keypoints of a trainable person.",
)
@click.option(
    "--min-area",
    type=click.FloatRange(0),
    default=1024.0,
    help="A trainable person has a larger area than this, in px.",
)
@click.option(
    "--keep-empty/--trainable-only",
    default=None,
    show_default="trainable only for --annotations and for splits whose name starts with train",
    help="Keep images without a trainable person, or leave them out.",
)
@click.option(
    "--on-bad-image", type=click.Choice(["fail", "skip"]), default="fail", help="Action on a damaged or missing image."
)
@click.option(
    "--exif",
    type=click.Choice(["apply", "ignore"]),
    default="apply",
    help="apply: pictures are turned as their EXIF orientation says, as viewers and annotation tools show them, and "
    "annotations refer to the turned picture; where they fit only the stored picture, it is not turned. ignore: no "
    "picture is turned.",
)
@click.option(
    "--max-side",
    type=click.IntRange(64),
    show_default="store all pictures as they are",
    help="Shrink pictures whose longer side exceeds this many px, and their annotations; JPEG of quality 95.",
)
@click.option(
    "--on-bad-annotation",
    type=click.Choice(["fail", "skip"]),
    default="fail",
    help="Action on an annotation with an error that cannot be corrected. A person that is left out is ignored in "
    "training if the box is known.",
)
@click.option(
    "--allow-links-to",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    multiple=True,
    help="Folder to which symbolic links among the images may lead; may be repeated. Links within the image folder are "
    "always followed.",
)
@click.option("--follow-links", is_flag=True, help="Follow symbolic links among the images wherever they lead.")
@click.option("--force", is_flag=True, help="Rebuild a complete set.")
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
    exif: ExifRule,
    max_side: int | None,
    on_bad_annotation: str,
    allow_links_to: tuple[Path, ...],
    follow_links: bool,
    force: bool,
) -> None:
    """Pack images and annotations into MindRecord shards.

    Several sources can be combined into one set: each --coco with its --split, and each --annotations file with its
    --pictures folder. An image that an earlier source already has is left out. A different image with an image id that
    is already used gets a new id.
    """
    sources = splits_from_options(coco, split, annotations, pictures)
    if keep_empty is None:
        keep_empty = not all(source.annotations or source.split.startswith("train") for source in sources)
    options = BuildOptions(
        PersonFilter(min_keypoints, min_area),
        keep_empty,
        records_per_shard,
        skip_bad=on_bad_image == "skip",
        exif=exif,
        max_side=max_side,
        skip_bad_annotations=on_bad_annotation == "skip",
        links_to=tuple(folder.absolute() for folder in allow_links_to),
        follow_links=follow_links,
    )
    if (backend == "dask") != bool(scheduler):
        raise InputError("--backend dask and --scheduler HOST:PORT must be given together")
    if scheduler and workers:
        raise InputError("--workers cannot be set with --scheduler: the cluster determines the number of workers")
    with contextlib.ExitStack() as stack:
        if scheduler:
            stack.enter_context(
                dask_cluster(scheduler, [source.image_folder.absolute() for source in sources], out.absolute())
            )
        else:
            workers = workers or default_workers()
        try:
            result = build(sources, out, options, workers=workers, force=force, announce=_print_to_stderr)
        except OSError as error:
            raise InputError(f"{error.filename or out}: {error.strerror or error}") from error
    _warn_of_orientation(result.manifest)
    click.echo("\n".join([_format_summary(out, result), *_describe_annotations(out, result.manifest)]))


if __name__ == "__main__":
    main()
