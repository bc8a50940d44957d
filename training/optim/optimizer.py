"""What updates the weights: Adam or momentum, each part of the network at its own rate."""

from __future__ import annotations

from typing import Any

import mindspore as ms
from mindspore import nn, ops

from training.config import TrainingConfig

PARAMETER_GROUPS = ("backbone", "features", "stages")
"""Parts of the network that learn at their own rates, in the order of `schedule.group_learning_rates`."""


def build_optimizer(network: nn.Cell, config: TrainingConfig) -> nn.Optimizer:
    """Adam (Kingma and Ba, ICLR 2015) or momentum, one group of parameters a part; weights alone decay, not biases.

    A part whose rate is 0 stays as it is, but its moments go on: Adam's correction for their start counts the steps of
    the whole run, so that moments which began at 0 later would make its first updates three times too large.
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
    """Give each part of the network its learning rate for the next update.

    By ops.assign: once a graph has run, Parameter.set_data changes what Python sees and not what the graph reads.
    """
    by_part = dict(zip(PARAMETER_GROUPS, rates, strict=True))
    seen: set[int] = set()
    for parameter, rate in zip(optimizer.parameters, optimizer.learning_rate, strict=True):
        if id(rate) not in seen:
            seen.add(id(rate))
            ops.assign(rate, ms.Tensor(by_part[parameter.name.split(".", 1)[0]], ms.float32))
