"""Learning rates and the decay of the averaged weights, as pure functions of the step."""

from __future__ import annotations

import math

from training.config import TrainingConfig


def learning_rate(step: int, total: int, config: TrainingConfig) -> float:
    """Return the learning rate of the stages at a step.

    Args:
        step: 0 for the first update.
        total: number of updates of the run; only the cosine schedule uses it.
        config: learning rate, warm-up and schedule.
    """
    # 1. warm-up: linear up to lr, reached by the last warm-up step
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    # 2. cosine: from lr down to 0 at the end of the run
    if config.schedule == "cosine":
        progress = (step - config.warmup_steps) / max(1, total - config.warmup_steps)
        return config.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    # 3. steps: multiply by lr_decay at each of lr_steps
    return config.lr * config.lr_decay ** sum(step >= boundary for boundary in config.lr_steps)


def group_learning_rates(step: int, total: int, config: TrainingConfig) -> tuple[float, float, float]:
    """Return the learning rates of (backbone, features, stages) at a step; that of a frozen backbone is 0."""
    rate = learning_rate(step, total, config)
    frozen = step < config.freeze_backbone_steps
    return (0.0 if frozen else rate * config.backbone_lr_factor, rate * config.feature_lr_factor, rate)


def ema_decay(step: int, config: TrainingConfig) -> float:
    """Return the decay of the moving average of the weights at a step; 0 if the recipe has no average.

    The decay rises from 0 at the first step to `ema_decay`, so that the poor first weights soon lose their influence:
    the warm-up of TensorFlow's ExponentialMovingAverage.
    """
    return min(config.ema_decay or 0.0, step / (9 + step))
