"""Length of a run, and the recipe changes that a resumed run allows; checked before the network is built."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import InputError
from training.config import Config

FIXED_FIELDS = ("model", "data", "training.seed", "training.batch_size", "training.accumulate", "training.optimizer")
"""Sections and fields that a resumed run cannot change: they determine the network and the samples of each step."""
FREE_FIELDS = ("data.threads", "data.targets")
"""Exceptions from FIXED_FIELDS, which determine where work is done but not its result."""


@dataclass(frozen=True)
class TrainingPlan:
    """Length of a run.

    Attributes:
        steps_per_epoch: number of updates in an epoch.
        total_steps: number of updates in the whole run.
    """

    steps_per_epoch: int
    total_steps: int

    @property
    def epochs(self) -> int:
        """Number of epochs, the last of which may be incomplete."""
        return math.ceil(self.total_steps / self.steps_per_epoch)


def samples_per_update(config: Config, world_size: int) -> int:
    """Return the number of samples in one update, of all processes together."""
    return config.training.batch_size * config.training.accumulate * world_size


def plan_run(config: Config, records: int, world_size: int) -> TrainingPlan:
    """Return the length of a run on `records` samples; InputError if they are fewer than one update takes."""
    step_records = samples_per_update(config, world_size)
    steps_per_epoch = records // step_records
    if steps_per_epoch == 0:
        batches = f"{config.training.accumulate} times " if config.training.accumulate > 1 else ""
        raise InputError(
            f"training.batch_size: {batches}{config.training.batch_size} on {world_size} processes takes "
            f"{step_records} records a step, but the training set has {records}"
        )
    total = config.training.epochs * steps_per_epoch
    return TrainingPlan(steps_per_epoch, min(total, config.training.max_steps or total))


def changed_fields(before: Config, now: Config) -> list[str]:
    """Return the changes in the recipe of a resumed run, as `field: old -> new`, without the section `evaluation`.

    Raises:
        InputError: A field of FIXED_FIELDS has changed.
    """
    changes = []
    for name, old, new in _differences(before.model_dump(mode="json"), now.model_dump(mode="json")):
        if _is_within(name, FIXED_FIELDS) and not _is_within(name, FREE_FIELDS):
            raise InputError(f"{name}: the checkpoints were made with {old}, but the recipe has {new}")
        if not _is_within(name, ("evaluation",)):
            changes.append(f"{name}: {old} -> {new}")
    return changes


def use_checkpoint_normalisation(config: Config, trained: Config, source: Path) -> tuple[Config, list[str]]:
    """Replace the image normalisation of a recipe by that of the weights it starts from.

    Args:
        config: the recipe.
        trained: the recipe with which the weights were trained.
        source: the file with the weights, for the message.

    Returns:
        The recipe to use, and a message if it differs from `config`.
    """
    given, used = ({"mean": each.model.mean, "std": each.model.std} for each in (config, trained))
    if given == used:
        return config, []
    model = config.model.model_copy(update=used)
    message = (
        f"normalisation of {source} is used: model.mean {_format_numbers(model.mean)}, "
        f"model.std {_format_numbers(model.std)} (recipe: {_format_numbers(config.model.mean)} and "
        f"{_format_numbers(config.model.std)})"
    )
    return config.model_copy(update={"model": model}), [message]


def _format_numbers(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:g}" for value in values)


def _is_within(name: str, sections: tuple[str, ...]) -> bool:
    return any(name == section or name.startswith(f"{section}.") for section in sections)


def _differences(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    for key, new in now.items():
        old, name = before[key], prefix + key
        if isinstance(new, dict) and isinstance(old, dict):
            yield from _differences(old, new, f"{name}.")
        elif old != new:
            yield name, old, new
