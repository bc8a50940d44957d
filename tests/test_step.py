"""One training step on a network of three numbers, whose gradient is known."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn, ops

from training.config import TrainingConfig
from training.step import GROUPS, TrainStep, build_optimizer, set_rates

LR = 0.5


class Part(nn.Cell):
    """One weight, one bias."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 1, has_bias=True, weight_init="ones", bias_init="ones")


class Network(nn.Cell):
    """The three parts of a pose network."""

    def __init__(self):
        super().__init__()
        self.backbone, self.features, self.stages = Part(), Part(), Part()


class Product(nn.Cell):
    """Terms that sum to x * (weights and biases): the gradient of each is its x."""

    def __init__(self, network):
        super().__init__(auto_prefix=False)
        self.network = network

    def construct(self, x):
        terms = ()
        for i, part in enumerate((self.network.backbone, self.network.features, self.network.stages)):
            terms += (x[2 * i] * part.conv.weight.sum() + x[2 * i + 1] * part.conv.bias.sum(),)
        return ops.stack(terms)


class Trial:
    def __init__(self, **training):
        config = TrainingConfig(**({"optimizer": "momentum", "momentum": 0.0, "lr": LR} | training))
        self.network = Network()
        self.optimizer = build_optimizer(self.network, config)
        self.cell = TrainStep(Product(self.network), self.optimizer, config, processes=1)
        self.cell.set_train()

    def step(self, gradient, stop=0.0):
        outcome = self.cell(ms.Tensor(np.float32(stop)), ms.Tensor(np.array(gradient, np.float32)))
        return [float(each.asnumpy().sum()) for each in outcome]

    def values(self):
        """Weight and bias of each part."""
        named = {parameter.name: float(parameter.asnumpy().sum()) for parameter in self.network.get_parameters()}
        return np.array([named[f"{part}.conv.{kind}"] for part in GROUPS for kind in ("weight", "bias")])


GRADIENT = np.array([3.0, 0, 0, 4.0, 0, 0])


@pytest.fixture(scope="module")
def scaled():
    return Trial(loss_scale=1024)


def test_the_loss_scale_is_undone(scaled):
    before = scaled.values()
    loss, norm, stop = scaled.step(GRADIENT)
    assert loss == pytest.approx(7)
    assert norm == pytest.approx(5)
    assert stop == 0
    assert scaled.values() - before == pytest.approx(-LR * GRADIENT)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 3e38])
def test_a_gradient_that_is_not_finite_changes_nothing(scaled, bad):
    before = scaled.values()
    _, norm, _ = scaled.step([bad, 1, 1, 1, 1, 1])
    assert not np.isfinite(norm)
    assert np.array_equal(scaled.values(), before)
    scaled.step(GRADIENT)
    assert scaled.values() - before == pytest.approx(-LR * GRADIENT)


def test_the_request_to_stop_comes_back(scaled):
    assert scaled.step(np.zeros(6), stop=1.0)[2] == 1


def test_each_part_has_its_rate_and_a_frozen_one_stays(scaled):
    before = scaled.values()
    set_rates(scaled.optimizer, (0.0, 0.25, 2.0))
    scaled.step(np.ones(6))
    set_rates(scaled.optimizer, (LR, LR, LR))
    assert scaled.values() - before == pytest.approx(-np.array([0, 0, 0.25, 0.25, 2, 2]))


def test_the_gradient_is_clipped_after_it_is_unscaled():
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


def test_adams_first_step_is_the_rate_whatever_the_scale():
    trial = Trial(optimizer="adam", momentum=0.9, loss_scale=4096)
    trial.step([1, -2, 3, 4, 5, 0])
    assert trial.values() == pytest.approx(1 - LR * np.array([1, -1, 1, 1, 1, 0]), abs=1e-4)


def test_moments_go_on_while_a_part_is_frozen():
    """So its first update, late in the run, is no larger than its rate."""
    trial = Trial(optimizer="adam", momentum=0.9)
    set_rates(trial.optimizer, (0.0, LR, LR))
    for _ in range(20):
        trial.step(np.ones(6))
    assert trial.values()[:2].tolist() == [1, 1]
    set_rates(trial.optimizer, (LR, LR, LR))
    trial.step(np.ones(6))
    assert trial.values()[:2] == pytest.approx([1 - LR, 1 - LR], abs=1e-3)
