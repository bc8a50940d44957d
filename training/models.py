"""The shipped networks: create one by the name of its recipe, or list their size and speed.

Command: python -m training.models. In a `mindspore_hub_conf.py`: `from training.models import create_network`.
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

if TYPE_CHECKING:
    from training.config import ModelConfig
    from training.network.openpose import OpenPose

IMAGE_SIZE = 368
"""px; side of the square image that the table refers to, as in the papers."""


@dataclass(frozen=True)
class ModelSummary:
    """One line of the table.

    Attributes:
        recipes: names of the recipes with this network.
        parameters: number of trainable parameters, in millions.
        gflop: operations of the convolutions for one image of IMAGE_SIZE × IMAGE_SIZE px, in 10^9; a multiplication
            and an addition count as two. Biases, normalisation and activations are not counted.
        images_per_s: forward passes per second on single images of IMAGE_SIZE × IMAGE_SIZE px; None if not measured.
    """

    recipes: tuple[str, ...]
    parameters: float
    gflop: float
    images_per_s: float | None = None


def create_network(name: str, *, checkpoint: Path | str | None = None) -> OpenPose:
    """Create the network of a shipped recipe.

    Args:
        name: name of a file in `configs/`, such as openpose, openpose_paf_first, openpose_light or demo.
        checkpoint: checkpoint of a network of this recipe, or a run folder, whose latest checkpoint is used. Its mean
            and standard deviation replace those of the recipe. None: random weights, from MindSpore's random seed.

    Returns:
        The network in inference mode, (B, H, W, 3) uint8 BGR to the maps of every stage; call `set_train()` to train.

    Raises:
        InputError: no such recipe or checkpoint, or the checkpoint is of another network.
    """
    from training.network.openpose import OpenPose
    from training.recipes import load_config, recipe_path

    model = load_config(recipe_path(name)).model
    if checkpoint is None:
        return OpenPose(model).set_train(False)
    return _load_network(name, model, Path(checkpoint))


def _load_network(name: str, model: ModelConfig, path: Path) -> OpenPose:
    from training.checkpoint.checkpoint import load_checkpoint, restore_for_inference
    from training.checkpoint.run_folder import find_checkpoint
    from training.network.openpose import OpenPose

    checkpoint = load_checkpoint(find_checkpoint(path))
    stored_model = checkpoint.config.model
    for field, value in model:
        stored_value = getattr(stored_model, field)
        if field not in ("mean", "std") and stored_value != value:
            raise InputError(f"{checkpoint.path}: model.{field} is {stored_value}, but recipe {name} has {value}")
    network = OpenPose(stored_model)
    restore_for_inference(network, checkpoint)
    return network.set_train(False)


def shipped_models() -> dict[ModelConfig, tuple[str, ...]]:
    """Return the different networks of the shipped recipes, each with the names of its recipes."""
    from training.recipes import load_config, recipe_names, recipe_path

    names_by_model: dict[ModelConfig, tuple[str, ...]] = {}
    for name in recipe_names():
        model = load_config(recipe_path(name)).model
        names_by_model[model] = (*names_by_model.get(model, ()), name)
    return names_by_model


def summarize_models(rounds: int) -> list[ModelSummary]:
    """Return size and speed of each shipped network, from the most to the fewest operations.

    Args:
        rounds: number of timed forward passes of each network; 0: do not measure the speed.
    """
    from training.network.openpose import OpenPose, count_parameters, multiply_adds

    names_by_model = shipped_models()
    networks = [OpenPose(model) for model in names_by_model]
    speeds = measure_images_per_s(networks, rounds) if rounds else [None] * len(networks)
    summaries = []
    for names, network, speed in zip(names_by_model.values(), networks, speeds, strict=True):
        gflop = 2 * multiply_adds(network, IMAGE_SIZE, IMAGE_SIZE) / 1e9
        summaries.append(ModelSummary(names, count_parameters(network) / 1e6, gflop, speed))
    return sorted(summaries, key=lambda summary: -summary.gflop)


def measure_images_per_s(networks: Sequence[OpenPose], rounds: int) -> list[float]:
    """Return the forward passes per second of each network on single images of IMAGE_SIZE × IMAGE_SIZE px.

    The networks are timed in turn, so that a change of the machine's speed affects all of them. The fastest of
    `rounds` forward passes counts.
    """
    import mindspore as ms
    import numpy as np
    from tqdm import tqdm

    from training.network.inference import FinalStage

    image = ms.Tensor(np.random.default_rng(0).integers(0, 256, (1, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8))
    cells = [FinalStage(network).set_train(False) for network in networks]
    seconds: list[list[float]] = [[] for _ in cells]
    # round 0 compiles the graphs and is not timed
    for number in tqdm(range(rounds + 1), desc="Measuring", unit="round", leave=False):
        for cell, times in zip(cells, seconds, strict=True):
            started = time.perf_counter()
            for maps in cell(image):
                maps.asnumpy()
            if number > 0:
                times.append(time.perf_counter() - started)
    return [1 / min(times) for times in seconds]


def format_table(models: Sequence[ModelSummary]) -> str:
    """Return the table in Markdown."""
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
    help="Timed forward passes of each network; the fastest counts.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@device_option
@reports_input_errors
def main(measure: bool, rounds: int, as_json: bool, device: str) -> None:
    """List the networks of the shipped recipes with parameters, operations and speed.

    GFLOP counts the operations of the convolutions only; a multiplication and an addition are two operations.
    """
    from pipeline.system.log_filters import silence_mindspore

    silence_mindspore()
    from training.distributed.world import init_world

    init_world(device)
    models = summarize_models(rounds if measure else 0)
    click.echo(json.dumps([asdict(model) for model in models], indent=1) if as_json else format_table(models))


if __name__ == "__main__":
    main()
