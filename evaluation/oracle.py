"""Measure how much AP the decoder loses on exact target maps, and why: python -m evaluation.oracle --help."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from evaluation.evaluate import open_dataset
from pipeline.errors import reports_input_errors

if TYPE_CHECKING:
    from evaluation.decoder.decode import DecodeConfig
    from evaluation.scoring.ground_truth import GroundTruth
    from evaluation.scoring.oracle_ablation import AblationStep, OracleImage

_PATH = click.Path(path_type=Path)

PEOPLE_PER_IMAGE: dict[str, tuple[int, int]] = {
    "1": (1, 1),
    "2": (2, 2),
    "3": (3, 3),
    "4-6": (4, 6),
    "7+": (7, 10**9),
}
"""Groups of images: minimum and maximum number of people with keypoints."""

COLUMNS = ("AP", "AP50", "AP75", "APM", "APL", "AR")


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
    header = f"{'people per image':16}  {'images':>6}  {'people':>6}"
    lines = [header + "".join(f"  {name:>5}" for name in COLUMNS)]
    for name, group in groups.items():
        cells = [f"{group[key]:.3f}" if group[key] >= 0 else "-" for key in COLUMNS]
        counts = f"{name:16}  {group['images']:6}  {group['people']:6}"
        lines.append(counts + "".join(f"  {cell:>5}" for cell in cells))
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
@click.option("--size", type=click.IntRange(64, 2048), default=368, show_default=True, help="Shorter side in px.")
@click.option("--limit", type=click.IntRange(1), help="Use only the first images of the dataset.")
@click.option("--noise", type=click.FloatRange(0, 10), default=0.0, help="Standard deviation of noise on the maps.")
@click.option("--blur", type=click.FloatRange(0, 10), default=0.0, help="Standard deviation of the blur, in cells.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Random seed of the noise.")
@click.option("--json", "json_file", type=_PATH, help="Write the numbers to this file.")
@click.option("--set", "overrides", multiple=True, metavar="FIELD=VALUE", help="Example: evaluation.decoder.gap=0.")
@reports_input_errors
def main(
    shards: Path | None,
    coco: Path | None,
    split: str,
    size: int,
    limit: int | None,
    noise: float,
    blur: float,
    seed: int,
    json_file: Path | None,
    overrides: tuple[str, ...],
) -> None:
    """Render exact target maps from annotations, decode them, and print COCO AP and where it is lost.

    No network is needed. The first table groups images by their number of people. The second table is an ablation: it
    starts with the ground truth and adds one limitation of the decoder in each row.
    """
    from tqdm import tqdm

    from evaluation.decoder.decode import DecodeConfig
    from evaluation.scoring.oracle_ablation import Perturbation, load_oracle_images
    from training.config import Config
    from training.recipes import override_config

    config = DecodeConfig(**override_config(Config(), overrides).evaluation.decoder.model_dump())
    dataset = open_dataset(shards, coco, split)
    number = min(limit or len(dataset), len(dataset))
    ground_truth = dict(list(dataset.ground_truth().items())[:number])
    images = load_oracle_images(dataset, number, size, Perturbation(noise, blur, seed))
    with tqdm(images, total=number, unit="image", desc="decode", disable=None) as progress:
        numbers = run_ablation(progress, ground_truth, config)
    click.echo(format_groups(numbers["groups"]))
    click.echo()
    click.echo(format_steps({**numbers["causes"], **numbers["besides"]}))
    if json_file:
        _write_json(json_file, {"size": size, "noise": noise, "blur": blur, "seed": seed, **numbers})


def _write_json(path: Path, numbers: dict[str, Any]) -> None:
    from pipeline.errors import InputError
    from pipeline.system.files import write_atomically

    try:
        write_atomically(path, json.dumps(numbers, indent=1) + "\n")
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error
    click.echo(f"{path}: the numbers of both tables")


if __name__ == "__main__":
    main()
