"""Export a trained network for use elsewhere: python -m training.export --ckpt FILE_OR_RUN --format onnx."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.errors import InputError, reports_input_errors
from training.graphs.export_graph import choose_input_shape, export_checkpoint
from training.options import device_option

if TYPE_CHECKING:
    pass


@click.command()
@click.option(
    "--ckpt", type=click.Path(path_type=Path), required=True, help="Checkpoint, or run folder: its newest is taken."
)
@click.option(
    "--format", "kind", type=click.Choice(["mindir", "onnx", "air"]), required=True, help="AIR: on Ascend only."
)
@click.option("--height", type=int, help="px of the input, multiple of 8.  [default: the recipe's size]")
@click.option("--width", type=int, help="px of the input, multiple of 8.  [default: 4/3 of the recipe's size]")
@click.option("--batch", type=click.IntRange(1, 256), help="Pictures at a time.  [default: the recipe's]")
@click.option("--dynamic", is_flag=True, help="Any size and number of pictures; MindIR only.")
@click.option("--all-stages", is_flag=True, help="Give out the maps of every stage, not of the last one only.")
@click.option("--out", type=click.Path(path_type=Path), help="File to write.  [default: beside the checkpoint]")
@device_option
@click.option("--set", "overrides", multiple=True, metavar="FIELD=VALUE", help="Override: evaluation.size=432.")
@reports_input_errors
def main(
    ckpt: Path,
    kind: str,
    height: int | None,
    width: int | None,
    batch: int | None,
    dynamic: bool,
    all_stages: bool,
    out: Path | None,
    device: str,
    overrides: tuple[str, ...],
) -> None:
    """Export a trained network as a MindIR, ONNX or AIR graph, with a json of the same name beside it.

    The graph takes pictures as they are, uint8 BGR, normalises them itself, and gives pafs and heatmaps. The json says
    the rest: input size, stride, names of the channels, and the recipe by which people are found. evaluation.evaluate
    and evaluation.predict take the graph wherever they take a checkpoint; with ONNX, predict needs no MindSpore.
    """
    from pipeline.system.log_filters import silence_mindspore

    silence_mindspore()
    from training.checkpoint.checkpoint import load_checkpoint
    from training.checkpoint.run_folder import find_checkpoint
    from training.distributed.world import init_world, make_debug_folder
    from training.graphs.metadata import SUFFIXES
    from training.recipes import override_evaluation

    if dynamic and kind != "mindir":
        raise InputError(f"--dynamic: MindSpore writes {kind.upper()} for one size only; take --format mindir")
    if out and (out.suffix != SUFFIXES[kind] or out.is_dir()):
        raise InputError(f"--out {out}: expected the name of a file that ends in {SUFFIXES[kind]}")
    world = init_world(device, debug_folder=make_debug_folder())
    if kind == "air" and world.device != "Ascend":
        raise InputError("--format air: MindSpore writes AIR on Ascend only, and runs on CPU here; take onnx or mindir")
    checkpoint = load_checkpoint(find_checkpoint(ckpt))
    evaluation = override_evaluation(checkpoint.config, overrides)
    shape = choose_input_shape(batch, height, width, evaluation, dynamic=dynamic)
    out = out or checkpoint.path.with_suffix(SUFFIXES[kind])
    difference = export_checkpoint(checkpoint, out, kind, shape, evaluation, all_stages=all_stages)
    checked = "not compared" if difference is None else f"maps within {difference:.1g} of the checkpoint's"
    weights = "averaged weights; " if checkpoint.has_weight_average else ""
    click.echo(f"{out}: {shape}; {weights}{checked}")


if __name__ == "__main__":
    main()
