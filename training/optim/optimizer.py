"""The optimizer: Adam or momentum, with one learning rate for each part of the network."""

from __future__ import annotations

from typing import Any

import mindspore as ms
from mindspore import nn, ops

from training.config import TrainingConfig

PARAMETER_GROUPS = ("backbone", "features", "stages")
"""Parts of the network with a learning rate of their own, in the order of `schedule.group_learning_rates`."""


def build_optimizer(network: nn.Cell, config: TrainingConfig) -> nn.Optimizer:
    """Build Adam (Kingma and Ba, ICLR 2015) or momentum, with weight decay on convolution weights but not on biases.

    A part with learning rate 0 keeps its weights, but its moments are updated. Adam's bias correction counts the steps
    of the whole run, so moments that start at 0 later would make the first updates of the part three times too large.
    """
    groups: list[dict[str, Any]] = []
    for name in PARAMETER_GROUPS:
        parameters = getattr(network, name).trainable_params()
        decayed = [p for p in parameters if p.name.endswith(".conv.weight") or p.name.endswith(".head.weight")]
        others = [p for p in parameters if not any(p is q for q in decayed)]
        groups.append({"params": decayed, "lr": config.lr, "weight_decay": config.weight_decay})
        if others:
            groups.append({"params": others, "lr": config.lr, "weight_decay": 0.0})
    if config.optimizer == "adam":
        return nn.Adam(groups, learning_rate=config.lr, beta1=config.momentum, beta2=config.beta2)
    return nn.Momentum(groups, learning_rate=config.lr, momentum=config.momentum)


def set_learning_rates(optimizer: nn.Optimizer, rates: tuple[float, float, float]) -> None:
    """Set the learning rates of (backbone, features, stages) for the next update.

    This uses ops.assign, because after a graph has run, Parameter.set_data changes the value in Python but not the
    value that the graph reads.
    """
    rate_of_part = dict(zip(PARAMETER_GROUPS, rates, strict=True))
    seen: set[int] = set()
    for parameter, rate in zip(optimizer.parameters, optimizer.learning_rate, strict=True):
        if id(rate) not in seen:
            seen.add(id(rate))
            ops.assign(rate, ms.Tensor(rate_of_part[parameter.name.split(".", 1)[0]], ms.float32))
