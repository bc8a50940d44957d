"""Detect people in images, videos and camera streams: python -m evaluation.predict SOURCES --ckpt F --out DIR."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

import click

from evaluation.options import backend_option, flip_option, recipe_overrides, scales_option, settings_options
from pipeline.errors import InputError, reports_input_errors
from pipeline.skeleton import NUM_KEYPOINTS
from pipeline.system.log_filters import silence_opencv
from training.options import device_option

if TYPE_CHECKING:
    from collections.abc import Callable

    from evaluation.inference.backends import BackendName
    from evaluation.inference.predictor import Predictor
    from evaluation.media.prediction import PredictionRun
    from evaluation.media.sources import Sources

OUTPUTS = ("overlay", "openpose", "coco")

DEMO_SHARDS = ("shards", "demo", "train")
"""Folder of the shards that `make demo` trains on."""


def _parse_outputs(_context: click.Context, _option: click.Parameter, value: str) -> frozenset[str]:
    outputs = frozenset(part.strip() for part in value.split(","))
    if not outputs <= frozenset(OUTPUTS):
        raise click.BadParameter(f"{value!r}: expected one or more of {','.join(OUTPUTS)}")
    return outputs


def describe_training(source: Path | None) -> str | None:
    """Return a note if a network was trained on the embedded dataset of drawn people; None if not, or if unknown.

    Args:
        source: checkpoint or graph in a run folder, whose `run.json` names the shards.
    """
    for folder in list(source.absolute().parents)[:2] if source else []:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            shards = json.loads((folder / "run.json").read_text(encoding="utf-8"))["shards"]["folder"]
            if PurePath(shards).parts[-3:] == DEMO_SHARDS:
                return (
                    f"{source}: trained on the drawn people of make demo only, not on photographs; for photographs, "
                    "use published weights or train on COCO: README.md, Training"
                )
    return None


@click.command()
@click.argument("sources", nargs=-1, required=True)
@click.option(
    "--ckpt",
    type=click.Path(path_type=Path),
    required=True,
    help="Checkpoint, run folder (its newest checkpoint is used) or graph exported by training.export.",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Output folder.")
@click.option(
    "--write",
    "outputs",
    metavar="KIND,…",
    default=",".join(OUTPUTS),
    show_default=True,
    callback=_parse_outputs,
    help="Outputs to write, separated by commas.",
)
@click.option(
    "--min-keypoints",
    type=click.IntRange(1, NUM_KEYPOINTS),
    default=3,
    show_default=True,
    help="Leave out people with fewer keypoints than this; evaluation.evaluate keeps all by default.",
)
@scales_option
@flip_option
@device_option
@backend_option
@reports_input_errors
@settings_options
def main(
    sources: tuple[str, ...],
    ckpt: Path,
    out: Path,
    outputs: frozenset[str],
    min_keypoints: int,
    scales: tuple[float, ...] | None,
    flip: bool | None,
    device: str,
    backend: BackendName,
    overrides: tuple[str, ...],
) -> None:
    """Detect people in SOURCES: image files, video files, folders (searched recursively) and camera numbers.

    \b
    OUT/overlays/   NAME.jpg, NAME.png or NAME.mp4: images and videos with skeletons
    OUT/openpose/   NAME_keypoints.json, for frames of a video NAME_000000000012_keypoints.json:
                    OpenPose's JSON format, 18 keypoints with x, y in px and score
    OUT/results.json, OUT/images.json
                    COCO keypoint results, and the image that belongs to each image id, in the order of the sources
    OUT/outputs.json
                    list of these files: the next run with the same OUT replaces them and keeps all other files

    NAME is the path of the source file relative to the given folder; a number is appended if two files would get the
    same name. If the file name of an image is a number, as in COCO (000000000139.jpg, COCO_val2014_000000000042.jpg),
    this number is its image id.

    Warm colours are the person's left side, cold colours the right side; green is the middle.

    Images are turned as their EXIF orientation says, videos as players turn them. Videos with skeletons keep the time
    stamps of their source, and its sound if the program ffmpeg is installed. Images that are more than
    evaluation.max_aspect times as long as wide are scaled down to that ratio; raise it for panoramas.

    Ctrl-C stops reading a video or a camera; images and frames that were already read are still processed. Files that
    cannot be read are skipped.

    Exit codes: 0 success; 1 some sources were skipped; 2 invalid arguments; 130 stopped by Ctrl-C.
    """  # noqa: D301
    silence_opencv()
    from pipeline.system.signals import StopSignal

    signals = StopSignal()  # created before NumPy and MindSpore start threads, which inherit the blocked signals
    signals.start_watching("Stopping; images and frames already read are still processed")
    from evaluation.inference.predictor import Predictor
    from evaluation.media.sources import find_sources

    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out}: is a file; expected a folder")
    media = find_sources(sources, out)
    default_overrides = (f"evaluation.decoder.min_keypoints={min_keypoints}",)
    predictor = Predictor.load(ckpt, device, recipe_overrides((*default_overrides, *overrides), scales, flip), backend)
    note = describe_training(predictor.source)
    if note:
        click.echo(note, err=True)
    run = _predict(predictor, media, out, outputs, should_stop=lambda: signals.number != 0)
    if signals.number:
        raise SystemExit(128 + signals.number)
    if run.skipped.messages:
        click.echo(f"{len(run.skipped.messages)} skipped", err=True)
        raise SystemExit(1)


def _predict(
    predictor: Predictor, media: Sources, out: Path, outputs: frozenset[str], should_stop: Callable[[], bool]
) -> PredictionRun:
    """Write the outputs of all sources and print what was written."""
    from evaluation.media.output_folder import OutputFolder
    from evaluation.media.prediction import PredictionRun, predict_sources
    from evaluation.media.writers import CocoWriter

    if OutputFolder(out, outputs).start(media):
        click.echo(f"{out}: outputs of an earlier run are replaced", err=True)
    with contextlib.ExitStack() as stack:
        coco = stack.enter_context(CocoWriter(out)) if "coco" in outputs else None
        run = PredictionRun(predictor, out, outputs, coco, should_stop)
        predict_sources(run, media)
    for line in run.summary():
        click.echo(line)
    for line in run.advice():
        click.echo(line, err=True)
    return run


if __name__ == "__main__":
    main()
