"""Measure the decoder without a network, on exact target maps or on saved maps: python -m evaluation.oracle --help."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from evaluation.evaluate import open_dataset
from evaluation.options import perturbation_options, settings_options
from pipeline.errors import InputError, reports_input_errors

if TYPE_CHECKING:
    from evaluation.decoder.decode import DecodeConfig
    from evaluation.decoder_bench.compare import Comparison
    from evaluation.saved_maps.folder import SavedMaps
    from evaluation.saved_maps.perturbation import Perturbation
    from evaluation.scoring.datasets import EvaluationDataset
    from evaluation.scoring.ground_truth import GroundTruth
    from evaluation.scoring.oracle_ablation import AblationStep, OracleImage

Item = TypeVar("Item")

_PATH = click.Path(path_type=Path)

PEOPLE_PER_IMAGE: dict[str, tuple[int, int]] = {
    "1": (1, 1),
    "2": (2, 2),
    "3": (3, 3),
    "4-6": (4, 6),
    "7+": (7, 10**9),
}
"""Groups of images: minimum and maximum number of people with keypoints."""

DEFAULT_SIZE = 368
"""Shorter side in px of images whose exact target maps are rendered."""


def run_ablation(images: Iterable[OracleImage], ground_truth: GroundTruth, config: DecodeConfig) -> dict[str, Any]:
    """Decode exact target maps and score the detections after each step of the ablation.

    Args:
        images: images with their annotated people.
        ground_truth: COCO annotations of the same images.
        config: configuration of the decoder.

    Returns:
        `groups`: COCO's ten numbers for all images and for each group of PEOPLE_PER_IMAGE, with the numbers of
        `images` and `people`; `causes`: the `AP` of each step and the AP `lost` against the previous step; `besides`:
        the same for each of ADDITIONAL_STEPS, against the last step.
    """
    from evaluation.scoring.metrics import coco_ap
    from evaluation.scoring.oracle_ablation import ADDITIONAL_STEPS, STEPS

    steps = {**STEPS, **ADDITIONAL_STEPS}
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in steps}
    for image in images:
        for name, step in steps.items():
            results[name] += _detect(image, step, config)
    ap = {name: coco_ap(ground_truth, detections)["AP"] for name, detections in results.items()}
    names = list(STEPS)
    previous = [names[0], *names[:-1]]
    return {
        "groups": _score_groups(ground_truth, results[names[-1]]),
        "causes": {
            name: {"AP": ap[name], "lost": ap[before] - ap[name]} for name, before in zip(names, previous, strict=True)
        },
        "besides": {name: {"AP": ap[name], "lost": ap[names[-1]] - ap[name]} for name in ADDITIONAL_STEPS},
    }


def _detect(image: OracleImage, step: AblationStep, config: DecodeConfig) -> list[dict[str, Any]]:
    from evaluation.inference.letterbox import people_to_image
    from evaluation.scoring.results import to_coco_results

    return to_coco_results(image.image_id, people_to_image(step(image, config), image.letterbox))


def _score_groups(ground_truth: GroundTruth, results: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    from evaluation.scoring.ground_truth import count_people
    from evaluation.scoring.metrics import coco_ap

    people = {image_id: count_people(annotations) for image_id, annotations in ground_truth.items()}
    members = {
        name: [image_id for image_id in ground_truth if low <= people[image_id] <= high]
        for name, (low, high) in PEOPLE_PER_IMAGE.items()
    }
    return {
        name: {"images": len(ids), "people": sum(people[i] for i in ids), **coco_ap(ground_truth, results, ids)}
        for name, ids in {"all": list(ground_truth), **members}.items()
    }


def format_groups(groups: Mapping[str, Mapping[str, float]]) -> str:
    """Format a table with a row for each group; `-` stands for an undefined number."""
    from evaluation.scoring.metrics import SHORT_AP_KEYS, format_short_row

    header = f"{'people per image':16}  {'images':>6}  {'people':>6}"
    lines = [header + "".join(f"  {name:>5}" for name in SHORT_AP_KEYS)]
    for name, group in groups.items():
        lines.append(f"{name:16}  {group['images']:6}  {group['people']:6}" + format_short_row(group))
    return "\n".join(lines)


def format_steps(steps: Mapping[str, Mapping[str, float]]) -> str:
    """Format a table with a row for each step: its AP and the change of AP."""
    width = max(len(name) for name in steps)
    rows = [f"{name:{width}}  {row['AP']:.3f}  {0.0 - round(row['lost'], 3):+.3f}" for name, row in steps.items()]
    return "\n".join([f"{'':{width}}  {'AP':>5}  {'change':>6}", *rows])


@click.command()
@click.option("--shards", type=_PATH, help="Ground truth: a dataset written by pipeline.shards.")
@click.option("--coco", type=_PATH, help="Ground truth: a COCO folder, instead of --shards; images are not needed.")
@click.option("--split", default="val2017", show_default=True, help="Split of the COCO folder.")
@click.option("--maps", "folder", type=_PATH, help="Decode these maps, of any network, instead of exact target maps.")
@click.option("--size", type=click.IntRange(64, 2048), help="Shorter side in px of exact maps.  [default: 368]")
@click.option("--limit", type=click.IntRange(1), help="Use only the first images of the dataset.")
@perturbation_options
@click.option("--json", "json_file", type=_PATH, help="Write the numbers to this file.")
@reports_input_errors
@settings_options
def main(
    shards: Path | None,
    coco: Path | None,
    split: str,
    folder: Path | None,
    size: int | None,
    limit: int | None,
    perturbation: Perturbation,
    json_file: Path | None,
    overrides: tuple[str, ...],
) -> None:
    """Measure the decoder without a network, on exact target maps or on saved maps.

    Exact target maps are rendered from the annotations; an ablation then starts with the ground truth and adds one
    limitation of the decoder in each row. With --maps, the images are those whose maps are in the folder, in files
    such as 000000000790.npz for image 790. evaluation.evaluate --save-maps writes them. A file of another program has
    `maps` (h, w, 57): 19 heatmaps, then 38 fields, in CMU's channel order, at 8 px a cell; `picture_hw`, the size of
    the image; and `input_hw`, the size to which the image was resized.

    A table shows AP and the duration of decoding an image for the default settings and, if given, for those of --set.
    """
    settings = decoder_settings(overrides)
    dataset = open_dataset(shards, coco, split)
    if folder is None:
        numbers = _measure_exact_maps(dataset, limit, size or DEFAULT_SIZE, perturbation, settings)
    elif size is None:
        numbers = _measure_saved_maps(dataset, folder, limit, perturbation, settings)
    else:
        raise InputError(f"--size {size}: is for exact maps; those in {folder} have their size already")
    if json_file:
        _write_json(json_file, {**asdict(perturbation), **numbers})


def decoder_settings(overrides: tuple[str, ...]) -> dict[str, DecodeConfig]:
    """Return the default settings of the decoder and, if there are overrides, those with overrides."""
    from evaluation.decoder.decode import DecodeConfig
    from training.config import Config
    from training.recipes import override_evaluation

    changed = DecodeConfig(**override_evaluation(Config(), overrides).decoder.model_dump())
    return {"defaults": DecodeConfig()} | ({"--set": changed} if overrides else {})


def _measure_exact_maps(
    dataset: EvaluationDataset,
    limit: int | None,
    size: int,
    perturbation: Perturbation,
    settings: Mapping[str, DecodeConfig],
) -> dict[str, Any]:
    """Print the tables for exact target maps; return their numbers."""
    from evaluation.saved_maps.folder import SavedMaps
    from evaluation.scoring.oracle_ablation import load_oracle_images

    ground_truth = dict(list(dataset.ground_truth().items())[:limit])
    number = len(ground_truth)
    images = load_oracle_images(dataset, number, size, perturbation)
    numbers = run_ablation(_with_progress(images, number, "ablation"), ground_truth, list(settings.values())[-1])
    click.echo(format_groups(numbers["groups"]))
    click.echo()
    click.echo(format_steps({**numbers["causes"], **numbers["besides"]}))
    click.echo()
    images = load_oracle_images(dataset, number, size, perturbation)
    maps = (SavedMaps(image.image_id, image.maps, image.letterbox) for image in images)
    return {"size": size, **numbers, **_compare(maps, ground_truth, perturbation, settings).to_json()}


def _measure_saved_maps(
    dataset: EvaluationDataset,
    folder: Path,
    limit: int | None,
    perturbation: Perturbation,
    settings: Mapping[str, DecodeConfig],
) -> dict[str, Any]:
    """Print the tables for saved maps; return their numbers."""
    from evaluation.decoder_bench.saved_images import open_saved_images

    images = open_saved_images(folder, dataset, limit)
    click.echo(images.describe())
    comparison = _compare(images, images.ground_truth, perturbation, settings)
    groups = _score_groups(images.ground_truth, comparison.results)
    click.echo()
    click.echo(format_groups(groups))
    return {"maps": str(folder), "groups": groups, **comparison.to_json()}


def _compare(
    maps: Iterable[SavedMaps],
    ground_truth: GroundTruth,
    perturbation: Perturbation,
    settings: Mapping[str, DecodeConfig],
) -> Comparison:
    """Decode the maps with all settings and print the scores."""
    from evaluation.decoder_bench.compare import compare_settings, format_comparison

    progress = _with_progress(maps, len(ground_truth), "decode")
    comparison = compare_settings(progress, ground_truth, settings, perturbation)
    click.echo(format_comparison(comparison))
    return comparison


def _with_progress(items: Iterable[Item], total: int, name: str) -> Iterable[Item]:
    from tqdm import tqdm

    return tqdm(items, total=total, unit="image", desc=name, disable=None)


def _write_json(path: Path, numbers: dict[str, Any]) -> None:
    from pipeline.system.files import write_atomically

    try:
        write_atomically(path, json.dumps(numbers, indent=1) + "\n")
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error
    click.echo(f"{path}: the numbers of all tables")


if __name__ == "__main__":
    main()
