"""The training step on a network of three weights and three biases, whose gradients are known."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn, ops

from training.config import TrainingConfig
from training.optim.ema import WeightAverage
from training.optim.loss_scale import LossScale
from training.optim.optimizer import PARAMETER_GROUPS, build_optimizer, set_learning_rates
from training.optim.precision import choose_precision
from training.optim.step import (
    AccumulateGradients,
    ApplyAccumulatedGradients,
    ApplyGradients,
    ComputeGradients,
    TrainStep,
)

LR = 0.5


class Part(nn.Cell):
    """One weight and one bias."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 1, has_bias=True, weight_init="ones", bias_init="ones")


class Network(nn.Cell):
    """The three parts of a pose network."""

    def __init__(self):
        super().__init__()
        self.backbone, self.features, self.stages = Part(), Part(), Part()


class Product(nn.Cell):
    """Loss terms that sum to x * (weights and biases), so the gradient of each parameter is its x."""

    def __init__(self, network):
        super().__init__(auto_prefix=False)
        self.network = network

    def construct(self, x):
        terms = ()
        for i, part in enumerate((self.network.backbone, self.network.features, self.network.stages)):
            terms += (x[2 * i] * part.conv.weight.sum() + x[2 * i + 1] * part.conv.bias.sum(),)
        return ops.stack(terms)


class Trial:
    def __init__(self, processes=1, **training):
        config = TrainingConfig(**({"optimizer": "momentum", "momentum": 0.0, "lr": LR} | training))
        self.network = Network()
        self.optimizer = build_optimizer(self.network, config)
        self.scale = LossScale(choose_precision(config, "CPU"))
        self.average = WeightAverage(self.network) if config.ema_decay else None
        weights = self.optimizer.parameters
        gradients = ComputeGradients(Product(self.network), weights, self.scale, low_precision=False)
        update = ApplyGradients(self.optimizer, self.scale, self.average, config, processes)
        self.accumulate = config.accumulate
        if config.accumulate == 1:
            self.train_step = TrainStep(gradients, update).set_train()
        else:
            self.accumulate_batch = AccumulateGradients(gradients, weights, terms=len(PARAMETER_GROUPS)).set_train()
            self.update = ApplyAccumulatedGradients(self.accumulate_batch, update)

    def step(self, *gradients, stop=0.0, decay=0.0):
        """Return loss, gradient norm, finite flag, loss scale and stop request of an update."""
        assert len(gradients) == self.accumulate
        scalars = [ms.Tensor(np.float32(scalar)) for scalar in (stop, decay)]
        batches = [ms.Tensor(np.array(gradient, np.float32)) for gradient in gradients]
        if self.accumulate == 1:
            outcome = self.train_step(*scalars, *batches)
        else:
            for batch in batches:
                self.accumulate_batch(batch)
            outcome = self.update(*scalars)
        return [float(each.asnumpy().sum()) for each in outcome]

    def values(self, prefix=""):
        """Return weight and bias of each part, or their averages."""
        source = self.average.averages if prefix else self.network.get_parameters()
        named = {parameter.name: float(parameter.asnumpy().sum()) for parameter in source}
        return np.array(
            [named[f"{prefix}{part}.conv.{kind}"] for part in PARAMETER_GROUPS for kind in ("weight", "bias")]
        )


GRADIENT = np.array([3.0, 0, 0, 4.0, 0, 0])


@pytest.fixture(scope="module")
def scaled():
    return Trial(loss_scale=1024)


def test_the_loss_scale_is_undone(scaled):
    before = scaled.values()
    loss, norm, finite, scale, stop = scaled.step(GRADIENT)
    assert loss == pytest.approx(7)
    assert norm == pytest.approx(5)
    assert finite
    assert scale == 1024
    assert stop == 0
    assert scaled.values() - before == pytest.approx(-LR * GRADIENT)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 3e38])
def test_a_gradient_that_is_not_finite_changes_nothing(scaled, bad):
    before = scaled.values()
    _, norm, finite, *_ = scaled.step([bad, 1, 1, 1, 1, 1])
    assert not np.isfinite(norm)
    assert not finite
    assert np.array_equal(scaled.values(), before)
    scaled.step(GRADIENT)
    assert scaled.values() - before == pytest.approx(-LR * GRADIENT)


def test_the_stop_request_is_returned(scaled):
    assert scaled.step(np.zeros(6), stop=1.0)[-1] == 1


def test_each_part_has_its_learning_rate_and_a_frozen_part_is_unchanged(scaled):
    before = scaled.values()
    set_learning_rates(scaled.optimizer, (0.0, 0.25, 2.0))
    scaled.step(np.ones(6))
    set_learning_rates(scaled.optimizer, (LR, LR, LR))
    assert scaled.values() - before == pytest.approx(-np.array([0, 0, 0.25, 0.25, 2, 2]))


def test_the_gradient_is_clipped_after_unscaling():
    trial = Trial(loss_scale=8, clip_norm=1.0)
    norm = trial.step(GRADIENT)[1]
    assert norm == pytest.approx(5)  # before clipping
    assert trial.values() == pytest.approx(1 - LR * GRADIENT / 5, abs=1e-5)
    before = trial.values()
    trial.step(GRADIENT / 10)  # short enough already
    assert trial.values() - before == pytest.approx(-LR * GRADIENT / 10, abs=1e-5)


