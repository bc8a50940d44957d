"""Static and dynamic loss scale: a factor on the loss that keeps small gradients from underflow in float16."""

from __future__ import annotations

import mindspore as ms
from mindspore import nn

from training.optim.precision import Precision

SCALE_FACTOR = 2
"""Factor by which a dynamic loss scale is halved or doubled."""


class LossScale(nn.Cell):
    """Static or dynamic loss scale; `construct` returns the current scale, a float32 scalar.

    A dynamic scale is halved when the gradients of an update overflow, but not below 1, and doubled after
    `Precision.loss_scale_window` updates without overflow.
    """

    def __init__(self, precision: Precision) -> None:
        super().__init__(auto_prefix=False)
        self.static = ms.Tensor(precision.loss_scale, ms.float32)
        self.dynamic = precision.loss_scale_window is not None
        if precision.loss_scale_window is not None:
            self.scaler = ms.amp.DynamicLossScaler(precision.loss_scale, SCALE_FACTOR, precision.loss_scale_window)
            # assigned here so that they are parameters of this cell; the name of a Parameter is its key in a checkpoint
            self.value, self.good = self.scaler.scale_value, self.scaler.counter
            self.value.name, self.good.name = "loss_scale.value", "loss_scale.good_updates"
            self.value.requires_grad = self.good.requires_grad = False

    def construct(self) -> ms.Tensor:
        return self.value if self.dynamic else self.static

    def adjust(self, finite: ms.Tensor) -> ms.Tensor:
        """Adjust a dynamic scale after an update; `finite` is a bool scalar, False if loss or gradients were not."""
        if self.dynamic:
            self.scaler.adjust(finite)
        return finite
