"""Checkpoints: weights, optimizer state, position and the resolved recipe in one file that is whole or not there."""

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

FORMAT = 1
_STATE = "openpose"


class DamagedCheckpointError(InputError):
    """A file that is not a whole checkpoint."""


@dataclass(frozen=True)
class TrainingPosition:
    """Where in its data a run is.

    Attributes:
        step: updates done.
        records: records of the training set.
        shards: fingerprint of the training set, "" if it is not known.
        processes: how many processes train together.
    """

    step: int
    records: int
    shards: str
    processes: int

    def after(self, steps: int) -> TrainingPosition:
        """The position `steps` updates on."""
        return replace(self, step=self.step + steps)


@dataclass(frozen=True)
class BestScore:
    """What a network was chosen for.

    Attributes:
        ap: its average precision on some pictures, 0..1.
        basis: names these and the way of finding people; marks of one basis can be compared.
    """

    ap: float
    basis: str


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file holds.

    Attributes:
        path: the file.
        tensors: parameters of network, optimizer, average of weights and loss scale by name.
        config: the recipe they were learnt with.
        position: where in the data training stood.
        mark: what it was chosen for, None if it was not.
    """

    path: Path
    tensors: dict[str, ms.Parameter]
    config: Config
    position: TrainingPosition
    best_score: BestScore | None = None

    @property
    def step(self) -> int:
        """Updates done."""
        return self.position.step

    @property
    def has_weight_average(self) -> bool:
        """Whether it holds the average of weights that its network should answer with."""
        return any(name.startswith(AVERAGE_PREFIX) for name in self.tensors)


def save_checkpoint(
    run: Path, parameters: Iterable[ms.Parameter], config: Config, position: TrainingPosition, *, keep: int
) -> Path:
    """Write a checkpoint under a temporary name, rename it, and remove all but the newest `keep`.

    Raises:
        InputError: it cannot be written.
    """
    path = checkpoint_path(run, position.step)
    _save(path, parameters, _state(config, position))
    try:
        for old in list_checkpoints(run)[:-keep]:
            old.unlink()
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be removed: {error.strerror}") from error
    return path


def save_best(
    run: Path, parameters: Iterable[ms.Parameter], config: Config, position: TrainingPosition, mark: BestScore
) -> Path:
    """Write the run's best checkpoint, with its mark, in place of the one before; errors as `save_checkpoint`."""
    path = best_checkpoint_path(run)
    _save(path, parameters, _state(config, position) | {"mark": vars(mark)})
    return path


def write_checkpoint(
    path: Path, parameters: Iterable[ms.Parameter], config: Config, position: TrainingPosition
) -> None:
    """Write a checkpoint that belongs to no run, to a file whose name ends in .ckpt; errors as `save_checkpoint`."""
    _save(path, parameters, _state(config, position))


def _state(config: Config, position: TrainingPosition) -> dict[str, Any]:
    return {"format": FORMAT, "config": config.model_dump(mode="json"), **vars(position)}


def _save(path: Path, parameters: Iterable[ms.Parameter], state: dict[str, Any]) -> None:
    """Write a file under a temporary name and rename it."""
    unfinished = path.with_name(f".{path.name}")
    named = [{"name": parameter.name, "data": parameter} for parameter in parameters]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        ms.save_checkpoint(named, str(unfinished), append_dict={_STATE: json.dumps(state)}, crc_check=True)
        _settle(unfinished)
        unfinished.replace(path)
    except (OSError, RuntimeError) as error:
        raise InputError(f"{path}: cannot be written: {str(error).splitlines()[0]}") from error
    finally:
        # MindSpore writes under a name of its own before it takes the one it was given
        for leftover in (unfinished, unfinished.with_suffix(".tmp")):
            if leftover.exists():
                leftover.unlink()


