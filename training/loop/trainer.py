"""One training run in one process: the loop over epochs and steps, and what it keeps on disk."""

from __future__ import annotations

import hashlib
import math
import signal
from collections.abc import Iterator
from enum import Enum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.loading.batches import create_batches
from pipeline.loading.collate import Batch
from pipeline.storage.manifest import Manifest
from pipeline.system.cpu import default_threads, usable_cores
from pipeline.system.signals import StopSignal
from training.checkpoint.checkpoint import TrainingPosition, save_checkpoint
from training.checkpoint.run_folder import best_checkpoint_path, check_run_folder, prepare_run_folder
from training.config import Config
from training.distributed.world import World, init_world
from training.loop.plan import TrainingPlan, plan_run, samples_per_update
from training.loop.progress import ProgressReporter
from training.loop.resume import find_initial_state
from training.loop.run_info import record_session
from training.loop.state import StepResult, TrainState
from training.loop.validation import Evaluator, Validation
from training.network.openpose import count_parameters
from training.optim.optimizer import PARAMETER_GROUPS
from training.weights.initial_weights import InitialWeights

EXIT_DIVERGED = 3
"""Exit code of a run whose loss or gradient is not finite."""

MAX_CONSECUTIVE_SKIPS = 20
"""Steps in a row that may be left out; a network that has diverged answers to nothing any more."""


class StopReason(Enum):
    """Why a run is over."""

    FINISHED = 0
    STOPPED = 1
    DIVERGED = 2


def fingerprint(manifest: Manifest) -> str:
    """Hash of a set's records and their order."""
    return hashlib.sha256("".join(shard.sha256 for shard in manifest.shards).encode()).hexdigest()


