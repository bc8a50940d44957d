"""One training run in one process: the loop over epochs and steps, and what it keeps on disk."""

from __future__ import annotations

import math
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import mindspore as ms
import numpy as np
import yaml

from pipeline.batches import Batch, create_batches
from pipeline.errors import InputError
from pipeline.manifest import Manifest
from training.callbacks import Reporter, StopSignal, trim_metrics
from training.checkpoint import checkpoints, find_checkpoint, load_checkpoint, restore, save_checkpoint
from training.config import Config
from training.network import OpenPose, count_parameters
from training.parallel import World, start
from training.schedule import group_rates
from training.step import TrainStep, build_loss, build_optimizer, set_rates

HOST_INPUTS = ("image", "mask", "heatmaps", "pafs")
DEVICE_INPUTS = ("image", "mask", "keypoints")
DIVERGED = 3
"""Exit code of a run whose loss is not finite."""


@dataclass(frozen=True)
class Plan:
    """How long a run is.

    Attributes:
        epoch_steps: updates in one epoch.
        total: updates in the whole run.
    """

    epoch_steps: int
    total: int

    @property
    def epochs(self) -> int:
        """Epochs begun in the run."""
        return math.ceil(self.total / self.epoch_steps)


def plan_run(config: Config, records: int, processes: int) -> Plan:
    """Count the updates; InputError if the set does not fill one batch of every process."""
    step_records = config.training.batch_size * processes
    epoch_steps = records // step_records
    if epoch_steps == 0:
        raise InputError(
            f"training.batch_size: {config.training.batch_size} on {processes} processes takes {step_records} records "
            f"a step, but the training set has {records}"
        )
    total = config.training.epochs * epoch_steps
    return Plan(epoch_steps, min(total, config.training.max_steps or total))


def draws_on_device(config: Config, world: World) -> bool:
    """Where data.targets lets targets be drawn in this world."""
    return world.targets_on_device if config.data.targets == "auto" else config.data.targets == "device"


