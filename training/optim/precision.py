"""Mixed precision: the data types of training and the loss scale for them.

Source: Micikevicius et al., "Mixed Precision Training", ICLR 2018: float16 for convolutions and activations, float32
for weights, normalisation, loss and update. Evaluation and export use float32 only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mindspore as ms
from mindspore import nn

from pipeline.errors import InputError
from training.config import TrainingConfig

FLOAT16_LOSS_SCALE = 16384.0
"""Default loss scale for float16, as in the reference. The loss is a mean over cells, so its gradients are small, and
without a loss scale most of them would underflow to 0 in float16."""


@dataclass(frozen=True)
class Precision:
    """Data type and loss scale of a training step.

    Attributes:
        dtype: data type of convolutions and activations, ms.float16 or ms.bfloat16; None: float32.
        loss_scale: loss scale, or its initial value if it is dynamic.
        loss_scale_window: updates without overflow after which a dynamic loss scale doubles; None: static.
    """

    dtype: Any
    loss_scale: float
    loss_scale_window: int | None

    def __str__(self) -> str:
        name = "float32" if self.dtype is None else f"{str(self.dtype).lower()} with float32 weights"
        if self.loss_scale_window is None and self.loss_scale == 1:
            return name
        kind = "loss scale" if self.loss_scale_window is None else "dynamic loss scale"
        return f"{name}, {kind} {self.loss_scale:g}"


def choose_precision(config: TrainingConfig, device: str) -> Precision:
    """Return the precision of a recipe on a device.

    Args:
        config: the training section of the recipe.
        device: "Ascend" or "CPU".

    Raises:
        InputError: bfloat16 on CPU, for which MindSpore has no convolution.
    """
    level = ("O2" if device == "Ascend" else "O0") if config.amp == "auto" else config.amp
    mixed = level == "O2"
    if mixed and config.amp_dtype == "bfloat16" and device == "CPU":
        raise InputError("training.amp_dtype: bfloat16: MindSpore has no bfloat16 convolution on CPU; use float16")
    float16 = mixed and config.amp_dtype == "float16"
    dynamic = float16 if config.loss_scale_mode == "auto" else config.loss_scale_mode == "dynamic"
    return Precision(
        dtype=getattr(ms, config.amp_dtype) if mixed else None,
        loss_scale=config.loss_scale or (FLOAT16_LOSS_SCALE if float16 else 1.0),
        loss_scale_window=config.loss_scale_window if dynamic else None,
    )


def apply_mixed_precision(network: nn.Cell, precision: Precision) -> nn.Cell:
    """Return the network in this precision; its inputs, outputs, weights and normalisation stay float32."""
    return network if precision.dtype is None else ms.amp.auto_mixed_precision(network, "O2", precision.dtype)