class Run:
    """A network in training, its data and its folder."""

    def __init__(
        self,
        config: Config,
        shards: Path,
        out: Path,
        world: World,
        plan: TrainingPlan,
        position: TrainingPosition,
        validation: Validation,
    ) -> None:
        self.config = config
        self.shards = shards
        self.out = out
        self.world = world
        self.plan = plan
        self.position = position
        self.validation = validation
        self.skipped = self.skipped_in_a_row = 0
        self.train_state = TrainState(config, world, plan.total_steps)

    @property
    def done(self) -> int:
        """Updates done."""
        return self.position.step

    @property
    def threads(self) -> int:
        """Threads that prepare samples in this process."""
        return self.config.data.threads or default_threads(self.world.local_size)

    def save(self) -> None:
        """Write a checkpoint of the steps done; the ranks hold the same weights, so one of them does it."""
        if self.world.rank == 0:
            parameters = self.train_state.parameters()
            save_checkpoint(self.out, parameters, self.config, self.position, keep=self.config.training.keep)

    def batches(self) -> Iterator[tuple[int, Batch]]:
        """What is left of the run's batches, each with its epoch."""
        data, accumulate = self.config.data, self.config.training.accumulate
        if self.done == self.plan.total_steps:
            return
        first, start = divmod(self.done, self.plan.steps_per_epoch)
        for epoch in range(first, self.plan.epochs):
            batches = create_batches(
                self.shards,
                size=data.size,
                batch_size=self.config.training.batch_size,
                max_people=data.max_people,
                seed=self.config.training.seed,
                epoch=epoch,
                rank=self.world.rank,
                world_size=self.world.size,
                threads=self.threads,
                augment=data.augment,
                targets=None if self.train_state.on_device else data.target,
                start=start * accumulate if epoch == first else 0,
                stop=self.plan.steps_per_epoch * accumulate,
            )
            for batch in batches:
                yield epoch, batch

    def step(self, batch: Batch, stop: bool) -> StepResult | None:
        """Learn from one batch, None if the step takes more; `stop` says whether this process was asked to stop."""
        outcome = self.train_state.step(batch, self.done, stop)
        if outcome:
            self.position = self.position.after(1)
        return outcome

    def loop(self, reporter: ProgressReporter, signals: StopSignal, overdue: bool = False) -> StopReason:
        """Train to the end, to a signal, or to a loss or gradient that is not finite.

        Args:
            reporter: told of every step.
            signals: whether this process was asked to stop.
            overdue: whether the network as it is now is to be evaluated first.
        """
        training = self.config.training
        if overdue and not self.evaluate(reporter, signals):
            return StopReason.STOPPED
        image_ids: list[NDArray[np.int64]] = []
        for epoch, batch in reporter.timer.waiting(self.batches()):
            rates = dict(zip(PARAMETER_GROUPS, self.train_state.rates(self.done), strict=True))
            image_ids.append(batch["image_id"])
            outcome = self.step(batch, signals.number > 0)
            if outcome is None:
                continue
            end = self.done == self.plan.total_steps
            self.skipped_in_a_row = 0 if outcome.finite else self.skipped_in_a_row + 1
            lost = not outcome.finite and self.lost()
            if outcome.finite or (outcome.overflow and not lost):
                terms = dict(zip(self.train_state.term_names, outcome.terms, strict=True))
                scale = None if outcome.scale == 1 else outcome.scale
                reporter.log_step(
                    step=self.done, epoch=epoch, terms=terms, rates=rates, scale=scale, overflow=outcome.overflow
                )
            elif not self.skip(outcome, np.concatenate(image_ids), lost, reporter):
                return StopReason.DIVERGED
            image_ids.clear()
            if outcome.stop or end or self.done % training.checkpoint_every == 0:
                self.save()
            if outcome.stop and not end:
                return StopReason.STOPPED
            if self.validation.is_due(self.done) and not self.evaluate(reporter, signals):
                return StopReason.STOPPED
            if end:
                break
        return StopReason.FINISHED

    def evaluate(self, reporter: ProgressReporter, signals: StopSignal) -> bool:
        """Score the network and keep it if it is the best; False, and all is saved, if a process was asked to stop."""
        validation = self.validation
        with reporter.timer.paused():
            try:
                score = validation.evaluate(
                    self.train_state, lambda: signals.number > 0, reporter.show_evaluation_progress
                )
            except InputError as error:
                # a bad picture is no reason to lose days of training
                reporter.print_message(f"Warning: step {self.done}: not evaluated: {error}")
                return True
            if score is None:
                self.save()
                return False
            reporter.log_evaluation(
                self.done, score, best=validation.save_if_best(score, self.train_state, self.position)
            )
        return True

    def lost(self) -> bool:
        """Whether no later step can mend what this one came to; the same in every process, and each has to call it."""
        sound = np.array([self.train_state.has_finite_statistics()], dtype=np.int64)
        return self.skipped_in_a_row >= MAX_CONSECUTIVE_SKIPS or not self.world.all_gather(sound).all()

    def skip(self, outcome: StepResult, image_ids: NDArray[np.int64], lost: bool, reporter: ProgressReporter) -> bool:
        """Say which step of which pictures came to a loss or a gradient that is not finite, and whether to go on."""
        self.skipped += 1
        goes_on = self.config.training.on_nonfinite == "skip" and not lost
        what = "gradient" if math.isfinite(outcome.loss) else "loss"
        pictures = ", ".join(str(image_id) for image_id in self.world.all_gather(image_ids))
        told = f"step {self.done}: the {what} is not finite; image ids {pictures}"
        if goes_on:
            reporter.print_message(f"Warning: {told}; left out, {self.skipped} so far")
            reporter.bar.update()
        else:
            advice = "lower training.lr or set training.clip_norm"
            if not self.train_state.has_finite_statistics():
                told += "; nor are the statistics of batch normalisation any more"
            elif outcome.overflow:
                advice = "lower training.loss_scale or set training.loss_scale_mode=dynamic"
            reporter.print_message(f"Error: {told}; nothing was saved since the last checkpoint: {advice}")
        return goes_on


