"""The shipped networks: one by its recipe's name, and a table of what each costs: python -m training.models.

In a `mindspore_hub_conf.py`: `from training.models import create_network`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.errors import InputError, reports_input_errors
from training.options import device_option
from training.recipes import recipe_names, recipe_path

if TYPE_CHECKING:
    from training.config import ModelConfig
    from training.network.openpose import OpenPose

IMAGE_SIZE = 368
"""px; side of the picture that the table's numbers are for, as papers state them."""


@dataclass(frozen=True)
class ModelSummary:
    """One line of the table.

    Attributes:
        recipes: those with this network.
        parameters: trainable numbers, in millions.
        gflop: operations of the convolutions for one image of IMAGE_SIZE × IMAGE_SIZE px, in 10^9; a multiplication
            and an addition count as two. Biases, normalisation and activations are not counted.
        images_per_s: forward, one picture of IMAGE_SIZE × IMAGE_SIZE px at a time; None if it was not measured.
    """

    recipes: tuple[str, ...]
    parameters: float
    gflop: float
    images_per_s: float | None = None


def create_network(name: str, *, checkpoint: Path | str | None = None) -> OpenPose:
    """The network of a shipped recipe, (B, H, W, 3) uint8 BGR to the maps of every stage.

    Args:
        name: of a file in `configs/`, such as openpose, openpose_paf_first, openpose_light or demo.
        checkpoint: weights of a network of this recipe, a file or a run folder, of which the newest is taken; its
            recipe's normalisation comes with them. Without it the weights are random, by MindSpore's seed.

    Returns:
        A cell that answers as in evaluation; `set_train()` lets it learn.

    Raises:
        InputError: no such recipe, no such checkpoint, or one of another network.
    """
    from training.network.openpose import OpenPose
    from training.recipes import load_config

    model = load_config(recipe_path(name)).model
    if checkpoint is None:
        return OpenPose(model).set_train(False)
    return _load_network(name, model, Path(checkpoint))


def _load_network(name: str, model: ModelConfig, path: Path) -> OpenPose:
    from training.checkpoint.checkpoint import load_checkpoint, restore_for_inference
    from training.checkpoint.run_folder import find_checkpoint
    from training.network.openpose import OpenPose

    found = load_checkpoint(find_checkpoint(path))
    there = found.config.model
    for field, value in model:
        if field not in ("mean", "std") and getattr(there, field) != value:
            raise InputError(
                f"{found.path}: its network has model.{field} {getattr(there, field)}, that of {name} has {value}"
            )
    network = OpenPose(there)
    restore_for_inference(network, found)
    return network.set_train(False)


def shipped_models() -> dict[ModelConfig, tuple[str, ...]]:
    """The networks of the shipped recipes, each with the names of the recipes that share it."""
    from training.recipes import load_config

    found: dict[ModelConfig, tuple[str, ...]] = {}
    for name in recipe_names():
        model = load_config(recipe_path(name)).model
        found[model] = (*found.get(model, ()), name)
    return found


def summarize_models(rounds: int) -> list[ModelSummary]:
    """What each shipped network costs, the dearest first.

    Args:
        rounds: how often each is timed, in turn with the others; the quickest counts. 0: not at all.
    """
    from training.network.openpose import OpenPose, count_parameters, multiply_adds

    shipped = shipped_models()
    networks = [OpenPose(model) for model in shipped]
    speeds = measure_images_per_s(networks, rounds) if rounds else [None] * len(networks)
    models = [
        ModelSummary(
            recipes, count_parameters(network) / 1e6, 2 * multiply_adds(network, IMAGE_SIZE, IMAGE_SIZE) / 1e9, speed
        )
        for recipes, network, speed in zip(shipped.values(), networks, speeds, strict=True)
    ]
    return sorted(models, key=lambda model: -model.gflop)


def measure_images_per_s(networks: Sequence[OpenPose], rounds: int) -> list[float]:
    """Pictures of IMAGE_SIZE × IMAGE_SIZE px that each network answers in a second, one at a time."""
    import mindspore as ms
    import numpy as np
    from tqdm import tqdm

    from training.network.inference import FinalStage

    image = ms.Tensor(np.random.default_rng(0).integers(0, 256, (1, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8))
    answers = [FinalStage(network).set_train(False) for network in networks]
    seconds: list[list[float]] = [[] for _ in answers]
    # the first round compiles the graphs
    for number in tqdm(range(rounds + 1), desc="Measuring", unit="round", leave=False):
        for answer, times in zip(answers, seconds, strict=True):
            began = time.perf_counter()
            for maps in answer(image):
                maps.asnumpy()
            if number > 0:
                times.append(time.perf_counter() - began)
    return [1 / min(times) for times in seconds]


def format_table(models: Sequence[ModelSummary]) -> str:
    """The table in Markdown."""
    measured = any(model.images_per_s for model in models)
    header = ["recipe", "parameters", f"GFLOP at {IMAGE_SIZE} px", *(["images/s"] if measured else [])]
    lines = [header, ["---"] * len(header)]
    for model in models:
        speed = [f"{model.images_per_s:.2g}"] if model.images_per_s else []
        names = ", ".join(f"`{name}`" for name in model.recipes)
        lines.append([names, f"{model.parameters:.1f} M", f"{model.gflop:.1f}", *speed])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


@click.command()
@click.option(
    "--measure", is_flag=True, help=f"Time each network too, on single pictures of {IMAGE_SIZE}x{IMAGE_SIZE} px."
)
@click.option(
    "--rounds",
    type=click.IntRange(1, 1000),
    default=5,
    show_default=True,
    help="How often each is timed, in turn; the quickest counts.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@device_option
@reports_input_errors
def main(measure: bool, rounds: int, as_json: bool, device: str) -> None:
    """List the networks of the shipped recipes: parameters, operations, speed.

    GFLOP counts a multiplication and an addition as two operations, of convolutions alone.
    """
    from pipeline.system.log_filters import silence_mindspore

    silence_mindspore()
    from training.distributed.world import init_world, make_debug_folder

    init_world(device, debug_folder=make_debug_folder())
    models = summarize_models(rounds if measure else 0)
    click.echo(json.dumps([asdict(model) for model in models], indent=1) if as_json else format_table(models))


if __name__ == "__main__":
    main()
