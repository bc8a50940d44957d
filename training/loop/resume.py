"""Initial state of a run: its newest checkpoint, given weights, or random weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import InputError
from training.checkpoint.checkpoint import Checkpoint, TrainingPosition, newest_checkpoint
from training.config import Config
from training.loop.plan import changed_fields, use_checkpoint_normalisation
from training.loop.state import TrainState
from training.weights.initial_weights import InitialWeights


@dataclass(frozen=True)
class InitialState:
    """Initial state of a run.

    Attributes:
        config: the recipe, with the image normalisation of the loaded weights.
        messages: lines to print before the run starts.
        checkpoint: the checkpoint to resume from; None for a new run.
        weights: initial weights of a new run; None for random weights and for a resumed run.
        allow_missing: parts of the network that `weights` need not contain, as in `InitialWeights`.
    """

    config: Config
    messages: Sequence[str]
    checkpoint: Checkpoint | None = None
    weights: Checkpoint | None = None
    allow_missing: Sequence[str] = ()

    @property
    def done(self) -> int:
        """Number of updates done."""
        return self.checkpoint.step if self.checkpoint else 0

    def apply_to(self, train_state: TrainState) -> list[str]:
        """Copy the checkpoint or the initial weights into `train_state`; InputError if a tensor does not fit.

        Returns:
            Lines to print.
        """
        if self.checkpoint:
            train_state.restore(self.checkpoint)
        if self.weights:
            return train_state.load_weights(self.weights, self.allow_missing)
        return []


def find_initial_state(
    out: Path, config: Config, start: TrainingPosition, *, resume: bool, init: InitialWeights | None
) -> InitialState:
    """Find the initial state of a run.

    Args:
        out: folder of the run.
        config: the recipe.
        start: training position of a new run with this training set and world size.
        resume: use the newest undamaged checkpoint in `out`, if there is one.
        init: initial weights of a run without a checkpoint; None for random weights.

    Raises:
        InputError: the checkpoint does not match the run, or the weights cannot be read.
    """
    checkpoint, messages = _find_resume_checkpoint(out, config, start) if resume else (None, [])
    weights = init.load() if init and not checkpoint else None
    if source := checkpoint or weights:
        config, notes = use_checkpoint_normalisation(config, source.config, source.path)
        messages = [*messages, *notes]
    return InitialState(config, messages, checkpoint, weights, init.allow_missing if init else ())


def _find_resume_checkpoint(out: Path, config: Config, start: TrainingPosition) -> tuple[Checkpoint | None, list[str]]:
    """Return the checkpoint to resume from and lines to print; InputError if it does not match the run."""
    checkpoint, damaged = newest_checkpoint(out)
    messages = [f"Warning: {error}" for error in damaged]
    if checkpoint is None:
        return None, [f"{out}: no checkpoint yet, starting a new run"]
    stored = checkpoint.position
    same_shards = stored.records == start.records and stored.shards in (start.shards, "")
    if not same_shards:
        raise InputError(
            f"{checkpoint.path}: trained on other shards ({stored.records} records, now {start.records}): resume with "
            "the same shards, or choose another folder"
        )
    if stored.processes != start.processes:
        counts = f"trained with {stored.processes} processes, now {start.processes}"
        raise InputError(f"{checkpoint.path}: {counts}: resume with the same NPROC and HOSTS")
    try:
        changed = changed_fields(
            checkpoint.config, use_checkpoint_normalisation(config, checkpoint.config, checkpoint.path)[0]
        )
    except InputError as error:
        raise InputError(f"{out}: {error}: resume with the same value, or choose another folder") from error
    return checkpoint, [*messages, f"Resuming after step {stored.step}", *(f"changed: {change}" for change in changed)]
