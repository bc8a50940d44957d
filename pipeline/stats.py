"""Print statistics of sets of shards as text, JSON or plots: python -m pipeline.stats [SHARDS…].

The statistics are read from the manifests, or with --scan counted from the records.
"""

from __future__ import annotations

import itertools
import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from pipeline.annotations.annotated_image import PersonFilter
from pipeline.annotations.coco import describe_filled
from pipeline.errors import InputError, reports_input_errors
from pipeline.skeleton import KEYPOINTS
from pipeline.storage.manifest import Manifest, find_sets
from pipeline.storage.statistics import BOX_EDGES, IGNORED_EDGES, IMAGE_EDGES, Statistics
from pipeline.system.log_filters import silence_mindspore

_BAR_LENGTH = 30
"""Length of the longest bar of a chart, in characters."""

_MAX_DECODED = 200
"""Maximum number of images of a format that are decoded to measure the time."""

_MAX_PEOPLE_BIN = 8
"""Images with this many people or more share one bar in the text."""

_BAR_EIGHTHS = " ▏▎▍▌▋▊▉█"


def describe(manifest: Manifest, statistics: Statistics | None = None) -> dict[str, Any]:
    """Describe one set by numbers.

    Args:
        manifest: manifest of the set.
        statistics: counts to use instead of the manifest's, such as those that `scan` returns.

    Returns:
        A dictionary of: each count of `Statistics`, where `people_per_image`, `keypoints_per_person` and the histograms
        are lists and `keypoints` is [not labelled, hidden, visible] by name; `shards` (the number of shards);
        `shard_bytes`; `records_per_shard` and `bytes_per_shard` ([min, mean, max]); `edges` of the histograms;
        `skipped` (the number of skipped images); `formats` (the number of images by format); `turned` as their EXIF
        orientation says, and `reduced` to the build's --max-side (numbers of images); and `sources`.
        `skipped` and `left_out` (the numbers of skipped images and annotations); and `sources`.
    """
    counts = dict(manifest.counts)
    special = {name: counts.pop(name, 0) for name in ("turned", "ambiguous", "reduced")}
    sizes = [shard.bytes + shard.index_bytes for shard in manifest.shards]
    return {
        **(statistics or manifest.statistics).to_json(),
        "shards": len(manifest.shards),
        "shard_bytes": sum(sizes),
        "records_per_shard": _min_mean_max([shard.records for shard in manifest.shards]),
        "bytes_per_shard": _min_mean_max(sizes),
        "skipped": len(manifest.skipped),
        "formats": {"JPEG": manifest.records - sum(counts.values()), **counts},
        "turned": special["turned"],
        "reduced": special["reduced"],
        "left_out": len(manifest.left_out),
        "sources": [asdict(source) for source in manifest.sources],
        "edges": {"box": BOX_EDGES, "image": IMAGE_EDGES, "ignored_fraction": IGNORED_EDGES},
    }


def describe_union(manifests: Sequence[Manifest], all_statistics: Sequence[Statistics]) -> dict[str, Any]:
    """Describe several sets as one set; returns the same dictionary as `describe`."""
    total = Statistics()
    for statistics in all_statistics:
        total.merge(statistics)
    union = Manifest(
        sources=tuple(source for manifest in manifests for source in manifest.sources),
        options={},
        statistics=total,
        skipped=tuple(picture for manifest in manifests for picture in manifest.skipped),
        left_out=tuple(entry for manifest in manifests for entry in manifest.left_out),
        shards=tuple(shard for manifest in manifests for shard in manifest.shards),
        counts=dict(sum((Counter(manifest.counts) for manifest in manifests), Counter())),
    )
    return describe(union)


def scan(folder: Path, manifest: Manifest) -> Statistics:
    """Read all records of a set and return their statistics, without using the counts in the manifest."""
    silence_mindspore()
    from pipeline.storage.mindrecord_reader import read_rows
    from pipeline.storage.records import (
        EVAL_COLUMNS,
        decode_runs,
        raw_bytes,
        unpack_ignore,
        unpack_keypoints,
        unpack_truth,
    )

    person_filter = PersonFilter(manifest.options["min_keypoints"], manifest.options["min_area"])
    statistics = Statistics()
    for row in read_rows(folder, manifest, EVAL_COLUMNS, range(manifest.records)):
        (height, width), runs = unpack_ignore(row["ignore"])
        truth = unpack_truth(row["truth"])
        trainable = [person_filter.is_trainable(person) for person in truth]
        statistics.add_record(
            keypoints=unpack_keypoints(row["keypoints"]),
            boxes=[person["bbox"] for person, included in zip(truth, trainable, strict=True) if included],
            crowds=sum(person["iscrowd"] for person in truth),
            ignored_people=sum(
                not included and not person["iscrowd"] for person, included in zip(truth, trainable, strict=True)
            ),
            size=(height, width),
            ignored_pixels=int(decode_runs(runs, height, width).sum()),
            picture_bytes=raw_bytes(row["image"]).size,
        )
    return statistics


