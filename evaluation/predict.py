"""Find people in pictures, videos and camera frames: python -m evaluation.predict SOURCES --ckpt F --out DIR."""

from __future__ import annotations

import contextlib
from pathlib import Path

import click

from evaluation.options import flip_option, recipe_overrides, scales_option
from pipeline.errors import InputError, reports_input_errors
from pipeline.skeleton import NUM_KEYPOINTS
from pipeline.system.log_filters import silence_opencv
from training.options import device_option

OUTPUTS = ("overlay", "openpose", "coco")


def _parse_outputs(_context: click.Context, _option: click.Parameter, value: str) -> frozenset[str]:
    outputs = frozenset(part.strip() for part in value.split(","))
    if not outputs <= frozenset(OUTPUTS):
        raise click.BadParameter(f"{value!r}: expected some of {','.join(OUTPUTS)}")
    return outputs


@click.command()
@click.argument("sources", nargs=-1, required=True)
@click.option(
    "--ckpt",
    type=click.Path(path_type=Path),
    required=True,
    help="Checkpoint, run folder (its newest is taken), or graph of training.export.",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for what is found.")
@click.option(
    "--write",
    "outputs",
    metavar="KIND,…",
    default=",".join(OUTPUTS),
    show_default=True,
    callback=_parse_outputs,
    help="Which of these to write.",
)
@click.option(
    "--min-keypoints",
    type=click.IntRange(1, NUM_KEYPOINTS),
    default=3,
    show_default=True,
    help="Leave out people with fewer keypoints; evaluation counts even lone ones.",
)
@scales_option
@flip_option
@device_option
@click.option("--set", "overrides", multiple=True, metavar="FIELD=VALUE", help="Override: evaluation.size=432.")
@reports_input_errors
def main(
    sources: tuple[str, ...],
    ckpt: Path,
    out: Path,
    outputs: frozenset[str],
    min_keypoints: int,
    scales: tuple[float, ...] | None,
    flip: bool | None,
    device: str,
    overrides: tuple[str, ...],
) -> None:
    """Find the people in SOURCES: pictures, videos, folders of them with all their folders, and numbers of cameras.

    \b
    OUT/overlays/   NAME.jpg, NAME.png or NAME.mp4: skeletons drawn on pictures and videos
    OUT/openpose/   NAME_keypoints.json, for a video's frames NAME_000000000012_keypoints.json:
                    the OpenPose authors' json, 18 keypoints x, y in px and score
    OUT/results.json, OUT/images.json
                    COCO keypoint results, and which picture each image id is

    NAME is a file's name below the folder that was given, numbered where two would be one. A picture whose name is a
    number, as in COCO, has it as its image id.

    Ctrl-C ends a video or a camera; what was read until then is finished. What cannot be read is skipped.

    Exit codes: 0 all done; 1 something was skipped; 2 something given is wrong; 130 stopped by Ctrl-C.
    """  # noqa: D301
    silence_opencv()
    from pipeline.system.signals import StopSignal

    signals = StopSignal()  # before NumPy and MindSpore start threads
    signals.start_watching("Stopping; what has been read is finished")
    from evaluation.inference.predictor import Predictor
    from evaluation.media.prediction import Prediction, predict
    from evaluation.media.sources import find_sources
    from evaluation.media.writers import CocoWriter

    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out}: is a file; expected a folder")
    found = find_sources(sources, out)
    fewest = f"evaluation.decoder.min_keypoints={min_keypoints}"
    predictor = Predictor.load(ckpt, device, recipe_overrides((fewest, *overrides), scales, flip))
    with contextlib.ExitStack() as stack:
        coco = stack.enter_context(CocoWriter(out)) if "coco" in outputs else None
        prediction = Prediction(predictor, out, outputs, coco, stopped=lambda: signals.number != 0)
        predict(prediction, found)
    for line in prediction.summary():
        click.echo(line)
    if signals.number:
        raise SystemExit(128 + signals.number)
    if prediction.problems.lines:
        click.echo(f"{len(prediction.problems.lines)} skipped", err=True)
        raise SystemExit(1)


if __name__ == "__main__":
    main()
