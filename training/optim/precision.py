"""Which numbers the network computes with in training, and by how much its loss is scaled to suit them.

Source: Micikevicius et al., "Mixed Precision Training", ICLR 2018: float16 where the time goes, float32 for weights,
normalisation, loss and update. Evaluation and export are float32 throughout.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mindspore as ms
from mindspore import nn

from pipeline.errors import InputError
from training.config import TrainingConfig

FLOAT16_SCALE = 16384.0
"""Loss scale for float16 where the recipe has none, the reference's: gradients of our loss are small, as it is a mean
over cells, and most would be 0 in float16."""


@dataclass(frozen=True)
class Precision:
    """How a device computes a training step.

    Attributes:
        dtype: of convolutions and activations in training, float16 or bfloat16; None: float32.
        scale: of the loss; at first, if it is dynamic.
        window: updates without overflow after which a dynamic scale doubles; None: it is static.
    """

    dtype: Any
    scale: float
    window: int | None

    def __str__(self) -> str:
        name = "float32" if self.dtype is None else f"{str(self.dtype).lower()} with float32 weights"
        if self.window is None and self.scale == 1:
            return name
        return f"{name}, {'loss' if self.window is None else 'dynamic loss'} scale {self.scale:g}"


def choose_precision(config: TrainingConfig, device: str) -> Precision:
    """What the recipe asks for on a device, Ascend or CPU.

    Raises:
        InputError: bfloat16 on CPU, where MindSpore has no convolution for it.
    """
    level = ("O2" if device == "Ascend" else "O0") if config.amp == "auto" else config.amp
    low = level == "O2"
    if low and config.amp_dtype == "bfloat16" and device == "CPU":
        raise InputError(
            "training.amp_dtype: bfloat16: MindSpore computes no bfloat16 convolution on CPU; take float16"
        )
    half = low and config.amp_dtype == "float16"
    dynamic = half if config.loss_scale_mode == "auto" else config.loss_scale_mode == "dynamic"
    return Precision(
        dtype=getattr(ms, config.amp_dtype) if low else None,
        scale=config.loss_scale or (FLOAT16_SCALE if half else 1.0),
        window=config.loss_scale_window if dynamic else None,
    )


def apply_mixed_precision(network: nn.Cell, precision: Precision) -> nn.Cell:
    """The network as training runs it: what it is given and gives, its weights and normalisation stay float32."""
    return network if precision.dtype is None else ms.amp.auto_mixed_precision(network, "O2", precision.dtype)