def test_weights_decay_and_biases_do_not():
    trial = Trial(weight_decay=0.1)
    trial.step(np.zeros(6))
    assert trial.values() == pytest.approx([1 - LR * 0.1, 1] * 3)


def test_momentum_accumulates_earlier_gradients():
    trial = Trial(momentum=0.9)
    for _ in range(3):
        trial.step(GRADIENT)
    assert trial.values() == pytest.approx(1 - LR * GRADIENT * (1 + 1.9 + 2.71), rel=1e-5)


def test_the_first_step_of_adam_equals_the_learning_rate():
    trial = Trial(optimizer="adam", momentum=0.9, loss_scale=4096)
    trial.step([1, -2, 3, 4, 5, 0])
    assert trial.values() == pytest.approx(1 - LR * np.array([1, -1, 1, 1, 1, 0]), abs=1e-4)


def test_moments_are_updated_while_a_part_is_frozen():
    """The first update of the part, late in the run, is then no larger than its learning rate."""
    trial = Trial(optimizer="adam", momentum=0.9)
    set_learning_rates(trial.optimizer, (0.0, LR, LR))
    for _ in range(20):
        trial.step(np.ones(6))
    assert trial.values()[:2].tolist() == [1, 1]
    set_learning_rates(trial.optimizer, (LR, LR, LR))
    trial.step(np.ones(6))
    assert trial.values()[:2] == pytest.approx([1 - LR, 1 - LR], abs=1e-3)


def test_a_skipped_update_does_not_change_the_moments():
    trial, other = (Trial(optimizer="adam", momentum=0.9, accumulate=2) for _ in range(2))
    for gradients in ((GRADIENT, 2 * GRADIENT), (GRADIENT, [np.inf] * 6), (3 * GRADIENT, GRADIENT)):
        trial.step(*gradients)
        if np.isfinite(gradients).all():
            other.step(*gradients)
    assert np.array_equal(trial.values(), other.values())
    for one, another in zip(trial.optimizer.get_parameters(), other.optimizer.get_parameters(), strict=True):
        assert np.array_equal(one.asnumpy(), another.asnumpy()), one.name


def test_accumulated_batches_are_averaged_and_reset_after_the_update():
    trial = Trial(accumulate=2, loss_scale=8, clip_norm=4.0)
    loss, norm, *_ = trial.step(GRADIENT, -0.5 * GRADIENT)
    assert loss == pytest.approx(7 / 4)
    assert norm == pytest.approx(5 / 4)
    assert trial.values() == pytest.approx(1 - LR * GRADIENT / 4)
    before = trial.values()
    assert trial.step(GRADIENT, 3 * GRADIENT)[1] == pytest.approx(10)  # before clipping
    assert trial.values() - before == pytest.approx(-LR * GRADIENT * 4 / 5, abs=1e-5)


@pytest.mark.parametrize("place", [0, 1])
def test_a_batch_that_is_not_finite_skips_only_its_update(place):
    trial = Trial(accumulate=2)
    gradients = [GRADIENT, GRADIENT]
    gradients[place] = np.full(6, np.nan)
    assert not trial.step(*gradients)[2]
    assert trial.values().tolist() == [1] * 6
    assert trial.step(GRADIENT, GRADIENT)[2]
    assert trial.values() == pytest.approx(1 - LR * GRADIENT)


def test_the_average_follows_the_weights_of_every_update_that_is_not_skipped():
    trial = Trial(ema_decay=0.9)
    average = trial.values()
    for decay, gradient in ((0.0, GRADIENT), (0.5, GRADIENT), (0.9, [np.nan] * 6), (0.9, 2 * GRADIENT)):
        if trial.step(gradient, decay=decay)[2]:
            average = decay * average + (1 - decay) * trial.values()
        assert trial.values("ema.") == pytest.approx(average, rel=1e-6)
    assert not np.allclose(average, trial.values())


def test_a_dynamic_scale_halves_on_overflow_and_doubles_after_good_updates():
    """The square of 1e18 times the scale is beyond float32 from a scale of 32 on."""
    trial = Trial(loss_scale_mode="dynamic", loss_scale=64, loss_scale_window=3, lr=1e-18)
    seen = []
    for _ in range(9):
        before = trial.values()
        _, _, finite, scale, _ = trial.step([1e18, 0, 0, 0, 0, 0])
        seen.append((scale, bool(finite)))
        moved = (trial.values() - before)[0]
        assert moved == pytest.approx(-1.0 if finite else 0.0)
    assert seen == [(64, False), (32, False), *[(16, True)] * 3, (32, False), *[(16, True)] * 3]


def test_a_dynamic_scale_does_not_fall_below_1():
    trial = Trial(loss_scale_mode="dynamic", loss_scale=3)
    assert [trial.step([np.inf] * 6)[3] for _ in range(4)] == [3, 1.5, 1, 1]