def measure_decoding(folder: Path, manifest: Manifest) -> dict[str, float]:
    """Return the mean time in ms to decode an image of each format, over at most `_MAX_DECODED` images of each."""
    silence_mindspore()
    from pipeline.images.decode import decode_image, read_header
    from pipeline.storage.mindrecord_reader import read_rows
    from pipeline.storage.records import raw_bytes

    seconds: dict[str, list[float]] = {}
    for row in read_rows(folder, manifest, ("image",), range(manifest.records)):
        data = raw_bytes(row["image"])
        measured = seconds.setdefault(read_header(data).format, [])
        if len(measured) < _MAX_DECODED:
            start = time.perf_counter()
            decode_image(data, strict=True)
            measured.append(time.perf_counter() - start)
    return {name: 1000 * sum(values) / len(values) for name, values in seconds.items()}


def format_text(name: str, figures: dict[str, Any]) -> str:
    """Format the dictionary that `describe` returns as text for the terminal."""
    parts = [_format_totals(name, figures), _format_sources(figures), _format_keypoints(figures)]
    per_image = figures["people_per_image"]
    names = [str(count) for count in range(20)]
    if len(per_image) > _MAX_PEOPLE_BIN + 1:
        per_image = [*per_image[:_MAX_PEOPLE_BIN], sum(per_image[_MAX_PEOPLE_BIN:])]
        names[_MAX_PEOPLE_BIN] = f"{_MAX_PEOPLE_BIN} or more"
    parts.append(_chart("people per picture", names, per_image))
    labelled = figures["keypoints_per_person"]
    parts.append(_chart("labelled keypoints per person, of 17", [str(count) for count in range(18)], labelled))
    edges = figures["edges"]
    parts.append(_chart("height of people's boxes, px", _ranges(edges["box"]), figures["box_height"]))
    parts.append(_chart("width of pictures, px", _ranges(edges["image"]), figures["image_width"]))
    parts.append(_chart("height of pictures, px", _ranges(edges["image"]), figures["image_height"]))
    percent = [round(100 * edge) for edge in edges["ignored_fraction"]]
    ranges = ["nothing", *(f"{low}–{high} %" for low, high in itertools.pairwise([*percent[1:], 100]))]
    parts.append(_chart("ignored part of a picture", ranges, figures["ignored_fraction"]))
    return "\n\n".join(part for part in parts if part)


def _format_totals(name: str, figures: dict[str, Any]) -> str:
    records, people = figures["records"], figures["people"]
    fewest, mean, most = figures["records_per_shard"]
    _, megabytes, _ = (size / 1e6 for size in figures["bytes_per_shard"])
    ignored = figures["ignored_pixels"] / max(figures["pixels"], 1)
    return "\n".join(
        [
            name,
            f"  pictures      {records:>10,}   {figures['images_with_people']:,} with people,"
            f" {figures['picture_bytes'] / 1e3 / max(records, 1):.0f} kB each",
            f"  people        {people:>10,}   {people / max(records, 1):.2f} a picture,"
            f" {figures['max_people']} at most",
            f"  ignored       {figures['ignored_people']:>10,}   people, {figures['crowds']:,} crowds,"
            f" {ignored:.1%} of the area, in {figures['images_with_ignored']:,} pictures",
            f"  shards        {figures['shards']:>10,}   {fewest:,} to {most:,} records, {mean:,.0f} on average,"
            f" {megabytes:,.1f} MB each, {figures['shard_bytes'] / 1e6:,.1f} MB in all",
            f"  skipped       {figures['skipped']:>10,}   bad pictures, {figures['left_out']:,} annotations",
            *_format_formats(figures),
        ]
    )


def _format_formats(figures: dict[str, Any]) -> list[str]:
    """Return lines about formats, unless all images are JPEGs as their files have them and nothing was measured."""
    lines, decode_ms = [], figures.get("decode_ms", {})
    for name, count in figures["formats"].items():
        if count and (decode_ms or name != "JPEG" or count < figures["records"]):
            time_text = f", {decode_ms[name]:.2f} ms each to decode" if name in decode_ms else ""
            lines.append(f"  {name:<14}{count:>10,}   pictures{time_text}")
    if figures["turned"]:
        lines.append(f"  turned        {figures['turned']:>10,}   pictures, as their EXIF orientation says")
    if figures["reduced"]:
        lines.append(f"  reduced       {figures['reduced']:>10,}   pictures, stored smaller")
    return lines