class Run:
    """A network in training, its data and its folder."""

    def __init__(self, config: Config, shards: Path, out: Path, world: World) -> None:
        self.config = config
        self.shards = shards
        self.out = out
        self.world = world
        self.records = Manifest.load(shards).records
        self.plan = plan_run(config, self.records, world.size)
        self.on_device = draws_on_device(config, world)
        ms.set_seed(config.training.seed)
        self.network = OpenPose(config.model)
        self.optimizer = build_optimizer(self.network, config.training)
        loss = build_loss(self.network, config, self.on_device)
        self.cell = TrainStep(loss, self.optimizer, config.training, world.size)
        self.cell.set_train()
        self.done = 0

    def restore(self) -> None:
        """Go on from the newest checkpoint of the folder."""
        checkpoint = load_checkpoint(find_checkpoint(self.out))
        here = (self.records, self.world.size)
        if (checkpoint.records, checkpoint.processes) != here:
            raise InputError(
                f"{checkpoint.path}: trained on {checkpoint.records} records by {checkpoint.processes} processes, now "
                f"{here[0]} by {here[1]}: resume with the same shards and NPROC"
            )
        restore(self.cell, checkpoint.tensors, checkpoint.path)
        self.done = checkpoint.step

    def save(self) -> None:
        """Write a checkpoint of the steps done; the ranks hold the same weights, so one of them does it."""
        if self.world.rank == 0:
            save_checkpoint(
                self.out,
                self.cell.get_parameters(),
                self.config,
                step=self.done,
                records=self.records,
                processes=self.world.size,
                keep=self.config.training.keep,
            )

    def batches(self) -> Iterator[tuple[int, Batch]]:
        """What is left of the run's batches, each with its epoch."""
        data = self.config.data
        first, start = divmod(self.done, self.plan.epoch_steps)
        for epoch in range(first, self.plan.epochs):
            batches = create_batches(
                self.shards,
                size=data.size,
                batch_size=self.config.training.batch_size,
                max_people=data.max_people,
                seed=self.config.training.seed,
                epoch=epoch,
                rank=self.world.rank,
                ranks=self.world.size,
                threads=data.threads,
                augment=data.augment,
                targets=None if self.on_device else data.target,
                start=start if epoch == first else 0,
            )
            for batch in batches:
                yield epoch, batch

    def step(self, batch: Batch, stop: bool) -> tuple[float, bool]:
        """Learn from one batch; returns the loss and whether any process was asked to stop."""
        rates = group_rates(self.done, self.plan.total, self.config.training)
        set_rates(self.optimizer, rates)
        names = DEVICE_INPUTS if self.on_device else HOST_INPUTS
        loss, norm, stops = self.cell(ms.Tensor(np.float32(stop)), *(ms.Tensor(batch[name]) for name in names))
        self.done += 1
        return float((loss + 0 * norm).asnumpy()), float(stops.asnumpy()) > 0

    def loop(self, reporter: Reporter, signals: StopSignal) -> int:
        """Train to the end, or until a signal; returns the exit code."""
        training = self.config.training
        for epoch, batch in reporter.stopwatch.waiting(self.batches()):
            if self.done >= self.plan.total:
                break
            loss, stop = self.step(batch, signals.number > 0)
            if not math.isfinite(loss):
                images = ", ".join(str(image) for image in batch["image_id"])
                reporter.say(f"Error: step {self.done}: the loss is not finite; images {images}; lower training.lr")
                return DIVERGED
            end = self.done == self.plan.total
            rate = group_rates(self.done - 1, self.plan.total, training)[-1]
            log = self.done % training.log_every == 0 or end
            reporter.update(step=self.done, epoch=epoch, loss=loss, lr=rate, log=log)
            if stop or end or self.done % training.checkpoint_every == 0:
                self.save()
            if stop and not end:
                reporter.say(f"Stopped after step {self.done}; go on with: make train RUN={self.out} RESUME=1")
                return 128 + signal.SIGINT if signals.number == signal.SIGINT else 0
        return 0


def train(config: Config, shards: Path, out: Path, *, resume: bool, device: str) -> int:
    """Train in this process, which may be one of several that msrun started.

    Args:
        config: the recipe.
        shards: the training set.
        out: folder of the run, made if need be.
        resume: go on from the newest checkpoint in `out`.
        device: auto, cpu or ascend.

    Returns:
        The exit code: 0 finished, or stopped by SIGTERM; 130 stopped by SIGINT; 3 the loss is not finite.

    Raises:
        InputError: what was given does not fit together.
    """
    world = start(device, debug_folder=out / "debug")
    run = Run(config, shards, out, world)
    if resume:
        run.restore()
    if world.rank == 0:
        _prepare_folder(run, resume)
    signals = StopSignal()
    reporter = Reporter(
        out,
        first=run.done,
        total=run.plan.total,
        epochs=run.plan.epochs,
        images_per_step=config.training.batch_size * world.size,
        speaks=world.rank == 0,
    )
    reporter.say(
        f"{count_parameters(run.network) / 1e6:.1f} M parameters, {world.size} x {world.device}, {run.records} records: "
        f"{run.plan.total} steps of {config.training.batch_size * world.size} images, {run.plan.epochs} epochs"
    )
    try:
        return run.loop(reporter, signals)
    finally:
        reporter.close()


def _prepare_folder(run: Run, resume: bool) -> None:
    """Make the run's folder ready, without losing a run that is in it already."""
    if not resume and checkpoints(run.out):
        raise InputError(f"{run.out}: holds a run already; go on with RESUME=1, or choose another folder or remove it")
    run.out.mkdir(parents=True, exist_ok=True)
    trim_metrics(run.out, run.done)
    text = yaml.safe_dump(run.config.model_dump(mode="json"), sort_keys=False)
    (run.out / "config.yaml").write_text(text, encoding="utf-8")
