"""The folder of a run: what lies in it, and making it ready without losing a run that is in it already.

config.yaml is the resolved recipe, run.json tells with what it was made, checkpoints/ has the newest checkpoints and
best.ckpt, tensorboard/ event files, logs/ what the processes of a distributed run said, debug/ the graphs that
MindSpore could not compile. metrics.jsonl has one object a line, each with its step, in the order of the run: of a
logged step
`step epoch loss lr images_per_s data_wait terms rates`, where terms (of the loss, by stage and branch: pafs_1 …) and
rates (of backbone, features, stages) are objects, and loss and terms means since the line before; with `loss_scale
overflows`, of the last step and since the line before, where the loss is scaled; of an evaluation `step`, the ten
numbers by COCO's names (AP AP50 AP75 APM APL AR AR50 AR75 ARM ARL), `pictures` and `seconds`. Nothing here imports
MindSpore.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import yaml

from pipeline.errors import InputError
from training.config import Config

_CHECKPOINT = re.compile(r"step-(\d{7,})\.ckpt")


def checkpoint_path(run: Path, step: int) -> Path:
    """Name of the checkpoint after `step` updates."""
    return run / "checkpoints" / f"step-{step:07d}.ckpt"


def best_checkpoint_path(run: Path) -> Path:
    """Name of the checkpoint that evaluation during training found best."""
    return run / "checkpoints" / "best.ckpt"


def list_checkpoints(run: Path) -> list[Path]:
    """The checkpoints of a run's newest steps, oldest first."""
    found = [(path, _CHECKPOINT.fullmatch(path.name)) for path in (run / "checkpoints").glob("step-*.ckpt")]
    return [path for _, path in sorted((int(match[1]), path) for path, match in found if match)]


def find_checkpoint(path: Path) -> Path:
    """The file itself, or the newest checkpoint of a run folder; InputError if there is none."""
    if path.is_file():
        return path
    found = list_checkpoints(path)
    if not found and path.suffix == ".ckpt":
        raise InputError(f"{path}: no such file; expected a checkpoint, or a run folder: its newest is taken")
    if not found:
        raise InputError(f"{path}: no checkpoint here; make one with: make train RUN={path}")
    return found[-1]


def check_init_options(init: Path | None, allow_missing: Sequence[str], *, going_on: bool) -> None:
    """Raise InputError where a run is to begin with weights that are not there, or is allowed to miss some of none."""
    if init is None and allow_missing:
        raise InputError(f"--allow-missing {allow_missing[0]}: belongs to --init; add it, or leave both out")
    if init and not going_on:
        find_checkpoint(init)


def check_run_folder(run: Path, resume: bool) -> None:
    """Raise InputError where `run` cannot be a run's folder, or where a new run would overwrite one."""
    if run.exists() and not run.is_dir():
        raise InputError(f"{run}: is a file; expected a folder for the run")
    if not resume and (list_checkpoints(run) or best_checkpoint_path(run).exists()):
        raise InputError(f"{run}: holds a run already; go on with RESUME=1, or choose another folder or remove it")


def prepare_run_folder(run: Path, config: Config, done: int) -> None:
    """Make the folder ready for a run that has done `done` steps: it then holds nothing of later ones."""
    run.mkdir(parents=True, exist_ok=True)
    for unfinished in (run / "checkpoints").glob(".*"):
        unfinished.unlink()
    for path in list_checkpoints(run):
        if path > checkpoint_path(run, done):
            path.replace(path.with_name(f"{path.name}.damaged"))
    _trim_metrics(run / "metrics.jsonl", done)
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    (run / "config.yaml").write_text(text, encoding="utf-8")


def evaluated_steps(run: Path) -> set[int]:
    """Steps whose evaluation metrics.jsonl holds."""
    return {line["step"] for line in map(json.loads, _whole_lines(run / "metrics.jsonl")) if "AP" in line}


def _trim_metrics(path: Path, step: int) -> None:
    """Forget the lines after `step`: a resumed run writes them anew."""
    if path.is_file():
        kept = [line for line in _whole_lines(path) if json.loads(line)["step"] <= step]
        path.write_text("".join(kept), encoding="utf-8")


def _whole_lines(path: Path) -> list[str]:
    """The lines of a file, if there is one, without one that was not written to its end."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
    return [line for line in lines if line.endswith("\n")]
