"""What learns: network, optimizer and step, with all the state that a checkpoint keeps."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import mindspore as ms
import numpy as np

from pipeline.filling import Batch
from training.config import Config
from training.loss import term_names
from training.network import OpenPose
from training.parallel import World
from training.schedule import group_rates
from training.step import TrainStep, build_loss, build_optimizer, set_rates

HOST_INPUTS = ("image", "mask", "heatmaps", "pafs")
DEVICE_INPUTS = ("image", "mask", "keypoints")


@dataclass(frozen=True)
class Outcome:
    """What a step came to, the same in every process.

    Attributes:
        terms: of the loss, by the names in `Learner.term_names`.
        norm: global norm of the gradient before clipping.
        stop: whether any process was asked to stop.
    """

    terms: tuple[float, ...]
    norm: float
    stop: bool

    @property
    def loss(self) -> float:
        """The loss."""
        return sum(self.terms)

    @property
    def finite(self) -> bool:
        """Whether the step could be learnt from."""
        return math.isfinite(self.loss) and math.isfinite(self.norm)


class Learner:
    """A network in training. Comes after `parallel.start`; draws its first weights from the recipe's seed."""

    def __init__(self, config: Config, world: World, total: int) -> None:
        """`total` is the number of updates of the whole run."""
        self.training = config.training
        self.total = total
        self.on_device = _draws_on_device(config, world)
        ms.set_seed(config.training.seed)
        self.network = OpenPose(config.model)
        self.optimizer = build_optimizer(self.network, config.training)
        loss = build_loss(self.network, config, self.on_device)
        self.term_names = term_names(config.model.stages_of("pafs"), config.model.stages_of("heatmaps"))
        self.cell = TrainStep(loss, self.optimizer, config.training, world.size)
        self.cell.set_train()

    def parameters(self) -> Iterable[ms.Parameter]:
        """Everything that a checkpoint keeps."""
        return self.cell.get_parameters()

    def rates(self, done: int) -> tuple[float, float, float]:
        """Learning rates of the parts of the network in the update after `done` updates."""
        return group_rates(done, self.total, self.training)

    def step(self, batch: Batch, done: int, stop: bool) -> Outcome:
        """Learn from one batch, after `done` updates; `stop` says whether this process was asked to stop."""
        set_rates(self.optimizer, self.rates(done))
        names = DEVICE_INPUTS if self.on_device else HOST_INPUTS
        terms, norm, stops = self.cell(ms.Tensor(np.float32(stop)), *(ms.Tensor(batch[name]) for name in names))
        return Outcome(tuple(terms.asnumpy().tolist()), float(norm.asnumpy()), float(stops.asnumpy()) > 0)


def _draws_on_device(config: Config, world: World) -> bool:
    """Where data.targets lets targets be drawn in this world."""
    return world.targets_on_device if config.data.targets == "auto" else config.data.targets == "device"
