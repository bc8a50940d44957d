"""Learning rates, and the decay of averaged weights, as pure functions of the step."""

from __future__ import annotations

import math

from training.config import TrainingConfig


def learning_rate(step: int, total: int, config: TrainingConfig) -> float:
    """Learning rate of the stages at a step.

    Args:
        step: 0 for the first update.
        total: number of updates of the run; only the cosine needs it.
        config: rate, warm-up and schedule.
    """
    # 1. warm-up: a line that reaches lr at warmup_steps
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    # 2. cosine: from lr to 0 at the end of the run
    if config.schedule == "cosine":
        progress = (step - config.warmup_steps) / max(1, total - config.warmup_steps)
        return config.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    # 3. steps: multiplied by lr_decay at each of lr_steps
    return config.lr * config.lr_decay ** sum(step >= boundary for boundary in config.lr_steps)


def group_learning_rates(step: int, total: int, config: TrainingConfig) -> tuple[float, float, float]:
    """Learning rates of (backbone, features, stages) at a step; a frozen backbone has rate 0."""
    rate = learning_rate(step, total, config)
    frozen = step < config.freeze_backbone_steps
    return (0.0 if frozen else rate * config.backbone_lr_factor, rate * config.feature_lr_factor, rate)


def ema_decay(step: int, config: TrainingConfig) -> float:
    """Part of the weights' moving average that the update at a step leaves: none of what stood before the first.

    It rises with the number of weights that were averaged, so that the first, which are poor, are soon forgotten: the
    warm-up of TensorFlow's ExponentialMovingAverage. 0 where the recipe wants no average.
    """
    return min(config.ema_decay or 0.0, step / (9 + step))
