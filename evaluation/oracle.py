"""What the decoder loses of perfect maps, and to which cause: python -m evaluation.oracle --help."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from evaluation.evaluate import open_set
from pipeline.errors import reports_input_errors

if TYPE_CHECKING:
    from evaluation.decoder.decode import DecodeConfig
    from evaluation.scoring.oracle_ablation import Case, Step
    from evaluation.scoring.truth import Truth

_PATH = click.Path(path_type=Path)

GROUPS: dict[str, tuple[int, int]] = {"1": (1, 1), "2": (2, 2), "3": (3, 3), "4-6": (4, 6), "7+": (7, 10**9)}
"""Pictures by their number of people with keypoints, least and most."""

COLUMNS = ("AP", "AP50", "AP75", "APM", "APL", "AR")


def measure(cases: Iterable[Case], truth: Truth, config: DecodeConfig) -> dict[str, Any]:
    """Decode targets rendered from the annotations and score the result after each step of the ablation.

    Args:
        cases: pictures with their people.
        truth: COCO annotations of the same pictures.
        config: of the decoder.

    Returns:
        `groups`: COCO's ten numbers of all pictures and by number of people, with `images` and `people`;
        `causes`: for each step its `AP` and what it `lost` against the one before; `besides`: likewise, against the
        last step.
    """
    from evaluation.scoring.metrics import coco_ap
    from evaluation.scoring.oracle_ablation import BESIDES, STEPS

    steps = {**STEPS, **BESIDES}
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in steps}
    for case in cases:
        for name, step in steps.items():
            results[name] += _find(case, step, config)
    ap = {name: coco_ap(truth, found)["AP"] for name, found in results.items()}
    last = list(STEPS)[-1]
    before = [ap[next(iter(STEPS))], *(ap[name] for name in STEPS)]
    return {
        "groups": _score_groups(truth, results[last]),
        "causes": {name: {"AP": ap[name], "lost": old - ap[name]} for name, old in zip(STEPS, before, strict=False)},
        "besides": {name: {"AP": ap[name], "lost": ap[last] - ap[name]} for name in BESIDES},
    }


def _find(case: Case, step: Step, config: DecodeConfig) -> list[dict[str, Any]]:
    from evaluation.inference.letterbox import people_to_image
    from evaluation.scoring.results import to_coco_results

    return to_coco_results(case.image_id, people_to_image(step(case, config), case.letterbox))


def _score_groups(truth: Truth, results: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    from evaluation.scoring.metrics import coco_ap
    from evaluation.scoring.truth import count_people

    people = {image_id: count_people(annotations) for image_id, annotations in truth.items()}
    members = {name: [i for i in truth if low <= people[i] <= high] for name, (low, high) in GROUPS.items()}
    return {
        name: {"images": len(ids), "people": sum(people[i] for i in ids), **coco_ap(truth, results, ids)}
        for name, ids in {"all": list(truth), **members}.items()
    }


def format_groups(groups: Mapping[str, Mapping[str, float]]) -> str:
    """One line a group; `-` where nothing defines a number."""
    lines = [f"{'in one':6}  {'pictures':>8}  {'people':>6}" + "".join(f"  {name:>5}" for name in COLUMNS)]
    for name, group in groups.items():
        cells = [f"{group[key]:.3f}" if group[key] >= 0 else "-" for key in COLUMNS]
        counts = f"{name:6}  {group['images']:8}  {group['people']:6}"
        lines.append(counts + "".join(f"  {cell:>5}" for cell in cells))
    return "\n".join(lines)


def format_causes(causes: Mapping[str, Mapping[str, float]]) -> str:
    """One line a step: its AP and what it cost."""
    width = max(len(name) for name in causes)
    rows = [f"{name:{width}}  {row['AP']:.3f}  {0.0 - round(row['lost'], 3):+.3f}" for name, row in causes.items()]
    return "\n".join([f"{'':{width}}  {'AP':>5}  {'change':>6}", *rows])


@click.command()
@click.option("--shards", type=_PATH, help="Truth: a set by pipeline.shards.")
@click.option("--coco", type=_PATH, help="Truth: a COCO folder, instead of shards; its pictures need not be there.")
@click.option("--split", default="val2017", show_default=True, help="Split of the COCO folder.")
@click.option("--size", type=click.IntRange(64, 2048), default=368, show_default=True, help="Shorter side, px.")
@click.option("--limit", type=click.IntRange(1), help="Take only the first pictures of the set.")
@click.option("--noise", type=click.FloatRange(0, 10), default=0.0, help="Standard deviation added to the maps.")
@click.option("--blur", type=click.FloatRange(0, 10), default=0.0, help="Sigma, in cells, that blurs the maps.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the noise.")
@click.option("--json", "json_file", type=_PATH, help="File for the numbers.")
@click.option("--set", "overrides", multiple=True, metavar="FIELD=VALUE", help="As in evaluation.decoder.gap=0.")
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
    """Draw the maps that a perfect network would answer, decode them, and print COCO's AP and where it is lost.

    No network is needed. The first table counts pictures by the people in them; the second adds one hindrance at a
    time, from the truth to what the decoder finds.
    """
    from tqdm import tqdm

    from evaluation.decoder.decode import DecodeConfig
    from evaluation.scoring.oracle_ablation import Disturbance, open_cases
    from training.config import Config
    from training.recipes import override_config

    config = DecodeConfig(**override_config(Config(), overrides).evaluation.decoder.model_dump())
    pictures = open_set(shards, coco, split)
    number = min(limit or len(pictures), len(pictures))
    truth = dict(list(pictures.truth().items())[:number])
    cases = open_cases(pictures, number, size, Disturbance(noise, blur, seed))
    with tqdm(cases, total=number, unit="picture", desc="decode", disable=None) as progress:
        numbers = measure(progress, truth, config)
    click.echo(format_groups(numbers["groups"]))
    click.echo()
    click.echo(format_causes({**numbers["causes"], **numbers["besides"]}))
    if json_file:
        _write(json_file, {"size": size, "noise": noise, "blur": blur, "seed": seed, **numbers})


def _write(path: Path, numbers: dict[str, Any]) -> None:
    from pipeline.errors import InputError
    from pipeline.system.files import write_atomically

    try:
        write_atomically(path, json.dumps(numbers, indent=1) + "\n")
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error
    click.echo(f"{path}: the numbers")


if __name__ == "__main__":
    main()
