"""An exponential moving average of the weights, with which a trained network answers.

Source: Polyak and Juditsky, "Acceleration of stochastic approximation by averaging", 1992, in the exponential form of
TensorFlow's ExponentialMovingAverage, whose warm-up `schedule.ema_decay` follows.
"""

from __future__ import annotations

import mindspore as ms
from mindspore import nn, ops

AVERAGE_PREFIX = "ema."
"""Before the name of a weight: the name of its average, in checkpoints too."""


class WeightAverage(nn.Cell):
    """Moves the average of everything in a network towards its present values.

    The running statistics of batch normalisation are averaged with the weights: they describe the activations of the
    weights that made them, and those of the present weights are not those of the average ones.

    Takes `decay`, a float32 scalar: the part of the average that stays. Gives nothing of use.
    """

    def __init__(self, network: nn.Cell) -> None:
        super().__init__(auto_prefix=False)
        self.values = ms.ParameterTuple(network.get_parameters())
        self.averages = self.values.clone(AVERAGE_PREFIX.rstrip("."))
        for average in self.averages:
            average.requires_grad = False

    def construct(self, decay: ms.Tensor) -> ms.Tensor:
        for average, value in zip(self.averages, self.values):  # noqa: B905  # a graph knows no strict
            ops.assign(average, value + (average - value) * decay)
        return decay
