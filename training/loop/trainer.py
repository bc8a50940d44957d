"""Training loop of one process: epochs, steps, checkpoints and evaluations."""

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
"""Exit code of a run that ended because the loss or the gradients were not finite."""

MAX_CONSECUTIVE_SKIPS = 20
"""Number of consecutive skipped updates after which training is considered to have diverged."""


class StopReason(Enum):
    """Why the training loop ended."""

    FINISHED = 0
    STOPPED = 1
    DIVERGED = 2


def hash_shards(manifest: Manifest) -> str:
    """Return a hash of the records of a training set and their order."""
    return hashlib.sha256("".join(shard.sha256 for shard in manifest.shards).encode()).hexdigest()


class TrainingRun:
    """A run in this process: training state, data, position and run folder."""

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
        self.skipped_updates = self.consecutive_skips = 0
        self.train_state = TrainState(config, world, plan.total_steps)

    @property
    def done(self) -> int:
        """Number of updates done."""
        return self.position.step

    @property
    def threads(self) -> int:
        """Number of threads that load samples in this process."""
        return self.config.data.threads or default_threads(self.world.local_size)

    def save(self) -> None:
        """Write a checkpoint on rank 0; the weights are equal on all ranks."""
        if self.world.rank == 0:
            parameters = self.train_state.parameters()
            save_checkpoint(self.out, parameters, self.config, self.position, keep=self.config.training.keep)

    def batches(self) -> Iterator[tuple[int, Batch]]:
        """Yield the remaining batches of the run, each with its epoch."""
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
                targets=None if self.train_state.targets_on_device else data.target,
                start=start * accumulate if epoch == first else 0,
                stop=self.plan.steps_per_epoch * accumulate,
            )
            for batch in batches:
                yield epoch, batch

    def step(self, batch: Batch, stop: bool) -> StepResult | None:
        """Train on one batch; arguments and result as those of `TrainState.step`."""
        result = self.train_state.step(batch, self.done, stop)
        if result:
            self.position = self.position.after(1)
        return result

    def train_loop(self, reporter: ProgressReporter, signals: StopSignal, evaluate_first: bool = False) -> StopReason:
        """Train until the last step, a stop signal, or divergence.

        Args:
            reporter: progress reporter.
            signals: stop signals received by this process.
            evaluate_first: evaluate the current weights before the first step.
        """
        training = self.config.training
        if evaluate_first and not self.evaluate(reporter, signals):
            return StopReason.STOPPED
        image_ids: list[NDArray[np.int64]] = []
        for epoch, batch in reporter.timer.time_batches(self.batches()):
            rates = dict(zip(PARAMETER_GROUPS, self.train_state.learning_rates(self.done), strict=True))
            image_ids.append(batch["image_id"])
            result = self.step(batch, signals.number > 0)
            if result is None:
                continue
            last = self.done == self.plan.total_steps
            self.consecutive_skips = 0 if result.finite else self.consecutive_skips + 1
            diverged = not result.finite and self.has_diverged()
            if result.finite or (result.overflow and not diverged):
                terms = dict(zip(self.train_state.term_names, result.terms, strict=True))
                loss_scale = None if result.loss_scale == 1 else result.loss_scale
                reporter.log_step(
                    step=self.done,
                    epoch=epoch,
                    terms=terms,
                    rates=rates,
                    loss_scale=loss_scale,
                    overflow=result.overflow,
                )
            elif not self.report_nonfinite(result, np.concatenate(image_ids), diverged, reporter):
                return StopReason.DIVERGED
            image_ids.clear()
            if result.stop or last or self.done % training.checkpoint_every == 0:
                self.save()
            if result.stop and not last:
                return StopReason.STOPPED
            if self.validation.is_due(self.done) and not self.evaluate(reporter, signals):
                return StopReason.STOPPED
            if last:
                break
        return StopReason.FINISHED

    def evaluate(self, reporter: ProgressReporter, signals: StopSignal) -> bool:
        """Evaluate the network, and save it if it is the best so far; on a stop signal, save and return False."""
        validation = self.validation
        with reporter.timer.paused():
            try:
                score = validation.evaluate(
                    self.train_state, lambda: signals.number > 0, reporter.show_evaluation_progress
                )
            except InputError as error:
                # an unreadable image must not end a run of several days
                reporter.print_message(f"Warning: step {self.done}: not evaluated: {error}")
                return True
            if score is None:
                self.save()
                return False
            reporter.log_evaluation(
                self.done, score, best=validation.save_if_best(score, self.train_state, self.position)
            )
        return True

    def has_diverged(self) -> bool:
        """Return True if training cannot recover from a non-finite step; a collective call with the same result."""
        finite = np.array([self.train_state.has_finite_statistics()], dtype=np.int64)
        return self.consecutive_skips >= MAX_CONSECUTIVE_SKIPS or not self.world.all_gather(finite).all()

    def report_nonfinite(
        self, result: StepResult, image_ids: NDArray[np.int64], diverged: bool, reporter: ProgressReporter
    ) -> bool:
        """Print the step and the image ids of a non-finite loss or gradient; return True if training continues."""
        self.skipped_updates += 1
        skip = self.config.training.on_nonfinite == "skip" and not diverged
        what = "gradient" if math.isfinite(result.loss) else "loss"
        ids = ", ".join(str(image_id) for image_id in self.world.all_gather(image_ids))
        problem = f"the {what} is not finite; image ids {ids}"
        if skip:
            reporter.print_message(
                f"Warning: step {self.done}: {problem}; update skipped, {self.skipped_updates} so far"
            )
            reporter.bar.update()
            return True
        advice = "lower training.lr or set training.clip_norm"
        if not self.train_state.has_finite_statistics():
            problem += "; the running statistics of batch normalisation are not finite"
        elif result.overflow:
            advice = "lower training.loss_scale or set training.loss_scale_mode=dynamic"
        reporter.print_message(
            f"Error: step {self.done}: training has diverged: {problem}; {advice}, then continue from the last "
            "checkpoint with --resume"
        )
        return False


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
        shards: folder of the training set.
        out: folder of the run, created if it does not exist.
        resume: resume from the newest undamaged checkpoint in `out`, if there is one.
        device: `auto`, `cpu` or `ascend`.
        signals: stop signals received by this process.
        resume_command: command that resumes the run, printed when it is stopped.
        evaluator: evaluation every `training.eval_every` steps; None for no evaluation.
        init: initial weights of a new run; None for random weights.

    Returns:
        The exit code: 0 finished, or stopped by SIGTERM; 130 stopped by SIGINT; 3 loss or gradients not finite.

    Raises:
        InputError: the training set, the run folder and the recipe do not match, or cannot be used.
    """
    check_run_folder(out, resume)
    world = init_world(device, debug_folder=out / "debug")
    manifest = Manifest.load(shards)
    plan = plan_run(config, manifest.records, world.size)
    position = TrainingPosition(0, manifest.records, hash_shards(manifest), world.size)
    initial = find_initial_state(out, config, position, resume=resume, init=init)
    config, done = initial.config, initial.done
    _check_same_step(done, world, out)
    validation = Validation(out, config, evaluator, plan.total_steps, world)
    evaluate_first = validation.was_missed(done)
    reporter = _create_reporter(out, config, plan, done, world)
    try:
        for message in [*initial.messages, *validation.resume()]:
            reporter.print_message(message)
        if done >= plan.total_steps and not evaluate_first:
            reporter.print_message(
                f"{out}: finished, all {plan.total_steps} steps are done; to train longer, set training.epochs"
            )
            return 0
        run = TrainingRun(config, shards, out, world, plan, position.after(done), validation)
        for message in initial.apply_to(run.train_state):
            reporter.print_message(message)
        return _run_to_end(run, evaluate_first, reporter, signals, resume_command)
    finally:
        reporter.close()


def _create_reporter(out: Path, config: Config, plan: TrainingPlan, done: int, world: World) -> ProgressReporter:
    return ProgressReporter(
        out,
        plan,
        initial_step=done,
        log_every=config.training.log_every,
        images_per_step=samples_per_update(config, world.size),
        enabled=world.rank == 0,
    )


def _run_to_end(
    run: TrainingRun, evaluate_first: bool, reporter: ProgressReporter, signals: StopSignal, resume_command: str
) -> int:
    """Prepare the run folder, train, and print the result; return the exit code."""
    if run.world.rank == 0:
        prepare_run_folder(run.out, run.config, run.done)
    record_session(run.out, run.config, run.shards, run.world, run.done)
    reporter.print_message(_describe_run(run))
    reporter.print_message(_describe_threads(run))
    reason = run.train_loop(reporter, signals, evaluate_first)
    if run.validation.best:
        step, ap = run.validation.best
        reporter.print_message(f"Best: AP {ap:.3f} after step {step}, {best_checkpoint_path(run.out)}")
    if reason is StopReason.STOPPED:
        reporter.print_message(
            f"Stopped after step {run.done} of {run.plan.total_steps}; resume with: {resume_command}"
        )
    return _exit_code(reason, signals, run.world)


def _check_same_step(done: int, world: World, out: Path) -> None:
    """Raise InputError if the processes would not start from the same step; a collective call."""
    steps = world.all_gather(np.array([done], dtype=np.int64)).tolist()
    if len(set(steps)) > 1:
        raise InputError(
            f"{out}: the processes find checkpoints of different steps {steps}; "
            "use a folder on a file system that all machines share"
        )


def _describe_run(run: TrainingRun) -> str:
    world, plan, images = run.world, run.plan, samples_per_update(run.config, run.world.size)
    return (
        f"{count_parameters(run.train_state.network) / 1e6:.1f} M parameters, {run.train_state.precision}, "
        f"{world.size} x {world.device}, {run.position.records} records: {plan.total_steps} steps of {images} images, "
        f"{plan.epochs} epochs"
    )


def _describe_threads(run: TrainingRun) -> str:
    return f"{run.threads} data threads in each of {run.world.local_size} processes, {usable_cores()} cores"


def _exit_code(reason: StopReason, signals: StopSignal, world: World) -> int:
    if reason is StopReason.DIVERGED:
        return EXIT_DIVERGED
    # with several processes, msrun kills the others on any code but 0, while rank 0 may still be saving
    interrupted = reason is StopReason.STOPPED and signals.number == signal.SIGINT and world.size == 1
    return 128 + signal.SIGINT if interrupted else 0
