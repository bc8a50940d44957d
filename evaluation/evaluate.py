"""Score a network, or saved results of any system, on a dataset: python -m evaluation.evaluate --help."""

from __future__ import annotations

import functools
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from evaluation.options import backend_option, flip_option, recipe_overrides, scales_option, settings_options
from pipeline.errors import InputError, reports_input_errors
from training.options import device_option

if TYPE_CHECKING:
    from collections.abc import Callable

    from evaluation.inference.backends import BackendName
    from evaluation.inference.predictor import Predictor
    from evaluation.report.outputs import Outputs
    from evaluation.saved_maps.writer import MapWriter
    from evaluation.scoring.datasets import EvaluationDataset
    from evaluation.scoring.detect import Detections
    from evaluation.scoring.evaluation import Evaluation

_PATH = click.Path(path_type=Path)


def open_dataset(shards: Path | None, coco: Path | None, split: str) -> EvaluationDataset:
    """Open the dataset of the options --shards or --coco; raise InputError if both or none are given."""
    from evaluation.scoring.datasets import CocoDataset, ShardDataset

    if (shards is None) == (coco is None):
        raise InputError("give either --shards DIR or --coco DIR")
    return ShardDataset(shards) if shards else CocoDataset(coco or Path(), split)


def detect(
    load_predictor: Callable[[], Predictor],
    dataset: EvaluationDataset,
    number: int,
    processes: int,
    writer: MapWriter | None = None,
) -> Detections:
    """Detect people in the first images of a dataset, with a progress bar.

    Args:
        load_predictor: loads the network.
        dataset: dataset to evaluate.
        number: number of images to evaluate.
        processes: number of worker processes; 1 runs in this process.
        writer: saves the maps of each image; images whose maps it has already do not run through the network.
    """
    from tqdm import tqdm

    from evaluation.scoring.detect import decode_saved_maps, detect_people, partition_by_work
    from evaluation.scoring.worker_processes import detect_in_processes

    indices, saved = list(range(number)), {}
    if writer:
        ids, files = dataset.image_ids(), writer.saved()
        indices = [i for i in indices if ids[i] not in files]
        saved = {image_id: files[image_id] for image_id in ids[:number] if image_id in files}
    predictor = load_predictor() if processes == 1 or not indices else None
    with tqdm(total=number, unit="image", desc="evaluate", smoothing=0.1, disable=None) as progress:
        if predictor:
            detections = detect_people(predictor, dataset.records(indices), progress.update, writer)
        else:
            sizes = dataset.sizes()
            shares = partition_by_work([sizes[i] for i in indices], processes)
            shares = [[indices[i] for i in share] for share in shares]
            detections = detect_in_processes(load_predictor, dataset, shares, progress.update, writer)
        return decode_saved_maps(saved, dataset, detections, progress.update) if saved else detections


def score_results_file(path: Path, dataset: EvaluationDataset, number: int) -> Evaluation:
    """Score a file of COCO keypoint results on the first images of a dataset."""
    from evaluation.scoring.evaluation import score_results
    from evaluation.scoring.ground_truth import category_ids
    from evaluation.scoring.results import read_results

    ground_truth = dataset.ground_truth()
    categories = category_ids(person for people in ground_truth.values() for person in people)
    results = read_results(path, ground_truth, categories=categories, text_ids=dataset.text_ids())
    return score_results(dict(list(ground_truth.items())[:number]), results)


