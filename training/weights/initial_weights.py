"""Weights to begin with: those of a checkpoint go into a network, and no layer keeps random numbers unnoticed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import mindspore as ms

from pipeline.errors import InputError
from training.checkpoint.checkpoint import (
    Checkpoint,
    DamagedCheckpointError,
    inference_tensors,
    load_checkpoint,
)
from training.checkpoint.run_folder import find_checkpoint
from training.config import ModelConfig
from training.weights.report import matched, part, spans


@dataclass(frozen=True)
class InitialWeights:
    """What a run begins with.

    Attributes:
        path: a checkpoint, or a run folder: its newest is meant.
        allow_missing: beginnings of names, whole up to a point, of tensors that may stay random: `stages`,
            `features.0`.
    """

    path: Path
    allow_missing: tuple[str, ...] = ()

    def load(self) -> Checkpoint:
        """Read the checkpoint; InputError if it is none, or damaged."""
        path = find_checkpoint(self.path)
        try:
            return load_checkpoint(path)
        except DamagedCheckpointError as error:
            how = f"python -m training.convert {path} --out FILE.ckpt"
            raise InputError(f"{path}: no whole checkpoint of this program; weights of others: {how}") from error


def apply_initial_weights(
    parameters: Iterable[ms.Parameter], checkpoint: Checkpoint, model: ModelConfig, allow_missing: Sequence[str]
) -> list[str]:
    """Put the checkpoint's weights into a network, before its first run; their average where it has one.

    Args:
        parameters: of the network.
        checkpoint: the weights.
        model: the network's recipe.
        allow_missing: as in `InitialWeights`.

    Returns:
        What there is to say about it.

    Raises:
        InputError: a tensor is missing or of another shape, and may not be; or `allow_missing` names nothing.
    """
    mine = {parameter.name: parameter for parameter in parameters}
    theirs = inference_tensors(checkpoint)
    allowed = _allowed(mine, allow_missing)
    fitting = [name for name in mine if name in theirs and tuple(theirs[name].shape) == tuple(mine[name].shape)]
    for name, parameter in mine.items():
        if name in theirs and name not in fitting and name not in allowed:
            shapes = f"shape {tuple(theirs[name].shape)}, the recipe's network has {tuple(parameter.shape)}"
            raise InputError(f"{checkpoint.path}: {name}: {shapes}{_advice(name, checkpoint.config.model, model)}")
    random = [name for name in mine if name not in fitting]
    missing = [name for name in random if name not in allowed]
    if missing:
        some = part(missing[0]) in map(part, theirs)
        raise InputError(
            f"{checkpoint.path}: has {matched(mine, theirs)}; {spans(missing)} would stay random"
            f"{_advice(missing[0], checkpoint.config.model, model) if some else ''}: if that is meant, add "
            + " ".join(f"--allow-missing {name}" for name in dict.fromkeys(map(part, missing)))
        )
    for name in fitting:
        mine[name].set_data(ms.Tensor(theirs[name].asnumpy(), mine[name].dtype))
    said = f"Weights of {checkpoint.path}: {matched(mine, fitting)}"
    return [said, *([f"random, as allowed: {spans(random)}"] if random else [])]


def _allowed(names: Iterable[str], allow_missing: Sequence[str]) -> set[str]:
    """The names that begin as one of `allow_missing` says; InputError for one that is the beginning of none."""
    allowed: set[str] = set()
    every = list(names)
    for beginning in allow_missing:
        found = {name for name in every if name == beginning or name.startswith(f"{beginning}.")}
        if not found:
            parts = ", ".join(dict.fromkeys(map(part, every)))
            raise InputError(
                f"--allow-missing {beginning}: no such part of the network; expected {parts} or {every[0]}"
            )
        allowed |= found
    return allowed


def _advice(name: str, theirs: ModelConfig, mine: ModelConfig) -> str:
    """Which fields of the recipe would make a tensor fit, as far as that can be known."""
    decisive = {"backbone": ("backbone", "batch_norm"), "features": ("backbone", "feature", "batch_norm")}
    fields = [
        field
        for field in ModelConfig.model_fields
        if field not in ("mean", "std") and field.startswith(decisive.get(part(name), ""))
    ]
    differing = [field for field in fields if getattr(theirs, field) != getattr(mine, field)]
    wanted = "; ".join(
        f"model.{field}: {getattr(theirs, field)} there, {getattr(mine, field)} here" for field in differing
    )
    return f" ({wanted})" if wanted else ""