def _settle(path: Path) -> None:
    """Give the file the permissions that any new file has, and wait until it is on the disk."""
    set_default_permissions(path)
    with path.open("rb") as file:
        os.fsync(file.fileno())


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        DamagedCheckpointError: it is not whole, or no checkpoint of MindSpore at all.
        InputError: there is no such file, or it is not of this program.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected a checkpoint such as runs/demo/checkpoints/step-0003000.ckpt")
    try:
        values = read_tensors(path)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise DamagedCheckpointError(f"{path}: damaged or not a MindSpore checkpoint; use an older one") from error
    config, position, best_score = _parse_state(values.pop(_STATE, None), path)
    tensors = {name: value for name, value in values.items() if not isinstance(value, str)}
    return Checkpoint(path=path, tensors=tensors, config=config, position=position, best_score=best_score)


def _parse_state(text: object, path: Path) -> tuple[Config, TrainingPosition, BestScore | None]:
    try:
        state = json.loads(str(text))
    except (ValueError, RecursionError):
        state = None
    if not isinstance(state, dict) or not {"format", "config", "step", "records", "processes"} <= state.keys():
        raise InputError(f"{path}: holds no recipe, so it is not a checkpoint of this trainer")
    if state["format"] != FORMAT:
        raise InputError(f"{path}: checkpoint format {str(state['format'])[:20]}, this program reads {FORMAT}")
    counts = {name: state[name] for name in ("step", "records", "processes")}
    for name, value in counts.items():
        if type(value) is not int or not 0 <= value < 2**63:
            raise InputError(f"{path}: {name} is {reprlib.repr(value)}, expected a whole number")
    config = parse_config(state["config"], source=f"{path}: its recipe")
    mark = _parse_mark(state["mark"], path) if "mark" in state else None
    return config, TrainingPosition(**counts, shards=str(state.get("shards", ""))), mark


def _parse_mark(mark: Any, path: Path) -> BestScore:
    if not isinstance(mark, dict) or type(mark.get("ap")) is not float or not 0 <= mark["ap"] <= 1:
        raise InputError(f"{path}: mark is {reprlib.repr(mark)}, expected an AP of 0 to 1")
    return BestScore(mark["ap"], str(mark.get("basis", "")))


def newest_checkpoint(run: Path) -> tuple[Checkpoint | None, list[DamagedCheckpointError]]:
    """The newest checkpoint of a run that is whole, or None if it has none; and what is wrong with newer ones.

    Raises:
        InputError: every checkpoint is damaged, or one is not of this program.
    """
    damaged: list[DamagedCheckpointError] = []
    for path in reversed(list_checkpoints(run)):
        try:
            return load_checkpoint(path), damaged
        except DamagedCheckpointError as error:
            damaged.append(error)
    if damaged:
        raise InputError(f"{run}: every checkpoint is damaged; remove the folder and train again")
    return None, damaged


def restore(cell: nn.Cell, tensors: dict[str, ms.Parameter], path: Path) -> None:
    """Put the tensors into a cell's parameters, every one of them; InputError names the first that does not fit."""
    restore_parameters(cell.get_parameters(), tensors, path)


def restore_for_inference(network: nn.Cell, checkpoint: Checkpoint) -> None:
    """Put into a network the weights that it should answer with: the average of weights, where the recipe kept one.

    Raises:
        InputError: a weight is missing or of another shape.
    """
    restore(network, inference_tensors(checkpoint), checkpoint.path)


def inference_tensors(checkpoint: Checkpoint) -> dict[str, ms.Parameter]:
    """The weights that a checkpoint's network should answer with: their average if it has one, else all its tensors."""
    prefix = AVERAGE_PREFIX if checkpoint.has_weight_average else ""
    return {name.removeprefix(prefix): each for name, each in checkpoint.tensors.items() if name.startswith(prefix)}


def restore_parameters(parameters: Iterable[ms.Parameter], tensors: dict[str, ms.Parameter], path: Path) -> None:
    """Put the tensors into parameters of their names, every one of them; InputError names one that does not fit."""
    for parameter in parameters:
        tensor = tensors.get(parameter.name)
        if tensor is None:
            raise InputError(f"{path}: has no {parameter.name}; expected shape {tuple(parameter.shape)}")
        if tuple(tensor.shape) != tuple(parameter.shape):
            shapes = f"shape {tuple(tensor.shape)}, expected {tuple(parameter.shape)}"
            raise InputError(f"{path}: {parameter.name}: {shapes}")
        parameter.set_data(ms.Tensor(tensor.asnumpy(), parameter.dtype))