@click.command()
@click.option("--ckpt", type=_PATH, help="Network: a checkpoint, a run folder (latest checkpoint), .mindir or .onnx.")
@click.option("--results", type=_PATH, help="COCO keypoint results of any system, instead of --ckpt.")
@click.option("--shards", type=_PATH, help="Dataset written by pipeline.shards.")
@click.option("--coco", type=_PATH, help="COCO folder, instead of --shards.")
@click.option("--split", default="val2017", show_default=True, help="Split of the COCO folder.")
@click.option("--out", type=_PATH, help="Folder of all outputs; without it, only outputs with a path are written.")
@click.option("--json", "json_file", type=_PATH, help="File for the scores.  [default: OUT/eval.json]")
@click.option("--save-results", type=_PATH, help="File for COCO keypoint results.  [default: OUT/results.json]")
@click.option("--save-maps", type=_PATH, help="Folder for the maps that are decoded; an interrupted run can go on.")
@click.option("--pictures", type=_PATH, help="Folder for images with skeletons.  [default: OUT/pictures]")
@click.option("--report", type=_PATH, help="Folder for the HTML report.  [default: OUT/report]")
@click.option("--num-pictures", type=click.IntRange(0), default=24, show_default=True, help="Images in --pictures.")
@click.option("--limit", type=click.IntRange(1), help="Evaluate only the first images; outputs are in OUT/limit-N.")
@click.option("--nproc", type=click.IntRange(1), default=1, show_default=True, help="Processes, one per device.")
@device_option
@backend_option
@scales_option
@flip_option
@reports_input_errors
@settings_options
def main(
    ckpt: Path | None,
    results: Path | None,
    shards: Path | None,
    coco: Path | None,
    split: str,
    out: Path | None,
    json_file: Path | None,
    save_results: Path | None,
    save_maps: Path | None,
    pictures: Path | None,
    report: Path | None,
    num_pictures: int,
    limit: int | None,
    nproc: int,
    device: str,
    backend: BackendName,
    scales: tuple[float, ...] | None,
    flip: bool | None,
    overrides: tuple[str, ...],
) -> None:
    """Print COCO keypoint AP of a network or of saved results, and write an error report.

    The table has two rows. The first evaluates all pictures, so detections on pictures without people lower AP. The
    second evaluates only pictures with people, as some other projects do.

    The maps of --save-maps are rounded to float16 before they are decoded, so evaluation.oracle --maps and
    evaluation.tune find the same people in them. Its folder may have maps of the same network, input size and dataset
    from an earlier run; these are decoded again and not computed again.
    """
    from evaluation.report.outputs import Outputs

    if results and save_maps:
        raise InputError("--save-maps needs a network: give --ckpt instead of --results")
    if (ckpt is None) == (results is None):
        raise InputError("give either --ckpt FILE_OR_RUN or --results FILE")
    if out and limit:
        out = out / f"limit-{limit}"
    outputs = Outputs(
        json=json_file or (out and out / "eval.json"),
        results=save_results or (out and results is None and out / "results.json") or None,
        pictures=pictures or (out and out / "pictures"),
        report=report or (out and out / "report"),
        number=num_pictures,
    )
    changes = recipe_overrides(overrides, scales, flip)
    _run(open_dataset(shards, coco, split), ckpt, results, outputs, save_maps, limit, nproc, device, backend, changes)


def _run(
    dataset: EvaluationDataset,
    ckpt: Path | None,
    results: Path | None,
    outputs: Outputs,
    save_maps: Path | None,
    limit: int | None,
    processes: int,
    device: str,
    backend: BackendName,
    overrides: tuple[str, ...],
) -> None:
    from evaluation.inference.predictor import Predictor
    from evaluation.scoring.detect import format_network
    from evaluation.scoring.evaluation import score_detections
    from evaluation.scoring.metrics import format_table
    from evaluation.scoring.worker_processes import WorkerError

    outputs.check()
    number = min(limit or len(dataset), len(dataset))
    settings: dict[str, Any] = {"command": _command_line(), "set": dataset.name, "limit": limit}
    if results:
        evaluation = score_results_file(results, dataset, number)
        settings["results"] = str(results)
    else:
        assert ckpt is not None
        load_predictor = functools.partial(Predictor.load, ckpt, device, overrides, backend)
        writer = _open_writer(save_maps, dataset) if save_maps else None
        try:
            detections = detect(load_predictor, dataset, number, processes, writer)
        except WorkerError as error:
            raise click.ClickException(str(error)) from error
        evaluation = score_detections(detections)
        settings |= {"processes": processes, "save_maps": save_maps and str(save_maps)}
        if detections.canvases:  # else all maps had been saved
            click.echo(format_network(detections.library, detections.canvases))
    click.echo(format_table(evaluation.protocols))
    for line in outputs.write(evaluation, dataset, settings):
        click.echo(line)
    if save_maps:
        click.echo(f"{save_maps}/: maps of {number:,} images, for evaluation.oracle --maps and evaluation.tune")


def _open_writer(folder: Path, dataset: EvaluationDataset) -> MapWriter:
    from evaluation.saved_maps.writer import MapWriter
    from evaluation.scoring.datasets import identify

    writer = MapWriter(folder, identify(dataset))
    writer.check_folder()
    return writer


def _command_line() -> str:
    return shlex.join(["python", "-m", "evaluation.evaluate", *sys.argv[1:]])


if __name__ == "__main__":
    main()
