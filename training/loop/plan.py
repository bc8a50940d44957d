"""How long a run is, and what a checkpoint fixes of it: checked before anything heavy starts."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import InputError
from training.config import Config

FIXED = ("model", "data", "training.seed", "training.batch_size", "training.accumulate", "training.optimizer")
"""Sections and fields that a resumed run keeps: they decide the network's shape and which data a step sees."""
FREE = ("data.threads", "data.targets")
"""Exceptions from these: where work is done, not what is learnt."""


@dataclass(frozen=True)
class TrainingPlan:
    """How long a run is.

    Attributes:
        steps_per_epoch: updates in one epoch.
        total_steps: updates in the whole run.
    """

    steps_per_epoch: int
    total_steps: int

    @property
    def epochs(self) -> int:
        """Epochs begun in the run."""
        return math.ceil(self.total_steps / self.steps_per_epoch)


def samples_per_update(config: Config, processes: int) -> int:
    """How many samples of all processes together are in one update."""
    return config.training.batch_size * config.training.accumulate * processes


def plan_run(config: Config, records: int, processes: int) -> TrainingPlan:
    """Count the updates; InputError if the set does not fill one of them."""
    step_records = samples_per_update(config, processes)
    steps_per_epoch = records // step_records
    if steps_per_epoch == 0:
        batches = f"{config.training.accumulate} times " if config.training.accumulate > 1 else ""
        raise InputError(
            f"training.batch_size: {batches}{config.training.batch_size} on {processes} processes takes {step_records} "
            f"records a step, but the training set has {records}"
        )
    total = config.training.epochs * steps_per_epoch
    return TrainingPlan(steps_per_epoch, min(total, config.training.max_steps or total))


def changed_fields(before: Config, now: Config) -> list[str]:
    """What a resumed run does otherwise than before, as `field: old -> new`; evaluation is not part of training.

    Raises:
        InputError: a field of FIXED has changed.
    """
    found = []
    for name, old, new in _differences(before.model_dump(mode="json"), now.model_dump(mode="json")):
        if _within(name, FIXED) and not _within(name, FREE):
            raise InputError(f"{name}: its checkpoints were made with {old}, the recipe now says {new}")
        if not _within(name, ("evaluation",)):
            found.append(f"{name}: {old} -> {new}")
    return found


def use_checkpoint_normalisation(config: Config, learnt: Config, source: Path) -> tuple[Config, list[str]]:
    """The recipe with the normalisation that weights were learnt with, and what there is to say about it.

    Args:
        config: the recipe.
        learnt: the recipe that came with the weights.
        source: the file they came from.
    """
    mine, theirs = ({"mean": one.model.mean, "std": one.model.std} for one in (config, learnt))
    if mine == theirs:
        return config, []
    model = config.model.model_copy(update=theirs)
    told = f"model.mean {_numbers(model.mean)}, model.std {_numbers(model.std)}: of {source}, as normalisation belongs "
    told += f"to the weights; the recipe has {_numbers(config.model.mean)} and {_numbers(config.model.std)}"
    return config.model_copy(update={"model": model}), [told]


def _numbers(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:g}" for value in values)


def _within(name: str, places: tuple[str, ...]) -> bool:
    return any(name == place or name.startswith(f"{place}.") for place in places)


def _differences(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    for key, new in now.items():
        old, name = before[key], prefix + key
        if isinstance(new, dict) and isinstance(old, dict):
            yield from _differences(old, new, f"{name}.")
        elif old != new:
            yield name, old, new
