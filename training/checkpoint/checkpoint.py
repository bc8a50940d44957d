"""Checkpoints: weights, optimizer state, training position and resolved recipe in one file, written atomically."""

from __future__ import annotations

import json
import os
import reprlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mindspore as ms
from mindspore import nn

from pipeline.errors import InputError
from pipeline.system.files import set_default_permissions
from training.checkpoint.reader import read_tensors
from training.checkpoint.run_folder import best_checkpoint_path, checkpoint_path, list_checkpoints
from training.config import Config
from training.optim.ema import AVERAGE_PREFIX
from training.recipes import parse_config

FORMAT_VERSION = 1
_STATE_KEY = "openpose"


class DamagedCheckpointError(InputError):
    """A file that is not a complete checkpoint."""


@dataclass(frozen=True)
class TrainingPosition:
    """Number of updates done, with the training set and world size that determine which samples they used.

    Attributes:
        step: number of updates done.
        records: number of records in the training set.
        shards: fingerprint of the training set; "" if unknown.
        processes: world size of the run.
    """

    step: int
    records: int
    shards: str
    processes: int

    def after(self, steps: int) -> TrainingPosition:
        """Return the position `steps` updates later."""
        return replace(self, step=self.step + steps)


@dataclass(frozen=True)
class BestScore:
    """Validation score for which a checkpoint was selected as the best of its run.

    Attributes:
        ap: average precision, 0 to 1.
        basis: identifier of the validation images and the evaluation settings. Only scores with the same basis are
            comparable.
    """

    ap: float
    basis: str


@dataclass(frozen=True)
class Checkpoint:
    """Content of a checkpoint file.

    Attributes:
        path: the file.
        tensors: parameters of network, optimizer, averaged weights and loss scale, by name.
        config: the recipe of the run.
        position: training position.
        best_score: score for which the checkpoint was selected; None in a regular checkpoint.
    """

    path: Path
    tensors: dict[str, ms.Parameter]
    config: Config
    position: TrainingPosition
    best_score: BestScore | None = None

    @property
    def step(self) -> int:
        """Number of updates done."""
        return self.position.step

    @property
    def has_weight_average(self) -> bool:
        """True if the file holds an exponential moving average of the weights, which is meant for inference."""
        return any(name.startswith(AVERAGE_PREFIX) for name in self.tensors)


def save_checkpoint(
    run: Path, parameters: Iterable[ms.Parameter], config: Config, position: TrainingPosition, *, keep: int
) -> Path:
    """Write a checkpoint of a run atomically, and remove all but the newest `keep` checkpoints.

    Returns:
        The file, entries after `position.step`.

    Raises:
        InputError: the file cannot be written, or an old one cannot be removed.
    """
    path = checkpoint_path(run, position.step)
    _write_atomically(path, parameters, _state(config, position))
    try:
        for old in list_checkpoints(run)[:-keep]:
            old.unlink()
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be removed: {error.strerror}") from error
    return path


def save_best(
    run: Path, parameters: Iterable[ms.Parameter], config: Config, position: TrainingPosition, best_score: BestScore
) -> Path:
    """Write the best checkpoint of a run with its score; replaces the previous best. Raises as `save_checkpoint`."""
    path = best_checkpoint_path(run)
    _write_atomically(path, parameters, _state(config, position) | {"mark": vars(best_score)})
    return path


def write_checkpoint(
    path: Path, parameters: Iterable[ms.Parameter], config: Config, position: TrainingPosition
) -> None:
    """Write a checkpoint outside of a run to `path`, which ends in .ckpt. Raises as `save_checkpoint`."""
    _write_atomically(path, parameters, _state(config, position))


def _state(config: Config, position: TrainingPosition) -> dict[str, Any]:
    return {"format": FORMAT_VERSION, "config": config.model_dump(mode="json"), **vars(position)}


def _write_atomically(path: Path, parameters: Iterable[ms.Parameter], state: dict[str, Any]) -> None:
    """Write a file under a temporary name, then rename it."""
    temporary = path.with_name(f".{path.name}")
    entries = [{"name": parameter.name, "data": parameter} for parameter in parameters]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        ms.save_checkpoint(entries, str(temporary), append_dict={_STATE_KEY: json.dumps(state)}, crc_check=True)
        _finalize(temporary)
        temporary.replace(path)
    except (OSError, RuntimeError) as error:
        raise InputError(f"{path}: cannot be written: {str(error).splitlines()[0]}") from error
    finally:
        # MindSpore itself writes to a file with the suffix .tmp and renames that
        for leftover in (temporary, temporary.with_suffix(".tmp")):
            if leftover.exists():
                leftover.unlink()