def _format_sources(figures: dict[str, Any]) -> str:
    lines = [f"  {'pictures':>10}{'people':>10}   sources"]
    for source in figures["sources"]:
        notes = [(source["repeated"], "repeated left out"), (source["renumbered"], "renumbered")]
        extra = "".join(f", {count:,} {note}" for count, note in notes if count)
        if source["filled"]:
            extra += f"\n{'':>23}filled in or corrected: {describe_filled(source['filled'])}"
        folder = f"{source['coco']}/{source['split']}"
        lines.append(f"  {source['records']:>10,}{source['people']:>10,}   {folder}, {source['annotations']}{extra}")
    return "\n".join(lines)


def _format_keypoints(figures: dict[str, Any]) -> str:
    lines = [f"  {'keypoints':<16}{'visible':>10}{'hidden':>10}{'no label':>10}{'labelled':>10}"]
    for name in KEYPOINTS:
        absent, hidden, visible = figures["keypoints"][name]
        share = (hidden + visible) / max(absent + hidden + visible, 1)
        counts = f"{visible:>10,}{hidden:>10,}{absent:>10,}{share:>10.1%}"
        lines.append(f"  {name.replace('_', ' '):<16}{counts} {_bar(share, _BAR_LENGTH)}".rstrip())
    return "\n".join(lines)


def _chart(title: str, names: Sequence[str], counts: Sequence[int]) -> str:
    """Format a bar chart from the first to the last non-empty bin; an empty string if all bins are empty."""
    filled = [index for index, count in enumerate(counts) if count]
    if not filled:
        return ""
    largest, total = max(counts), sum(counts)
    lines = [f"  {title}"]
    for index in range(filled[0], filled[-1] + 1):
        bar = _bar(counts[index] / largest, _BAR_LENGTH)
        lines.append(f"  {names[index]:>16}{counts[index]:>10,}{counts[index] / total:>8.1%} {bar}".rstrip())
    return "\n".join(lines)


def _bar(share: float, length: int) -> str:
    whole, rest = divmod(round(share * length * 8), 8)  # the smallest step of a bar is an eighth of a character
    return "█" * whole + (_BAR_EIGHTHS[rest] if rest else "")


def _ranges(edges: Sequence[int]) -> list[str]:
    closed = [f"{low}" if high == low + 1 else f"{low}–{high - 1}" for low, high in itertools.pairwise(edges)]
    return [*closed, f"{edges[-1]} and more"]


def _min_mean_max(values: Sequence[int]) -> tuple[int, float, int]:
    return min(values, default=0), sum(values) / max(len(values), 1), max(values, default=0)


def _find_folders(shards: Sequence[Path]) -> list[Path]:
    folders = []
    for root in shards or [Path("shards")]:
        found = find_sets(root)
        if not found:
            raise InputError(f"{root}: no set of shards in or below this folder: run make shards")
        folders.extend(found)
    return list(dict.fromkeys(folders))


@click.command()
@click.argument("shards", nargs=-1, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON: the total of all sets, and each set in `sets`.")
@click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), help="Also write a plot to this image file.")
@click.option(
    "--scan",
    "from_records",
    is_flag=True,
    help="Count from the records instead of the manifest, and measure how long images take to decode.",
)
@reports_input_errors
def main(*, shards: tuple[Path, ...], as_json: bool, plot: Path | None, from_records: bool) -> None:
    """Print statistics of the sets of shards in or below SHARDS (default: every set below shards/)."""
    folders = _find_folders(shards)
    manifests = [Manifest.load(folder) for folder in folders]
    all_statistics = [
        scan(folder, manifest) if from_records else manifest.statistics
        for folder, manifest in zip(folders, manifests, strict=True)
    ]
    sets = {
        str(folder): describe(manifest, statistics)
        for folder, manifest, statistics in zip(folders, manifests, all_statistics, strict=True)
    }
    if from_records:
        for folder, manifest in zip(folders, manifests, strict=True):
            sets[str(folder)]["decode_ms"] = measure_decoding(folder, manifest)
    if as_json:
        total = describe_union(manifests, all_statistics)
        click.echo(json.dumps({**total, "sets": sets} if len(sets) > 1 else total, indent=1))
    else:
        click.echo("\n\n".join(format_text(name, figures) for name, figures in sets.items()))
    if plot:
        from pipeline.visualization.statistics_plot import plot_statistics

        plot_statistics(sets, plot)
        click.echo(f"{plot}: plot written", err=True)


if __name__ == "__main__":
    main()
