"""Score a checkpoint on a set of shards: python -m evaluation.evaluate --ckpt FILE_OR_RUN --shards DIR."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.errors import InputError, reports_input_errors
from training.options import device_option

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from evaluation.person import Person
    from evaluation.predictor import Predictor
    from pipeline.sample import Annotation

    Record = tuple[Annotation, NDArray[np.uint8]]

Truth = dict[int, tuple[dict[str, Any], ...]]
"""COCO person annotations by image id, in the order of the shards."""


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
        truth: the pictures looked at, with their annotations.
        people: found in each picture, in its pixels, by image id.
        results: the same as COCO keypoint results, by rising image id.
        ap: COCO's ten numbers.
        seconds: that prediction took, compilation of graphs included; scoring is not in it.
    """

    truth: Truth
    people: dict[int, list[Person]]
    results: list[dict[str, Any]]
    ap: dict[str, float]
    seconds: float


def evaluate(
    predictor: Predictor, records: Iterable[Record], on_picture: Callable[[], object] = lambda: None
) -> Evaluation:
    """Find the people in every record's picture and compare them with its truth.

    Args:
        predictor: network and recipe.
        records: annotation with its truth, and the picture file's bytes as (N,) uint8; as `read_records` yields them.
        on_picture: called whenever a picture is done.

    Raises:
        InputError: a picture that cannot be decoded or is of another size than its annotation says, two pictures of
            one image id, or maps that are not finite.
    """
    from evaluation.metrics import coco_ap
    from evaluation.results import to_coco_results

    truth: Truth = {}
    people: dict[int, list[Person]] = {}
    start = time.monotonic()
    for (annotation, _), found in predictor.stream(_noted(records, truth), load_picture):
        people[annotation.image_id] = found
        on_picture()
    seconds = time.monotonic() - start
    results = [result for image_id in sorted(people) for result in to_coco_results(image_id, people[image_id])]
    return Evaluation(truth, people, results, coco_ap(truth, results), seconds)


def _noted(records: Iterable[Record], truth: Truth) -> Iterator[Record]:
    """The records, with their annotations noted in `truth` as they pass."""
    for record in records:
        annotation = record[0]
        if annotation.image_id in truth:
            raise InputError(f"image id {annotation.image_id} comes twice: evaluate a set of one split at a time")
        truth[annotation.image_id] = annotation.truth
        yield record


def load_picture(record: Record) -> NDArray[np.uint8]:
    """Decode a record's picture, (H, W, 3) uint8 BGR; InputError if it is damaged or not of the annotated size."""
    from pipeline.pictures import decode

    annotation, data = record
    try:
        image = decode(data, strict=True)
    except InputError as error:
        raise InputError(f"image {annotation.image_id}: {error}: run make shards again") from error
    if image.shape[:2] != (annotation.height, annotation.width):
        sizes = f"{image.shape[1]}x{image.shape[0]} px, its annotation says {annotation.width}x{annotation.height}"
        raise InputError(f"image {annotation.image_id}: has {sizes}: run make shards again")
    return image


def summarise(evaluation: Evaluation, predictor: Predictor, **about: Any) -> dict[str, Any]:
    """What eval.json holds: the ten numbers at the top level, then what they were measured on and how.

    Args:
        evaluation: the numbers.
        predictor: that they were measured with.
        about: further entries, such as the set's name.
    """
    images = len(evaluation.truth)
    return {
        **evaluation.ap,
        "images": images,
        "people": sum(_counts(annotations) for annotations in evaluation.truth.values()),
        "found": len(evaluation.results),
        "seconds": round(evaluation.seconds, 2),
        "images_per_s": round(images / evaluation.seconds, 2),
        "canvases": [f"{width}x{height}" for height, width in sorted(predictor.canvases)],
        "checkpoint": str(predictor.source),
        "evaluation": predictor.config.model_dump(mode="json"),
        **about,
    }


def _counts(annotations: Iterable[dict[str, Any]]) -> int:
    """Annotated people whom COCO's score asks for."""
    return sum(not person["iscrowd"] and person["num_keypoints"] > 0 for person in annotations)


def read_pictures(shards: Path, indices: list[int]) -> dict[int, NDArray[np.uint8]]:
    """Decode the pictures of some records of a set, (H, W, 3) uint8 BGR by image id."""
    from pipeline.batches import read_rows
    from pipeline.manifest import Manifest
    from pipeline.records import EVAL_COLUMNS, unpack

    records = [unpack(row) for row in read_rows(shards, Manifest.load(shards), EVAL_COLUMNS, indices)]
    return {record[0].image_id: load_picture(record) for record in records}


