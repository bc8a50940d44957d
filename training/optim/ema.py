"""Exponential moving average of the weights, which evaluation and export use instead of the weights.

Source: Polyak and Juditsky, "Acceleration of stochastic approximation by averaging", 1992, in the exponential form of
TensorFlow's ExponentialMovingAverage; `schedule.ema_decay` has its warm-up.
"""

from __future__ import annotations

import mindspore as ms
from mindspore import nn, ops

AVERAGE_PREFIX = "ema."
"""Prefix of the name of a weight that gives the name of its average, in checkpoints too."""


class WeightAverage(nn.Cell):
    """Update the moving average of all parameters of a network: average = decay * average + (1 - decay) * value.

    The running statistics of batch normalisation are averaged too, because the statistics of the current weights do not
    describe the activations of the averaged weights.

    Takes `decay`, a float32 scalar, and returns it, so that `ops.depend` can order the update in a graph.
    """

    def __init__(self, network: nn.Cell) -> None:
        super().__init__(auto_prefix=False)
        self.values = ms.ParameterTuple(network.get_parameters())
        self.averages = self.values.clone(AVERAGE_PREFIX.rstrip("."))
        for average in self.averages:
            average.requires_grad = False

    def construct(self, decay: ms.Tensor) -> ms.Tensor:
        for average, value in zip(self.averages, self.values):  # noqa: B905  # graph mode has no strict
            ops.assign(average, value + (average - value) * decay)
        return decay
