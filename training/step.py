"""One training step as one graph: loss, gradients, all-reduce, clipping, update."""

from __future__ import annotations

from typing import Any

import mindspore as ms
from mindspore import nn, ops

from training.config import Config, TrainingConfig
from training.loss import LossFromKeypoints, LossFromMaps
from training.network import OpenPose
from training.targets import RenderTargets

GROUPS = ("backbone", "features", "stages")
"""Parts of the network that learn at their own rates, in the order of `schedule.group_rates`."""


def build_loss(network: OpenPose, config: Config, targets_on_device: bool) -> nn.Cell:
    """The network with its loss, for batches with targets or, if they are drawn on the device, with keypoints."""
    if not targets_on_device:
        return LossFromMaps(network)
    size = (config.data.size, config.data.size)
    return LossFromKeypoints(network, RenderTargets(size, config.data.target))


def build_optimizer(network: OpenPose, config: TrainingConfig) -> nn.Optimizer:
    """Adam (Kingma and Ba, ICLR 2015) or momentum, one group of parameters a part; weights alone decay, not biases.

    A part whose rate is 0 stays as it is, but its moments go on: Adam's correction for their start counts the steps of
    the whole run, so that moments which began at 0 later would make its first updates three times too large.
    """
    groups: list[dict[str, Any]] = []
    for name in GROUPS:
        parameters = getattr(network, name).trainable_params()
        decayed = [p for p in parameters if p.name.endswith(".conv.weight") or p.name.endswith(".head.weight")]
        others = [p for p in parameters if not any(p is q for q in decayed)]
        groups.append({"params": decayed, "lr": config.lr, "weight_decay": config.weight_decay})
        if others:
            groups.append({"params": others, "lr": config.lr, "weight_decay": 0.0})
    if config.optimizer == "adam":
        return nn.Adam(groups, learning_rate=config.lr, beta1=config.momentum, beta2=config.beta2)
    return nn.Momentum(groups, learning_rate=config.lr, momentum=config.momentum)


def set_rates(optimizer: nn.Optimizer, rates: tuple[float, float, float]) -> None:
    """Give each part of the network its learning rate for the next update.

    By ops.assign: once a graph has run, Parameter.set_data changes what Python sees and not what the graph reads.
    """
    by_part = dict(zip(GROUPS, rates, strict=True))
    seen: set[int] = set()
    for parameter, rate in zip(optimizer.parameters, optimizer.learning_rate, strict=True):
        if id(rate) not in seen:
            seen.add(id(rate))
            ops.assign(rate, ms.Tensor(by_part[parameter.name.split(".", 1)[0]], ms.float32))


class TrainStep(nn.Cell):
    """A batch to its loss, with the weights updated on the way.

    The loss is scaled up before differentiation and the gradients down after it, then averaged over processes, then
    clipped to a global norm. A step whose gradients are not finite changes no weight.

    Takes `stop`, a float32 scalar that is above 0 where this process was asked to stop, and then what the loss takes.
    Returns float32, the same on every process: the loss's terms (T,) averaged over processes, the global norm of the
    gradients before clipping, and the sum of `stop`, so that all processes stop after the same step.
    """

    def __init__(self, loss: nn.Cell, optimizer: nn.Optimizer, config: TrainingConfig, processes: int) -> None:
        super().__init__(auto_prefix=False)
        self.loss = loss
        self.optimizer = optimizer
        self.weights = optimizer.parameters
        self.scale = config.loss_scale
        self.clip_norm = config.clip_norm
        self.processes = processes
        self.value_and_grad = ms.value_and_grad(self.scaled_loss, None, self.weights, has_aux=True)
        if processes > 1:
            self.reduce_gradients = nn.DistributedGradReducer(self.weights, mean=True, degree=processes)
            self.reduce = ops.AllReduce()

    def scaled_loss(self, *batch: ms.Tensor) -> tuple[ms.Tensor, ms.Tensor]:
        terms = self.loss(*batch)  # (T,)
        return ops.sum(terms) * self.scale, terms

    def construct(self, stop: ms.Tensor, *batch: ms.Tensor) -> tuple[ms.Tensor, ms.Tensor, ms.Tensor]:
        (_, terms), gradients = self.value_and_grad(*batch)
        if self.processes > 1:
            gradients = self.reduce_gradients(gradients)
            shared = self.reduce(ops.cat((terms, ops.reshape(stop, (1,)))))
            terms, stop = shared[:-1] / self.processes, shared[-1]
        norm = self.global_norm(gradients)
        factor = ms.Tensor(1.0 / self.scale, ms.float32)
        if self.clip_norm is not None:
            factor = factor * ops.minimum(ms.Tensor(1.0, ms.float32), self.clip_norm / (norm + 1e-6))
        if ops.isfinite(norm):
            updates = ()
            for gradient in gradients:
                updates += (gradient * factor,)  # type: ignore[assignment]  # a graph knows no list of tensors
            terms = ops.depend(terms, self.optimizer(updates))
        return terms, norm, stop

    def global_norm(self, gradients: tuple[ms.Tensor, ...]) -> ms.Tensor:
        squares = ms.Tensor(0.0, ms.float32)
        for gradient in gradients:
            unscaled = gradient.astype(ms.float32) / self.scale
            squares = squares + ops.sum(unscaled * unscaled)
        return ops.sqrt(squares)
