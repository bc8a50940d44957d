"""The folder of a run: its files, and preparing it without overwriting another run.

config.yaml
    The resolved recipe.
run.json
    Versions, command and machines of every session, see `training.loop.run_info`.
checkpoints/
    The newest checkpoints, and best.ckpt; in onnx/ the graphs that evaluations on a CPU made of them.
preview.jpg
    Images with the people and maps found by the latest evaluation.
tensorboard/
    Event files.
logs/
    Output of the processes of a distributed run.
debug/
    Graphs that MindSpore could not compile.
metrics.jsonl
    One JSON object a line, in the order of the run, each with its `step`. A logged step has
    `step epoch loss lr images_per_s data_wait terms rates`: `terms` are the terms of the loss by branch and stage
    (pafs_1 …), `rates` the learning rates of backbone, features and stages; `loss` and `terms` are means over the steps
    since the previous line. With loss scaling there are also `loss_scale`, that of the last step, and `overflows`,
    their number since the previous line. An evaluation has `step`, COCO's ten metrics (AP AP50 AP75 APM APL AR AR50
    AR75 ARM ARL), `pictures` (number of images) and `seconds`.

This module does not import MindSpore.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import yaml

from pipeline.errors import InputError
from training.config import Config

_CHECKPOINT_NAME = re.compile(r"step-(\d{7,})\.ckpt")


def checkpoint_path(run: Path, step: int) -> Path:
    """Return the path of the checkpoint after `step` updates."""
    return run / "checkpoints" / f"step-{step:07d}.ckpt"


def best_checkpoint_path(run: Path) -> Path:
    """Return the path of the checkpoint with the best validation score."""
    return run / "checkpoints" / "best.ckpt"


def list_checkpoints(run: Path) -> list[Path]:
    """Return the checkpoints of a run by step, oldest first, without best.ckpt."""
    found = [(path, _CHECKPOINT_NAME.fullmatch(path.name)) for path in (run / "checkpoints").glob("step-*.ckpt")]
    return [path for _, path in sorted((int(match[1]), path) for path, match in found if match)]


def find_checkpoint(path: Path) -> Path:
    """Return `path` if it is a file, or the newest checkpoint of a run folder; InputError if there is none."""
    if path.is_file():
        return path
    found = list_checkpoints(path)
    if not found and path.suffix == ".ckpt":
        raise InputError(
            f"{path}: no such file; expected a checkpoint, or a run folder, whose newest checkpoint is used"
        )
    if not found:
        raise InputError(f"{path}: no checkpoint in this folder; train one with: make train RUN={path}")
    return found[-1]


def check_init_options(init: Path | None, allow_missing: Sequence[str], *, resuming: bool) -> None:
    """Raise InputError if the initial weights do not exist, or if `allow_missing` is given without `init`."""
    if init is None and allow_missing:
        raise InputError(f"--allow-missing {allow_missing[0]}: requires --init; add --init, or remove --allow-missing")
    if init and not resuming:
        find_checkpoint(init)


def check_run_folder(run: Path, resume: bool) -> None:
    """Raise InputError if `run` is a file, or if a new run would overwrite the run in it."""
    if run.exists() and not run.is_dir():
        raise InputError(f"{run}: is a file; expected a folder for the run")
    if not resume and (list_checkpoints(run) or best_checkpoint_path(run).exists()):
        raise InputError(f"{run}: already contains a run; resume it with RESUME=1, choose another folder, or remove it")


def prepare_run_folder(run: Path, config: Config, done: int) -> None:
    """Create the folder of a run that starts after step `done`, and remove everything that belongs to later steps."""
    run.mkdir(parents=True, exist_ok=True)
    for temporary in (run / "checkpoints").glob(".*"):
        if temporary.is_dir():  # of an export that was killed
            shutil.rmtree(temporary)
        else:
            temporary.unlink()
    for path in list_checkpoints(run):
        if path > checkpoint_path(run, done):
            path.replace(path.with_name(f"{path.name}.damaged"))
    _trim_metrics(run / "metrics.jsonl", done)
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    (run / "config.yaml").write_text(text, encoding="utf-8")


def evaluated_steps(run: Path) -> set[int]:
    """Return the steps for which metrics.jsonl holds an evaluation."""
    return {line["step"] for line in map(json.loads, _complete_lines(run / "metrics.jsonl")) if "AP" in line}


def _trim_metrics(path: Path, step: int) -> None:
    """Remove the lines after `step`, which a resumed run writes again."""
    if path.is_file():
        kept = [line for line in _complete_lines(path) if json.loads(line)["step"] <= step]
        path.write_text("".join(kept), encoding="utf-8")


def _complete_lines(path: Path) -> list[str]:
    """Return the lines of a file, without an incomplete last line; an empty list if there is no file."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
    return [line for line in lines if line.endswith("\n")]
