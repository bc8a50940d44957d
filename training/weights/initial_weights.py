"""Initialise a network with the weights of a checkpoint, and refuse to leave any layer random without permission."""

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
from training.weights.report import count_by_part, layer_ranges, network_part


@dataclass(frozen=True)
class InitialWeights:
    """The initial weights of a run.

    Attributes:
        path: a checkpoint, or a run folder, which stands for its newest checkpoint.
        allow_missing: name prefixes of tensors that may stay random, cut at a dot: `stages`, `features.0`.
    """

    path: Path
    allow_missing: tuple[str, ...] = ()

    def load(self) -> Checkpoint:
        """Read the checkpoint; InputError if it is damaged or not a checkpoint."""
        path = find_checkpoint(self.path)
        try:
            return load_checkpoint(path)
        except DamagedCheckpointError as error:
            command = f"python -m training.convert {path} --out FILE.ckpt"
            raise InputError(
                f"{path}: damaged, or not a checkpoint of this project; to convert published weights: {command}"
            ) from error


def apply_initial_weights(
    parameters: Iterable[ms.Parameter], checkpoint: Checkpoint, model: ModelConfig, allow_missing: Sequence[str]
) -> list[str]:
    """Copy the weights of a checkpoint into a network, before the first forward pass.

    If the checkpoint contains the exponential moving average of the weights, the average is copied.

    Args:
        parameters: parameters of the network.
        checkpoint: checkpoint with the weights.
        model: configuration of the network.
        allow_missing: as in `InitialWeights`.

    Returns:
        Log messages: how many tensors were copied, and which stay random.

    Raises:
        InputError: a tensor is missing or has another shape and is not covered by `allow_missing`, or an item of
            `allow_missing` matches no tensor.
    """
    targets = {parameter.name: parameter for parameter in parameters}
    sources = inference_tensors(checkpoint)
    allowed = _allowed_names(targets, allow_missing)
    matching = [
        name for name in targets if name in sources and tuple(sources[name].shape) == tuple(targets[name].shape)
    ]
    for name, parameter in targets.items():
        if name in sources and name not in matching and name not in allowed:
            shapes = f"shape {tuple(sources[name].shape)}, but the recipe's network has {tuple(parameter.shape)}"
            hint = _differing_fields(name, checkpoint.config.model, model)
            raise InputError(f"{checkpoint.path}: {name}: {shapes}{hint}")
    random = [name for name in targets if name not in matching]
    missing = [name for name in random if name not in allowed]
    if missing:
        # A part that the checkpoint has in part points to a different configuration; explain which field differs.
        partly_present = network_part(missing[0]) in map(network_part, sources)
        hint = _differing_fields(missing[0], checkpoint.config.model, model) if partly_present else ""
        options = " ".join(f"--allow-missing {part}" for part in dict.fromkeys(map(network_part, missing)))
        raise InputError(
            f"{checkpoint.path}: has {count_by_part(targets, sources)}; {layer_ranges(missing)} would stay "
            f"random{hint}; to allow this, add {options}"
        )
    for name in matching:
        targets[name].set_data(ms.Tensor(sources[name].asnumpy(), targets[name].dtype))
    messages = [f"Initial weights from {checkpoint.path}: {count_by_part(targets, matching)}"]
    if random:
        messages.append(f"random, as allowed by --allow-missing: {layer_ranges(random)}")
    return messages


def _allowed_names(names: Iterable[str], allow_missing: Sequence[str]) -> set[str]:
    """Return the names that start with an item of `allow_missing`; InputError for an item that matches none."""
    allowed: set[str] = set()
    all_names = list(names)
    for prefix in allow_missing:
        matching = {name for name in all_names if name == prefix or name.startswith(f"{prefix}.")}
        if not matching:
            parts = ", ".join(dict.fromkeys(map(network_part, all_names)))
            raise InputError(
                f"--allow-missing {prefix}: no such part of the network; expected {parts} or {all_names[0]}"
            )
        allowed |= matching
    return allowed


def _differing_fields(name: str, source: ModelConfig, target: ModelConfig) -> str:
    """Return a hint which configuration fields explain that a tensor does not fit; empty if no field differs."""
    relevant = {"backbone": ("backbone", "batch_norm"), "features": ("backbone", "feature", "batch_norm")}
    fields = [
        field
        for field in ModelConfig.model_fields
        if field not in ("mean", "std") and field.startswith(relevant.get(network_part(name), ""))
    ]
    differences = [
        f"model.{field}: {getattr(source, field)} in the checkpoint, {getattr(target, field)} in the recipe"
        for field in fields
        if getattr(source, field) != getattr(target, field)
    ]
    return f" ({'; '.join(differences)})" if differences else ""
