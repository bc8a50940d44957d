"""Layers: output shapes, computation and initialisation."""

from __future__ import annotations

import numpy as np
import pytest

from training.network.layers import Conv, Dense, Depthwise, Pool, Residual, build_layers, separable


def noise(channels, size=12):
    return np.random.default_rng(0).normal(size=(2, channels, size, size)).astype(np.float32)


def run(cell, x):
    import mindspore as ms

    return cell(ms.Tensor(x)).asnumpy()


@pytest.fixture(autouse=True)
def seed():
    import mindspore as ms

    ms.set_seed(3)


@pytest.mark.parametrize(
    ("layers", "channels", "size"),
    [
        ([Conv(6)], 6, 12),
        ([Conv(6, kernel=1), Conv(5, kernel=7, dilation=2)], 5, 12),
        ([Conv(6, stride=2)], 6, 6),
        ([Pool()], 4, 6),
        ([Depthwise(stride=2)], 4, 6),
        ([*separable(6, stride=2), *separable(8, dilation=2)], 8, 6),
        ([Residual((Conv(9), *separable(4)))], 4, 12),
        ([Dense((Conv(6), Conv(5), Conv(4)))], 15, 12),
        ([Conv(6), Dense((Conv(2),)), Residual((Dense((Conv(1), Conv(1))),))], 2, 12),
        ([], 4, 12),
    ],
)
@pytest.mark.parametrize("batch_norm", [False, True])
def test_the_output_has_the_returned_number_of_channels(layers, channels, size, batch_norm):
    cell, out_channels = build_layers(layers, 4, batch_norm)
    assert out_channels == channels
    if layers:
        assert run(cell, noise(4)).shape == (2, channels, size, size)


def test_a_residual_block_adds_its_input():
    cell, _ = build_layers([Residual((Conv(7), Conv(4)))], 4, False)
    x = noise(4)
    assert run(cell, x) == pytest.approx(x + run(cell[0].layers, x), abs=1e-6)


def test_a_dense_block_concatenates_the_outputs_of_its_layers():
    cell, _ = build_layers([Dense((Conv(3), Conv(5)))], 4, False)
    x = noise(4)
    first = run(cell[0].layers[0], x)
    output = run(cell, x)
    assert np.array_equal(output[:, :3], first)
    assert output[:, 3:] == pytest.approx(run(cell[0].layers[1], first), abs=1e-6)


def test_a_depthwise_layer_does_not_mix_channels():
    cell, _ = build_layers([Depthwise()], 6, False)
    x = noise(6)
    changed = x.copy()
    changed[:, 2] += 1
    differs = np.abs(run(cell, x) - run(cell, changed)).max(axis=(0, 2, 3)) > 0
    assert differs.tolist() == [False, False, True, False, False, False]


@pytest.mark.parametrize("layer", [Conv(64), Depthwise(), Conv(64, kernel=1)])
def test_initial_weights_preserve_the_power_of_the_input(layer):
    cell, _ = build_layers([layer] * 3, 64, False)
    power = np.mean(run(cell, np.abs(noise(64, 32))) ** 2) / np.mean(noise(64, 32) ** 2)
    assert 0.2 < power < 5
