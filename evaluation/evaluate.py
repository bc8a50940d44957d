"""Score a network, or any system's results, on a set of pictures: python -m evaluation.evaluate --help."""

from __future__ import annotations

import functools
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from evaluation.options import flip_option, recipe_overrides, scales_option
from pipeline.errors import InputError, reports_input_errors
from training.options import device_option

if TYPE_CHECKING:
    from collections.abc import Callable

    from evaluation.inference.predictor import Predictor
    from evaluation.scoring.datasets import PictureSet
    from evaluation.scoring.detect import Detections
    from evaluation.scoring.evaluation import Evaluation

_PATH = click.Path(path_type=Path)


def open_set(shards: Path | None, coco: Path | None, split: str) -> PictureSet:
    """The pictures that the options name; InputError unless they name one set, and where it is bad."""
    from evaluation.scoring.datasets import CocoSet, ShardSet

    if (shards is None) == (coco is None):
        raise InputError("give either --shards DIR or --coco DIR")
    return ShardSet(shards) if shards else CocoSet(coco or Path(), split)


def find(load: Callable[[], Predictor], pictures: PictureSet, number: int, processes: int) -> Detections:
    """Find the people in the first pictures of a set, with progress on the terminal.

    Args:
        load: makes the network ready.
        pictures: the set.
        number: of pictures to take.
        processes: that share them; 1 is this one.
    """
    from tqdm import tqdm

    from evaluation.scoring.detect import detect_people, partition_by_work
    from evaluation.scoring.worker_processes import detect_in_processes

    if processes > 1:
        shares = partition_by_work(pictures.sizes()[:number], processes)
        with tqdm(total=number, unit="picture", desc="evaluate", smoothing=0.1, disable=None) as progress:
            return detect_in_processes(load, pictures, shares, progress.update)
    predictor = load()
    with tqdm(total=number, unit="picture", desc="evaluate", smoothing=0.1, disable=None) as progress:
        return detect_people(predictor, pictures.records(range(number)), progress.update)


def score_file(path: Path, pictures: PictureSet, number: int) -> Evaluation:
    """Score the COCO keypoint results in a file on the first pictures of a set."""
    from evaluation.scoring.evaluation import score_results
    from evaluation.scoring.results import read_results

    truth = pictures.truth()
    results = read_results(path, truth)
    return score_results(dict(list(truth.items())[:number]), results)


@click.command()
@click.option("--ckpt", type=_PATH, help="Network: a checkpoint, a run folder (its newest), a .mindir or an .onnx.")
@click.option("--results", type=_PATH, help="COCO keypoint results of any system, to score instead of a network.")
@click.option("--shards", type=_PATH, help="Pictures and truth: a set by pipeline.shards.")
@click.option("--coco", type=_PATH, help="Pictures and truth: a COCO folder, instead of shards.")
@click.option("--split", default="val2017", show_default=True, help="Split of the COCO folder.")
@click.option("--out", type=_PATH, help="Folder for all that follows; without it only what is named is written.")
@click.option("--json", "json_file", type=_PATH, help="The numbers.  [default: OUT/eval.json]")
@click.option("--save-results", type=_PATH, help="COCO keypoint results.  [default: OUT/results.json]")
@click.option("--pictures", type=_PATH, help="Folder for drawn pictures.  [default: OUT/pictures]")
@click.option("--report", type=_PATH, help="Folder for index.html: curves, errors, examples.  [default: OUT/report]")
@click.option("--num-pictures", type=click.IntRange(0), default=24, show_default=True, help="Pictures to draw.")
@click.option("--limit", type=click.IntRange(1), help="Take only the first pictures of the set.")
@click.option("--nproc", type=click.IntRange(1), default=1, show_default=True, help="Processes, one a device.")
@device_option
@scales_option
@flip_option
@click.option("--set", "overrides", multiple=True, metavar="FIELD=VALUE", help="Override: evaluation.size=432.")
@reports_input_errors
def main(
    ckpt: Path | None,
    results: Path | None,
    shards: Path | None,
    coco: Path | None,
    split: str,
    out: Path | None,
    json_file: Path | None,
    save_results: Path | None,
    pictures: Path | None,
    report: Path | None,
    num_pictures: int,
    limit: int | None,
    nproc: int,
    device: str,
    scales: tuple[float, ...] | None,
    flip: bool | None,
    overrides: tuple[str, ...],
) -> None:
    """Print COCO's keypoint AP of a network, or of results that were saved, and write what explains it.

    The table has two rows: all pictures, on which people found where nobody is count against AP, and pictures with
    people only, which is how some projects report theirs.
    """
    from evaluation.report.outputs import Outputs

    if (ckpt is None) == (results is None):
        raise InputError("give either --ckpt FILE_OR_RUN or --results FILE")
    outputs = Outputs(
        json=json_file or (out and out / "eval.json"),
        results=save_results or (out and results is None and out / "results.json") or None,
        pictures=pictures or (out and out / "pictures"),
        report=report or (out and out / "report"),
        number=num_pictures,
    )
    changes = recipe_overrides(overrides, scales, flip)
    _run(open_set(shards, coco, split), ckpt, results, outputs, limit, nproc, device, changes)


def _run(
    pictures: PictureSet,
    ckpt: Path | None,
    results: Path | None,
    outputs: Any,
    limit: int | None,
    processes: int,
    device: str,
    overrides: tuple[str, ...],
) -> None:
    from evaluation.inference.predictor import Predictor
    from evaluation.scoring.detect import count_canvases
    from evaluation.scoring.evaluation import score_detections
    from evaluation.scoring.metrics import format_table
    from evaluation.scoring.worker_processes import ProcessError

    outputs.check()
    number = min(limit or len(pictures), len(pictures))
    about: dict[str, Any] = {"command": _command(), "set": pictures.name, "limit": limit}
    if results:
        evaluation = score_file(results, pictures, number)
        about["results"] = str(results)
    else:
        assert ckpt is not None
        load = functools.partial(Predictor.load, ckpt, device, overrides)
        try:
            detections = find(load, pictures, number, processes)
        except ProcessError as error:
            raise click.ClickException(str(error)) from error
        evaluation = score_detections(detections)
        about["processes"] = processes
        click.echo(count_canvases(detections.canvases))
    click.echo(format_table(evaluation.protocols))
    for line in outputs.write(evaluation, pictures, about):
        click.echo(line)


def _command() -> str:
    return shlex.join(["python", "-m", "evaluation.evaluate", *sys.argv[1:]])


if __name__ == "__main__":
    main()