def train(
    config: Config,
    shards: Path,
    out: Path,
    *,
    resume: bool,
    device: str,
    signals: StopSignal,
    resume_command: str,
    evaluator: Evaluator | None = None,
    init: InitialWeights | None = None,
) -> int:
    """Train in this process, which may be one of several that msrun started.

    Args:
        config: the recipe.
        shards: the training set.
        out: folder of the run, made if need be.
        resume: go on from the newest whole checkpoint in `out`, if there is one.
        device: auto, cpu or ascend.
        signals: whether SIGINT or SIGTERM has come.
        resume_command: what to type to go on with a run that was stopped.
        evaluator: what scores the network every training.eval_every steps; None for never.
        init: weights to begin with, where there is no checkpoint to go on from; None for random ones.

    Returns:
        The exit code: 0 finished, or stopped by SIGTERM; 130 stopped by SIGINT; 3 loss or gradient is not finite.

    Raises:
        InputError: what was given does not fit together.
    """
    check_run_folder(out, resume)
    world = init_world(device, debug_folder=out / "debug")
    manifest = Manifest.load(shards)
    plan = plan_run(config, manifest.records, world.size)
    position = TrainingPosition(0, manifest.records, fingerprint(manifest), world.size)
    initial = find_initial_state(out, config, position, resume=resume, init=init)
    config, done = initial.config, initial.done
    _agree(done, world, out)
    validation = Validation(out, config, evaluator, plan.total_steps, world)
    overdue = validation.was_missed(done)
    images = samples_per_update(config, world.size)
    reporter = ProgressReporter(
        out, plan, first=done, log_every=config.training.log_every, images_per_step=images, enabled=world.rank == 0
    )
    try:
        for remark in [*initial.messages, *validation.resume()]:
            reporter.print_message(remark)
        if done >= plan.total_steps and not overdue:
            reporter.print_message(
                f"{out}: finished, all {plan.total_steps} steps are done; more with --set training.epochs=…"
            )
            return 0
        run = Run(config, shards, out, world, plan, position.after(done), validation)
        for remark in initial.apply_to(run.train_state):
            reporter.print_message(remark)
        return _go(run, overdue, reporter, signals, resume_command)
    finally:
        reporter.close()


def _go(run: Run, overdue: bool, reporter: ProgressReporter, signals: StopSignal, resume_command: str) -> int:
    """Make the folder ready, train, and say how it ended; returns the exit code."""
    if run.world.rank == 0:
        prepare_run_folder(run.out, run.config, run.done)
    record_session(run.out, run.config, run.shards, run.world, run.done)
    reporter.print_message(_summary(run))
    reporter.print_message(_host_work(run))
    end = run.loop(reporter, signals, overdue)
    if run.validation.best:
        step, ap = run.validation.best
        reporter.print_message(f"Best: AP {ap:.3f} after step {step}, {best_checkpoint_path(run.out)}")
    if end is StopReason.STOPPED:
        reporter.print_message(f"Stopped after step {run.done} of {run.plan.total_steps}; go on with: {resume_command}")
    return _exit_code(end, signals, run.world)


def _agree(done: int, world: World, out: Path) -> None:
    """Wait for all processes; InputError if they would not go on from the same step."""
    steps = world.all_gather(np.array([done], dtype=np.int64)).tolist()
    if len(set(steps)) > 1:
        raise InputError(f"{out}: the processes see checkpoints of steps {steps}: put it on a disk that all share")


def _summary(run: Run) -> str:
    world, plan, images = run.world, run.plan, samples_per_update(run.config, run.world.size)
    return (
        f"{count_parameters(run.train_state.network) / 1e6:.1f} M parameters, {run.train_state.precision}, "
        f"{world.size} x {world.device}, {run.position.records} records: {plan.total_steps} steps of {images} images, "
        f"{plan.epochs} epochs"
    )


def _host_work(run: Run) -> str:
    return f"{run.threads} data threads in each of {run.world.local_size} processes, {usable_cores()} cores"


def _exit_code(end: StopReason, signals: StopSignal, world: World) -> int:
    if end is StopReason.DIVERGED:
        return EXIT_DIVERGED
    # among several processes any code but 0 lets msrun kill the others while rank 0 may still be saving
    interrupted = end is StopReason.STOPPED and signals.number == signal.SIGINT and world.size == 1
    return 128 + signal.SIGINT if interrupted else 0
