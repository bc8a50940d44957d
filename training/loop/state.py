"""What learns: network, optimizer and step, with all the state that a checkpoint keeps."""

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
DEVICE_INPUTS = ("image", "mask", "keypoints")


@dataclass(frozen=True)
class StepResult:
    """What a step came to, the same in every process.

    Attributes:
        terms: of the loss, by the names in `TrainState.term_names`.
        norm: global norm of the gradient before clipping.
        finite: whether loss and gradient were, so that the step was learnt from.
        scale: of the loss in this step.
        stop: whether any process was asked to stop.
    """

    terms: tuple[float, ...]
    norm: float
    finite: bool
    scale: float
    stop: bool

    @property
    def loss(self) -> float:
        """The loss."""
        return sum(self.terms)

    @property
    def overflow(self) -> bool:
        """Whether the step was left out for a gradient that a lower loss scale may bring within the numbers' range."""
        return not self.finite and math.isfinite(self.loss) and self.scale > 1


class TrainState:
    """A network in training, with the optimizer and step; create it after `training.distributed.world.init_world`."""

    def __init__(self, config: Config, world: World, total: int) -> None:
        """`total` is the number of updates of the whole run; InputError if the device lacks the recipe's precision."""
        self.config = config
        self.training = config.training
        self.total = total
        self.on_device = _draws_on_device(config, world)
        self.precision = choose_precision(config.training, world.device)
        ms.set_seed(config.training.seed)
        self.network = OpenPose(config.model)
        self.term_names = term_names(config.model.num_stages("pafs"), config.model.num_stages("heatmaps"))
        self.optimizer = build_optimizer(self.network, config.training)
        self.average = WeightAverage(self.network) if config.training.ema_decay else None
        self.scale = LossScale(self.precision)
        loss = build_loss(apply_mixed_precision(self.network, self.precision), config, self.on_device)
        low = self.precision.dtype is not None
        gradients = ComputeGradients(loss, self.optimizer.parameters, self.scale, low_precision=low)
        update = ApplyGradients(self.optimizer, self.scale, self.average, config.training, world.size)
        self._gathered = 0
        if config.training.accumulate == 1:
            self._train = TrainStep(gradients, update).set_train()
        else:
            self._gather = AccumulateGradients(gradients, self.optimizer.parameters, len(self.term_names)).set_train()
            self._update = ApplyAccumulatedGradients(self._gather, update)

    def parameters(self) -> Iterable[ms.Parameter]:
        """Everything that a checkpoint keeps: weights, optimizer, average of weights, dynamic loss scale."""
        cells = [self.network, self.optimizer, self.scale, *([self.average] if self.average else [])]
        return {id(each): each for cell in cells for each in cell.get_parameters()}.values()

    def restore(self, checkpoint: Checkpoint) -> None:
        """Take over a checkpoint's state, before the first step; InputError names what does not fit.

        Where the recipe wants an average of weights only now, that begins with the weights; a dynamic loss scale does
        with the recipe's.
        """
        tensors = {parameter.name: parameter for parameter in self.scale.get_parameters()} | checkpoint.tensors
        if not checkpoint.has_weight_average:
            tensors |= {f"{AVERAGE_PREFIX}{name}": tensor for name, tensor in checkpoint.tensors.items()}
        restore_parameters(self.parameters(), tensors, checkpoint.path)

    def load_weights(self, weights: Checkpoint, allow_missing: Sequence[str]) -> list[str]:
        """Copy only the weights of a checkpoint; arguments and errors as `apply_initial_weights`."""
        said = apply_initial_weights(self.network.get_parameters(), weights, self.config.model, allow_missing)
        if self.average:
            for average, value in zip(self.average.averages, self.average.values, strict=True):
                average.set_data(ms.Tensor(value.asnumpy()))
        return said

    def inference_weights(self) -> dict[str, ms.Parameter]:
        """The weights to evaluate, by the names that the network gives them: their average, if there is one."""
        parameters = self.average.averages if self.average else self.network.get_parameters()
        return {parameter.name.removeprefix(AVERAGE_PREFIX): parameter for parameter in parameters}

    def has_finite_statistics(self) -> bool:
        """Whether what this process counts on the way is finite.

        Batch normalisation's running statistics move with every batch, also where the update is left out.
        """
        return all(np.isfinite(parameter.asnumpy()).all() for parameter in self.network.untrainable_params())

    def rates(self, done: int) -> tuple[float, float, float]:
        """Learning rates of the parts of the network in the update after `done` updates."""
        return group_learning_rates(done, self.total, self.training)

    def step(self, batch: Batch, done: int, stop: bool) -> StepResult | None:
        """Learn from one batch, after `done` updates.

        Args:
            batch: as `pipeline.loading.batches` gives it.
            done: updates done.
            stop: whether this process was asked to stop.

        Returns:
            What the update came to; None if it takes more batches.
        """
        names = DEVICE_INPUTS if self.on_device else HOST_INPUTS
        inputs = [ms.Tensor(batch[name]) for name in names]
        self._gathered += 1
        if self._gathered < self.training.accumulate:
            self._gather(*inputs)
            return None
        self._gathered = 0
        set_learning_rates(self.optimizer, self.rates(done))
        facts = [ms.Tensor(np.float32(fact)) for fact in (stop, ema_decay(done, self.training))]
        if self.training.accumulate == 1:
            answer = self._train(*facts, *inputs)
        else:
            self._gather(*inputs)
            answer = self._update(*facts)
        terms, norm, finite, scale, stops = (each.asnumpy().tolist() for each in answer)
        return StepResult(tuple(terms), norm, finite > 0, scale, stops > 0)


def _draws_on_device(config: Config, world: World) -> bool:
    """Where data.targets lets targets be drawn in this world."""
    return world.targets_on_device if config.data.targets == "auto" else config.data.targets == "device"
