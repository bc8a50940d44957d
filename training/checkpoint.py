"""Checkpoints: weights, optimizer state, position and the resolved recipe in one file that is whole or not there."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mindspore as ms
from mindspore import nn

from pipeline.errors import InputError
from training.config import Config, parse_config

FORMAT = 1
_STATE = "openpose"
_NAME = re.compile(r"step-(\d{7,})\.ckpt")


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file holds.

    Attributes:
        path: the file.
        tensors: parameters of network and optimizer by name.
        config: the recipe they were learnt with.
        step: updates done.
        records: records of the training set, which the position in the data depends on.
        processes: how many processes trained together.
    """

    path: Path
    tensors: dict[str, ms.Parameter]
    config: Config
    step: int
    records: int
    processes: int


def checkpoint_path(run: Path, step: int) -> Path:
    """Name of the checkpoint after `step` updates."""
    return run / "checkpoints" / f"step-{step:07d}.ckpt"


def checkpoints(run: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    return sorted(path for path in (run / "checkpoints").glob("step-*.ckpt") if _NAME.fullmatch(path.name))


def save_checkpoint(
    run: Path, parameters: Iterable[ms.Parameter], config: Config, *, step: int, records: int, processes: int, keep: int
) -> Path:
    """Write a checkpoint under a temporary name, rename it, and remove all but the newest `keep`."""
    path = checkpoint_path(run, step)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}")
    state = {"format": FORMAT, "config": config.model_dump(mode="json")}
    state |= {"step": step, "records": records, "processes": processes}
    named = [{"name": parameter.name, "data": parameter} for parameter in parameters]
    try:
        ms.save_checkpoint(named, str(unfinished), append_dict={_STATE: json.dumps(state)}, crc_check=True)
        unfinished.chmod(0o666 & ~_umask())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    for old in checkpoints(run)[:-keep]:
        old.unlink()
    return path


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def find_checkpoint(path: Path) -> Path:
    """The file itself, or the newest checkpoint of a run folder; InputError if there is none."""
    if path.is_file():
        return path
    found = checkpoints(path)
    if not found:
        raise InputError(f"{path}: no checkpoint here; make one with: make train RUN={path}")
    return found[-1]


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint and check that it is whole and of this program; raises InputError otherwise."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected a checkpoint such as runs/demo/checkpoints/step-0003000.ckpt")
    try:
        tensors = ms.load_checkpoint(str(path), crc_check=True)
    except (ValueError, RuntimeError, TypeError) as error:
        raise InputError(f"{path}: damaged or not a MindSpore checkpoint; use an older one") from error
    text = tensors.pop(_STATE, None)
    state = _parse_state(text, path)
    return Checkpoint(
        path=path,
        tensors=tensors,
        config=parse_config(state["config"], source=f"{path}: its recipe"),
        step=int(state["step"]),
        records=int(state["records"]),
        processes=int(state["processes"]),
    )


def _parse_state(text: Any, path: Path) -> dict[str, Any]:
    try:
        state = json.loads(str(text))
    except ValueError:
        state = None
    if not isinstance(state, dict) or not {"format", "config", "step", "records", "processes"} <= state.keys():
        raise InputError(f"{path}: holds no recipe, so it is not a checkpoint of this trainer")
    if state["format"] != FORMAT:
        raise InputError(f"{path}: checkpoint format {state['format']}, this program reads {FORMAT}")
    return state


def restore(cell: nn.Cell, tensors: dict[str, ms.Parameter], path: Path) -> None:
    """Put the tensors into a cell's parameters, every one of them; InputError names the first that does not fit."""
    for parameter in cell.get_parameters():
        tensor = tensors.get(parameter.name)
        if tensor is None:
            raise InputError(f"{path}: has no {parameter.name}; expected shape {tuple(parameter.shape)}")
        if tuple(tensor.shape) != tuple(parameter.shape):
            shapes = f"shape {tuple(tensor.shape)}, expected {tuple(parameter.shape)}"
            raise InputError(f"{path}: {parameter.name}: {shapes}")
        parameter.set_data(ms.Tensor(tensor.asnumpy(), parameter.dtype))
