"""Export a trained network as a graph: python -m training.export --ckpt FILE_OR_RUN --format onnx."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.errors import InputError, reports_input_errors
from training.graphs.export_graph import choose_input_shape, export_checkpoint
from training.options import device_option


@click.command()
@click.option(
    "--ckpt", type=click.Path(path_type=Path), required=True, help="Checkpoint, or run folder (its newest checkpoint)."
)
@click.option(
    "--format",
    "file_format",
    type=click.Choice(["mindir", "onnx", "air"]),
    required=True,
    help="Format of the graph; AIR requires Ascend.",
)
@click.option("--height", type=int, help="Input height in px, a multiple of 8.  [default: evaluation.size]")
@click.option("--width", type=int, help="Input width in px, a multiple of 8.  [default: 4/3 of evaluation.size]")
@click.option("--batch", type=click.IntRange(1, 256), help="Batch size.  [default: evaluation.batch_size]")
@click.option("--dynamic", is_flag=True, help="Accept any image size and batch size; MindIR and ONNX.")
@click.option("--all-stages", is_flag=True, help="Output the maps of every stage instead of the last one.")
@click.option("--out", type=click.Path(path_type=Path), help="File to write.  [default: beside the checkpoint]")
@device_option
@click.option("--set", "overrides", multiple=True, metavar="FIELD=VALUE", help="Override a field: evaluation.size=432.")
@reports_input_errors
def main(
    ckpt: Path,
    file_format: str,
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

    The input of the graph is a batch of uint8 BGR images, which it normalises itself; the outputs are pafs and
    heatmaps. The json contains input size, stride, channel names and evaluation settings. evaluation.evaluate and
    evaluation.predict accept a MindIR or ONNX graph in place of a checkpoint; predict runs ONNX without MindSpore.
    """
    from pipeline.system.log_filters import silence_mindspore

    silence_mindspore()
    from training.checkpoint.checkpoint import load_checkpoint
    from training.checkpoint.run_folder import find_checkpoint
    from training.distributed.world import init_world
    from training.graphs.metadata import SUFFIXES
    from training.recipes import override_evaluation

    if dynamic and file_format == "air":
        raise InputError(
            "--dynamic: MindSpore exports AIR with a fixed input size only; use --format mindir or --format onnx"
        )
    if out and (out.suffix != SUFFIXES[file_format] or out.is_dir()):
        raise InputError(f"--out {out}: expected a file name that ends in {SUFFIXES[file_format]}")
    world = init_world(device)
    if file_format == "air" and world.device != "Ascend":
        raise InputError(
            "--format air: MindSpore exports AIR on Ascend only, this device is CPU; use --format onnx or mindir"
        )
    checkpoint = load_checkpoint(find_checkpoint(ckpt))
    evaluation = override_evaluation(checkpoint.config, overrides)
    shape = choose_input_shape(batch, height, width, evaluation, dynamic=dynamic)
    out = out or checkpoint.path.with_suffix(SUFFIXES[file_format])
    difference = export_checkpoint(checkpoint, out, file_format, shape, evaluation, all_stages=all_stages)
    comparison = (
        "not compared with the checkpoint"
        if difference is None
        else f"maps within {difference:.1g} of the checkpoint's"
    )
    weights = "averaged weights; " if checkpoint.has_weight_average else ""
    click.echo(f"{out}: {shape}; {weights}{comparison}")


if __name__ == "__main__":
    main()
