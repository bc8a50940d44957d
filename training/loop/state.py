"""Training state: network, optimizer and training step, with every parameter that a checkpoint stores."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import mindspore as ms
import numpy as np

from pipeline.loading.collate import Batch
from training.checkpoint.checkpoint import Checkpoint, restore_parameters
from training.config import Config
from training.distributed.world import World
from training.loss.loss import term_names
from training.network.openpose import OpenPose
from training.optim.ema import AVERAGE_PREFIX, WeightAverage
from training.optim.loss_scale import LossScale
from training.optim.optimizer import build_optimizer, set_learning_rates
from training.optim.precision import apply_mixed_precision, choose_precision
from training.optim.schedule import ema_decay, group_learning_rates
from training.optim.step import (
    AccumulateGradients,
    ApplyAccumulatedGradients,
    ApplyGradients,
    ComputeGradients,
    TrainStep,
    build_loss,
)
from training.weights.initial_weights import apply_initial_weights

HOST_INPUTS = ("image", "mask", "heatmaps", "pafs")
"""Arrays of a batch that the step takes if targets are rendered on the host."""
DEVICE_INPUTS = ("image", "mask", "keypoints")
"""Arrays of a batch that the step takes if targets are rendered on the device."""


@dataclass(frozen=True)
class StepResult:
    """Result of an update, the same in every process.

    Attributes:
        terms: terms of the loss, in the order of `TrainState.term_names`.
        gradient_norm: global norm of the gradients before clipping.
        finite: True if loss and gradients were finite, so that the weights were updated.
        loss_scale: loss scale of this update.
        stop: True if any process was requested to stop.
    """

    terms: tuple[float, ...]
    gradient_norm: float
    finite: bool
    loss_scale: float
    stop: bool

    @property
    def loss(self) -> float:
        """Sum of the terms."""
        return sum(self.terms)

    @property
    def overflow(self) -> bool:
        """True if the update was skipped because of an overflow in the gradients that a lower loss scale may avoid."""
        return not self.finite and math.isfinite(self.loss) and self.loss_scale > 1


class TrainState:
    """A network in training, with the optimizer and step; create it after `training.distributed.world.init_world`."""

    def __init__(self, config: Config, world: World, total_steps: int) -> None:
        """Create the network with random weights from the seed of the recipe.

        Args:
            config: the recipe.
            world: Device, rank and world size of this process.
            total_steps: number of updates in the whole run, for the learning rate schedule.

        Raises:
            InputError: the device does not support the precision of the recipe.
        """
        self.config = config
        self.training = config.training
        self.total_steps = total_steps
        self.targets_on_device = _renders_targets_on_device(config, world)
        self.precision = choose_precision(config.training, world.device)
        ms.set_seed(config.training.seed)
        self.network = OpenPose(config.model)
        self.term_names = term_names(config.model.num_stages("pafs"), config.model.num_stages("heatmaps"))
        self.optimizer = build_optimizer(self.network, config.training)
        self.weight_average = WeightAverage(self.network) if config.training.ema_decay else None
        self.loss_scale = LossScale(self.precision)
        loss = build_loss(apply_mixed_precision(self.network, self.precision), config, self.targets_on_device)
        low_precision = self.precision.dtype is not None
        gradients = ComputeGradients(loss, self.optimizer.parameters, self.loss_scale, low_precision=low_precision)
        update = ApplyGradients(self.optimizer, self.loss_scale, self.weight_average, config.training, world.size)
        self._accumulated_batches = 0
        if config.training.accumulate == 1:
            self._train_step = TrainStep(gradients, update).set_train()
        else:
            self._accumulate = AccumulateGradients(
                gradients, self.optimizer.parameters, len(self.term_names)
            ).set_train()
            self._update = ApplyAccumulatedGradients(self._accumulate, update)

    def parameters(self) -> Iterable[ms.Parameter]:
        """Return every parameter that a checkpoint stores: weights, optimizer, averaged weights, dynamic loss scale."""
        cells = [self.network, self.optimizer, self.loss_scale, *([self.weight_average] if self.weight_average else [])]
        return {id(parameter): parameter for cell in cells for parameter in cell.get_parameters()}.values()

    def restore(self, checkpoint: Checkpoint) -> None:
        """Copy the state of a checkpoint, before the first step; InputError if a tensor does not fit.

        The recipe may enable averaged weights or a dynamic loss scale that the checkpoint does not have. The averages
        then start from the weights, and the loss scale starts from the value in the recipe.
        """
        tensors = {parameter.name: parameter for parameter in self.loss_scale.get_parameters()} | checkpoint.tensors
        if not checkpoint.has_weight_average:
            tensors |= {f"{AVERAGE_PREFIX}{name}": tensor for name, tensor in checkpoint.tensors.items()}
        restore_parameters(self.parameters(), tensors, checkpoint.path)

    def load_weights(self, weights: Checkpoint, allow_missing: Sequence[str]) -> list[str]:
        """Copy only the weights of a checkpoint. Arguments, result and errors are those of `apply_initial_weights`."""
        messages = apply_initial_weights(self.network.get_parameters(), weights, self.config.model, allow_missing)
        if self.weight_average:
            for average, value in zip(self.weight_average.averages, self.weight_average.values, strict=True):
                average.set_data(ms.Tensor(value.asnumpy()))
        return messages

    def inference_weights(self) -> dict[str, ms.Parameter]:
        """Return the averaged weights if enabled, else the weights, by parameter name of the network."""
        parameters = self.weight_average.averages if self.weight_average else self.network.get_parameters()
        return {parameter.name.removeprefix(AVERAGE_PREFIX): parameter for parameter in parameters}

    def has_finite_statistics(self) -> bool:
        """Return True if the running statistics of batch normalisation are finite in this process.

        The forward pass of every batch changes them, even if the update is skipped.
        """
        return all(np.isfinite(parameter.asnumpy()).all() for parameter in self.network.untrainable_params())

    def learning_rates(self, done: int) -> tuple[float, float, float]:
        """Return the learning rate of each of `PARAMETER_GROUPS` for the update after `done` updates."""
        return group_learning_rates(done, self.total_steps, self.training)

    def step(self, batch: Batch, done: int, stop: bool) -> StepResult | None:
        """Train on one batch.

        Args:
            batch: arrays by name, as from `pipeline.loading.batches`.
            done: number of updates done so far.
            stop: True if this process was requested to stop.

        Returns:
            The result of the update; None if the update needs further batches (gradient accumulation).
        """
        names = DEVICE_INPUTS if self.targets_on_device else HOST_INPUTS
        inputs = [ms.Tensor(batch[name]) for name in names]
        self._accumulated_batches += 1
        if self._accumulated_batches < self.training.accumulate:
            self._accumulate(*inputs)
            return None
        self._accumulated_batches = 0
        set_learning_rates(self.optimizer, self.learning_rates(done))
        scalars = [ms.Tensor(np.float32(value)) for value in (stop, ema_decay(done, self.training))]
        if self.training.accumulate == 1:
            outputs = self._train_step(*scalars, *inputs)
        else:
            self._accumulate(*inputs)
            outputs = self._update(*scalars)
        terms, norm, finite, loss_scale, stops = (output.asnumpy().tolist() for output in outputs)
        return StepResult(tuple(terms), norm, finite > 0, loss_scale, stops > 0)


def _renders_targets_on_device(config: Config, world: World) -> bool:
    """Return True if the option data.targets selects rendering the training targets on the device."""
    return world.targets_on_device if config.data.targets == "auto" else config.data.targets == "device"
