"""Convert published weights to a checkpoint: python -m training.convert vgg19.pth --out vgg19.ckpt."""

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
"""Keys of `training.weights.published_names.PUBLISHED_NETWORKS`, repeated here so that --help imports little.

A test compares the two."""


@functools.cache
def network_shapes(model: ModelConfig) -> Mapping[str, tuple[int, ...]]:
    """Return the shape of every tensor of a configuration's network, by name."""
    from training.network.openpose import OpenPose

    return {parameter.name: tuple(parameter.shape) for parameter in OpenPose(model).get_parameters()}


def convert_file(source: Path, kind: str | None) -> ConvertedWeights:
    """Read the weights of a published network and convert them for this project.

    Args:
        source: a PyTorch file, a .safetensors or a MindSpore checkpoint.
        kind: one of NETWORK_NAMES; None to recognise the network by its tensor names.

    Raises:
        InputError: the file does not exist, is damaged, contains anything but tensors, or is of an unknown network.
    """
    from training.weights.conversion import convert_weights
    from training.weights.reader import open_weights

    try:
        return convert_weights(open_weights(source), network_shapes, kind)
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{source}: {error}") from error


def summarise_conversion(converted: ConvertedWeights) -> list[str]:
    """Return the lines that the command prints about converted weights."""
    from training.weights.report import count_by_part, layer_ranges

    model = converted.config.model
    mean, std = (" ".join(f"{value:g}" for value in values) for values in (model.mean, model.std))
    return [
        f"{converted.network.name}, {count_by_part(network_shapes(model), converted.tensors)}",
        *converted.changes,
        f"normalisation of BGR values from 0 to 255: mean {mean}, std {std}",
        *([f"not used: {layer_ranges(converted.unused)}"] if converted.unused else []),
    ]


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Checkpoint to write, .ckpt.")
@click.option(
    "--kind",
    type=click.Choice(["auto", *NETWORK_NAMES]),
    default="auto",
    show_default=True,
    help="Published network in SOURCE; auto recognises it by its tensor names.",
)
@reports_input_errors
def main(source: Path, out: Path, kind: str) -> None:
    """Convert published weights to a checkpoint for evaluation, export, or as initial weights of a training (--init).

    \b
    torchvision-vgg19  VGG19 of torchvision, with or without batch normalisation
    modelzoo-vgg19     VGG19 of MindSpore ModelZoo
    modelzoo-openpose  OpenPose of MindSpore ModelZoo, the reference
    cmu                CMU's COCO body model as distributed for PyTorch (body_pose_model.pth)

    SOURCE is a PyTorch file in the old or new format, a .safetensors or a MindSpore checkpoint. It is read as data: no
    code in it is executed, and PyTorch is not needed. The checkpoint contains the normalisation that the weights were
    trained with.
    """  # noqa: D301 - click keeps the lines after \b as they are
    from pipeline.system.log_filters import silence_mindspore

    silence_mindspore()
    if out.suffix != ".ckpt" or out.is_dir():
        raise InputError(f"--out {out}: expected a file name that ends in .ckpt")
    converted = convert_file(source, None if kind == "auto" else kind)
    import mindspore as ms

    from training.checkpoint.checkpoint import TrainingPosition, write_checkpoint

    parameters = [ms.Parameter(ms.Tensor(value), name=name) for name, value in converted.tensors.items()]
    write_checkpoint(out, parameters, converted.config, TrainingPosition(step=0, records=0, shards="", processes=1))
    for line in summarise_conversion(converted):
        click.echo(line)
    click.echo(out)


if __name__ == "__main__":
    main()
