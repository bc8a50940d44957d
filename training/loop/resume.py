"""What a run comes from: its newest checkpoint, the weights of another, or chance."""

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
    """What a run comes from.

    Attributes:
        config: the recipe, with the normalisation of the weights that are taken over.
        messages: what there is to say about it.
        checkpoint: to go on from; None for a run that begins.
        weights: to begin with; None for random ones, or where a checkpoint is gone on from.
        allow_missing: tensors that `weights` may leave random, as in `InitialWeights`.
    """

    config: Config
    messages: Sequence[str]
    checkpoint: Checkpoint | None = None
    weights: Checkpoint | None = None
    allow_missing: Sequence[str] = ()

    @property
    def done(self) -> int:
        """Updates done."""
        return self.checkpoint.step if self.checkpoint else 0

    def apply_to(self, train_state: TrainState) -> list[str]:
        """Put into a train_state what it begins or goes on with; InputError if that does not fit.

        Returns:
            What there is to say about it.
        """
        if self.checkpoint:
            train_state.restore(self.checkpoint)
        if self.weights:
            return train_state.load_weights(self.weights, self.allow_missing)
        return []


def find_initial_state(
    out: Path, config: Config, here: TrainingPosition, *, resume: bool, init: InitialWeights | None
) -> InitialState:
    """Find what a run in the folder `out` comes from.

    Args:
        out: folder of the run.
        config: the recipe.
        here: where the run stands, were it to begin.
        resume: take the newest whole checkpoint in `out`, if there is one.
        init: weights to begin with, where there is no such checkpoint.

    Raises:
        InputError: the checkpoint does not belong to this run, or the weights cannot be read.
    """
    checkpoint, messages = _resume_point(out, config, here) if resume else (None, [])
    weights = init.load() if init and not checkpoint else None
    if source := checkpoint or weights:
        config, told = use_checkpoint_normalisation(config, source.config, source.path)
        messages = [*messages, *told]
    return InitialState(config, messages, checkpoint, weights, init.allow_missing if init else ())


def _resume_point(out: Path, config: Config, here: TrainingPosition) -> tuple[Checkpoint | None, list[str]]:
    """The checkpoint to go on from, and what to say about it; InputError if it does not belong to this run."""
    checkpoint, damaged = newest_checkpoint(out)
    messages = [f"Warning: {error}" for error in damaged]
    if checkpoint is None:
        return None, [f"{out}: no checkpoint yet, starting from the beginning"]
    there = checkpoint.position
    same_set = there.records == here.records and there.shards in (here.shards, "")
    if not same_set:
        raise InputError(
            f"{checkpoint.path}: trained on other shards ({there.records} records, now {here.records}): resume with "
            "the same, or train into another folder"
        )
    if there.processes != here.processes:
        counts = f"trained by {there.processes} processes, now {here.processes}"
        raise InputError(f"{checkpoint.path}: {counts}: use the same NPROC and HOSTS")
    try:
        changed = changed_fields(
            checkpoint.config, use_checkpoint_normalisation(config, checkpoint.config, checkpoint.path)[0]
        )
    except InputError as error:
        raise InputError(f"{out}: {error}: resume with the same, or train into another folder") from error
    return checkpoint, [*messages, f"Going on after step {there.step}", *(f"changed: {change}" for change in changed)]
