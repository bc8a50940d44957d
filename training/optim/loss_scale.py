"""The factor on the loss that keeps small gradients above float16's smallest number, and what it does on overflow."""

from __future__ import annotations

import mindspore as ms
from mindspore import nn

from training.optim.precision import Precision

FACTOR = 2


class LossScale(nn.Cell):
    """Static, or dynamic: halved by an update whose gradients overflow, but not below 1, doubled after `window` others.

    Gives the scale, a float32 scalar.
    """

    def __init__(self, precision: Precision) -> None:
        super().__init__(auto_prefix=False)
        self.static = ms.Tensor(precision.scale, ms.float32)
        self.dynamic = precision.window is not None
        if precision.window is not None:
            self.scaler = ms.amp.DynamicLossScaler(precision.scale, FACTOR, precision.window)
            # registered here, so that they are part of the cell's state; a Parameter's name is the checkpoint's key
            self.value, self.good = self.scaler.scale_value, self.scaler.counter
            self.value.name, self.good.name = "loss_scale.value", "loss_scale.good_updates"
            self.value.requires_grad = self.good.requires_grad = False

    def construct(self) -> ms.Tensor:
        return self.value if self.dynamic else self.static

    def adjust(self, finite: ms.Tensor) -> ms.Tensor:
        """Take note of an update: `finite`, a bool scalar, says whether its gradients were."""
        if self.dynamic:
            self.scaler.adjust(finite)
        return finite
