"""Make a checkpoint of published weights: python -m training.convert vgg19.pth --out vgg19.ckpt."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.errors import InputError, reports_input_errors

if TYPE_CHECKING:
    from training.config import ModelConfig
    from training.weights.conversion import ConvertedWeights

NETWORK_NAMES = ("torchvision-vgg19", "modelzoo-vgg19", "modelzoo-openpose", "cmu")
"""Keys of `training.weights.published_names.PUBLISHED_NETWORKS`; a test compares both."""


@functools.cache
def network_shapes(model: ModelConfig) -> Mapping[str, tuple[int, ...]]:
    """Shape of every tensor of a recipe's network, by name."""
    from training.network.openpose import OpenPose

    return {parameter.name: tuple(parameter.shape) for parameter in OpenPose(model).get_parameters()}


def convert_file(source: Path, kind: str | None) -> ConvertedWeights:
    """Read a published network's weights as this program's.

    Args:
        source: a PyTorch file, a .safetensors or a MindSpore checkpoint.
        kind: one of NETWORK_NAMES; None to go by its names.

    Raises:
        InputError: no such file, one that is damaged, holds anything but tensors, or no network of a known kind.
    """
    from training.weights.conversion import convert_weights
    from training.weights.reader import open_weights

    try:
        return convert_weights(open_weights(source), network_shapes, kind)
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{source}: {error}") from error


def describe(converted: ConvertedWeights) -> list[str]:
    """What there is to say about converted weights, in lines."""
    from training.weights.report import matched, spans

    model = converted.config.model
    mean, std = (" ".join(f"{value:g}" for value in values) for values in (model.mean, model.std))
    return [
        f"{converted.kind.name}, {matched(network_shapes(model), converted.tensors)}",
        *converted.changes,
        f"normalisation of BGR pictures, 0..255: mean {mean}, std {std}",
        *([f"left out: {spans(converted.left_out)}"] if converted.left_out else []),
    ]


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Checkpoint to write, .ckpt.")
@click.option(
    "--kind",
    type=click.Choice(["auto", *NETWORK_NAMES]),
    default="auto",
    show_default=True,
    help="Which network it is; auto: by the names of its tensors.",
)
@reports_input_errors
def main(source: Path, out: Path, kind: str) -> None:
    """Turn published weights into a checkpoint to evaluate, to export, or to begin a training with (--init).

    \b
    torchvision-vgg19  VGG19 of torchvision, with or without batch normalisation
    modelzoo-vgg19     VGG19 of MindSpore ModelZoo
    modelzoo-openpose  OpenPose of MindSpore ModelZoo, the reference
    cmu                CMU's COCO body model as distributed for PyTorch (body_pose_model.pth)

    SOURCE is a PyTorch file, old or new, a .safetensors or a MindSpore checkpoint. It is read as data: nothing in it
    is run, and PyTorch need not be installed. The checkpoint carries the normalisation that the weights were trained
    with.
    """  # noqa: D301 - click's mark of lines to keep
    from pipeline.system.log_filters import silence_mindspore

    silence_mindspore()
    if out.suffix != ".ckpt" or out.is_dir():
        raise InputError(f"--out {out}: expected the name of a file that ends in .ckpt")
    converted = convert_file(source, None if kind == "auto" else kind)
    import mindspore as ms

    from training.checkpoint.checkpoint import TrainingPosition, write_checkpoint

    parameters = [ms.Parameter(ms.Tensor(value), name=name) for name, value in converted.tensors.items()]
    write_checkpoint(out, parameters, converted.config, TrainingPosition(step=0, records=0, shards="", processes=1))
    for line in describe(converted):
        click.echo(line)
    click.echo(out)


if __name__ == "__main__":
    main()