@dataclass(frozen=True)
class Outputs:
    """Where results go; None writes none of a kind."""

    json: Path | None
    results: Path | None
    pictures: Path | None
    number: int

    def check(self) -> None:
        """Make the folders; InputError where that cannot be, before any work is done."""
        for file in (self.json, self.results):
            if file and file.is_dir():
                raise InputError(f"{file}: is a folder, expected the name of a file")
        folders = [path.parent for path in (self.json, self.results) if path] + [p for p in (self.pictures,) if p]
        for folder in folders:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(f"{folder}: cannot be made: {error.strerror}") from error

    def write(self, evaluation: Evaluation, summary: dict[str, Any], shards: Path) -> list[str]:
        """Write all that was asked for; returns a line for each. `shards` is what was evaluated, from its start."""
        from evaluation.gallery import choose, write_pictures

        lines = []
        if self.pictures:
            chosen = choose([_counts(annotations) for annotations in evaluation.truth.values()], self.number)
            pictures = read_pictures(shards, chosen)
            written = write_pictures(self.pictures, pictures, evaluation.truth, evaluation.people)
            lines.append(f"{self.pictures}/: {len(written)} pictures, truth left, found right")
        if self.results:
            _write_json(self.results, evaluation.results, indent=None)
            lines.append(f"{self.results}: {len(evaluation.results)} people found, as COCO keypoint results")
        if self.json:
            _write_json(self.json, summary, indent=1)
            lines.append(f"{self.json}: the numbers")
        return lines


def _write_json(path: Path, content: Any, indent: int | None) -> None:
    from pipeline.manifest import write_atomically

    try:
        write_atomically(path, json.dumps(content, indent=indent) + "\n")
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error


@click.command()
@click.option(
    "--ckpt", type=click.Path(path_type=Path), required=True, help="Checkpoint, or run folder: its newest is taken."
)
@click.option("--shards", type=click.Path(path_type=Path), required=True, help="Set to score on, by pipeline.shards.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder for eval.json, results.json and pictures/; else only a table.",
)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="The numbers.  [default: OUT/eval.json]")
@click.option(
    "--save-results", type=click.Path(path_type=Path), help="COCO keypoint results.  [default: OUT/results.json]"
)
@click.option("--pictures", type=click.Path(path_type=Path), help="Folder for drawn pictures.  [default: OUT/pictures]")
@click.option("--num-pictures", type=click.IntRange(0), default=24, show_default=True, help="Pictures to draw.")
@click.option("--limit", type=click.IntRange(1), help="Take only the first pictures of the set.")
@device_option
@click.option("--set", "overrides", multiple=True, metavar="FIELD=VALUE", help="Override: evaluation.size=432.")
@reports_input_errors
def main(
    ckpt: Path,
    shards: Path,
    out: Path | None,
    json_file: Path | None,
    save_results: Path | None,
    pictures: Path | None,
    num_pictures: int,
    limit: int | None,
    device: str,
    overrides: tuple[str, ...],
) -> None:
    """Find the people in a set's pictures with a trained network, and print COCO's keypoint AP.

    People found on pictures of nobody count against it, where the set holds such pictures (--keep-empty).
    """
    outputs = Outputs(
        json=json_file or (out and out / "eval.json"),
        results=save_results or (out and out / "results.json"),
        pictures=pictures or (out and out / "pictures"),
        number=num_pictures,
    )
    _run(ckpt, shards, outputs, limit, device, overrides)


def _run(
    ckpt: Path, shards: Path, outputs: Outputs, limit: int | None, device: str, overrides: tuple[str, ...]
) -> None:
    from tqdm import tqdm

    from evaluation.metrics import format_table
    from evaluation.predictor import Predictor
    from pipeline.batches import read_records
    from pipeline.manifest import Manifest

    manifest = Manifest.load(shards)
    predictor = Predictor.load(ckpt, device, overrides)
    outputs.check()
    number = min(limit or manifest.records, manifest.records)
    records = itertools.islice(read_records(shards), number)
    with tqdm(total=number, unit="picture", desc="evaluate", smoothing=0.1, disable=None) as progress:
        evaluation = evaluate(predictor, records, progress.update)
    summary = summarise(evaluation, predictor, shards=str(shards), keep_empty=manifest.options.get("keep_empty"))
    click.echo(format_table(evaluation.ap))
    for line in outputs.write(evaluation, summary, shards):
        click.echo(line)


if __name__ == "__main__":
    main()