def _finalize(path: Path) -> None:
    """Set the permissions of a new file, since MindSpore writes with mode 0400, and flush the file to disk."""
    set_default_permissions(path)
    with path.open("rb") as file:
        os.fsync(file.fileno())


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        DamagedCheckpointError: the file is incomplete, corrupted, or not a MindSpore checkpoint.
        InputError: the file does not exist or was not written by this project.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected a checkpoint such as runs/demo/checkpoints/step-0003000.ckpt")
    try:
        values = read_tensors(path)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise DamagedCheckpointError(f"{path}: damaged or not a MindSpore checkpoint; use an older one") from error
    config, position, best_score = _parse_state(values.pop(_STATE_KEY, None), path)
    tensors = {name: value for name, value in values.items() if not isinstance(value, str)}
    return Checkpoint(path=path, tensors=tensors, config=config, position=position, best_score=best_score)


def _parse_state(text: object, path: Path) -> tuple[Config, TrainingPosition, BestScore | None]:
    try:
        state = json.loads(str(text))
    except (ValueError, RecursionError):
        state = None
    if not isinstance(state, dict) or not {"format", "config", "step", "records", "processes"} <= state.keys():
        raise InputError(f"{path}: holds no recipe, so it was not written by training.train or training.convert")
    if state["format"] != FORMAT_VERSION:
        raise InputError(
            f"{path}: checkpoint format {str(state['format'])[:20]}, this program reads format {FORMAT_VERSION}"
        )
    counts = {name: state[name] for name in ("step", "records", "processes")}
    for name, value in counts.items():
        if type(value) is not int or not 0 <= value < 2**63:
            raise InputError(f"{path}: {name} is {reprlib.repr(value)}, expected a whole number")
    config = parse_config(state["config"], source=f"{path}: its recipe")
    best_score = _parse_best_score(state["mark"], path) if "mark" in state else None
    return config, TrainingPosition(**counts, shards=str(state.get("shards", ""))), best_score


def _parse_best_score(mark: Any, path: Path) -> BestScore:
    if not isinstance(mark, dict) or type(mark.get("ap")) is not float or not 0 <= mark["ap"] <= 1:
        raise InputError(f"{path}: mark is {reprlib.repr(mark)}, expected an object with ap from 0 to 1")
    return BestScore(mark["ap"], str(mark.get("basis", "")))


def newest_checkpoint(run: Path) -> tuple[Checkpoint | None, list[DamagedCheckpointError]]:
    """Return the newest undamaged checkpoint of a run, or None, and the errors of newer, damaged ones.

    Raises:
        InputError: every checkpoint is damaged, or one was not written by this project.
    """
    damaged: list[DamagedCheckpointError] = []
    for path in reversed(list_checkpoints(run)):
        try:
            return load_checkpoint(path), damaged
        except DamagedCheckpointError as error:
            damaged.append(error)
    if damaged:
        raise InputError(f"{run}: every checkpoint is damaged; remove the folder and train from the beginning")
    return None, damaged


def restore_cell(cell: nn.Cell, tensors: dict[str, ms.Parameter], path: Path) -> None:
    """Copy tensors into all parameters of a cell. Raises as `restore_parameters`."""
    restore_parameters(cell.get_parameters(), tensors, path)


def restore_for_inference(network: nn.Cell, checkpoint: Checkpoint) -> None:
    """Copy the weights for inference of a checkpoint into a network: averaged weights if present, else the weights.

    Raises:
        InputError: A weight is missing or has another shape.
    """
    restore_cell(network, inference_tensors(checkpoint), checkpoint.path)


def inference_tensors(checkpoint: Checkpoint) -> dict[str, ms.Parameter]:
    """Return the averaged weights of a checkpoint under the names of the weights; all tensors if there are none."""
    prefix = AVERAGE_PREFIX if checkpoint.has_weight_average else ""
    return {name.removeprefix(prefix): tensor for name, tensor in checkpoint.tensors.items() if name.startswith(prefix)}


def restore_parameters(parameters: Iterable[ms.Parameter], tensors: dict[str, ms.Parameter], path: Path) -> None:
    """Copy tensors into parameters by name.

    Raises:
        InputError: A parameter has no tensor, or one of another shape; the message names the parameter.
    """
    for parameter in parameters:
        tensor = tensors.get(parameter.name)
        if tensor is None:
            raise InputError(f"{path}: has no {parameter.name}; expected shape {tuple(parameter.shape)}")
        if tuple(tensor.shape) != tuple(parameter.shape):
            shapes = f"shape {tuple(tensor.shape)}, expected {tuple(parameter.shape)}"
            raise InputError(f"{path}: {parameter.name}: {shapes}")
        parameter.set_data(ms.Tensor(tensor.asnumpy(), parameter.dtype))
