"""Mixed precision: the choice by recipe and device, and training in float16 compared with float32."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest

from pipeline.errors import InputError
from tests.support import tiny
from training.config import Config, TrainingConfig
from training.distributed.world import World
from training.loop.state import StepResult, TrainState
from training.optim.precision import Precision, choose_precision
from training.recipes import override_config

CPU, ASCEND = "CPU", "Ascend"
FLOAT32 = Precision(None, 1.0, None)


@pytest.mark.parametrize(
    ("device", "training", "expected"),
    [
        (CPU, {}, FLOAT32),
        (ASCEND, {}, Precision(ms.float16, 16384.0, 2000)),
        (ASCEND, {"amp": "O0"}, FLOAT32),
        (CPU, {"amp": "O2"}, Precision(ms.float16, 16384.0, 2000)),
        (ASCEND, {"loss_scale": 64, "loss_scale_window": 9}, Precision(ms.float16, 64.0, 9)),
        (ASCEND, {"loss_scale_mode": "static"}, Precision(ms.float16, 16384.0, None)),
        (ASCEND, {"amp_dtype": "bfloat16"}, Precision(ms.bfloat16, 1.0, None)),
        (CPU, {"loss_scale": 16384}, Precision(None, 16384.0, None)),
        (CPU, {"loss_scale_mode": "dynamic"}, Precision(None, 1.0, 2000)),
    ],
)
def test_precision_depends_on_device_and_recipe(device, training, expected):
    assert choose_precision(TrainingConfig(**training), device) == expected


def test_bfloat16_on_cpu_is_an_error():
    with pytest.raises(InputError, match=r"training\.amp_dtype: bfloat16: MindSpore has no .* use float16"):
        choose_precision(TrainingConfig(amp="O2", amp_dtype="bfloat16"), CPU)


@pytest.mark.parametrize(
    ("precision", "text"),
    [
        (FLOAT32, "float32"),
        (Precision(None, 64.0, None), "float32, loss scale 64"),
        (Precision(ms.float16, 64.0, 9), "float16 with float32 weights, dynamic loss scale 64"),
    ],
)
def test_precision_as_text(precision, text):
    assert str(precision) == text


@pytest.mark.parametrize(
    ("loss", "finite", "scale", "overflow"),
    [(1.0, False, 2.0, True), (1.0, False, 1.0, False), (np.nan, False, 2.0, False), (1.0, True, 2.0, False)],
)
def test_overflow_is_a_finite_loss_with_a_gradient_that_a_lower_scale_may_make_finite(loss, finite, scale, overflow):
    assert StepResult((loss,), np.inf, finite, scale, stop=False).overflow == overflow


def batches(config: Config, count: int) -> list[dict[str, np.ndarray]]:
    """Return batches of images whose targets are a function of the image."""
    rng = np.random.default_rng(0)
    size, number = config.data.size, config.training.batch_size
    made = []
    for _ in range(count):
        grid = rng.random((number, 1, size // 8, size // 8), dtype=np.float32)
        image = (255 * grid[:, 0].repeat(8, 1).repeat(8, 2)).astype(np.uint8)[..., None].repeat(3, 3)
        heatmaps, pafs = grid * np.linspace(0, 1, 19)[:, None, None], grid * np.linspace(-1, 1, 38)[:, None, None]
        mask = np.ones(grid[:, 0].shape, np.uint8)
        maps = {"heatmaps": heatmaps.astype(np.float32), "pafs": pafs.astype(np.float32)}
        made.append({"image": image, "mask": mask, **maps})
    return made


def train_steps(config: Config, steps: int) -> tuple[TrainState, list[float]]:
    train_state = TrainState(config, World(CPU), total_steps=100)
    outcomes = [train_state.step(batch, done, stop=False) for done, batch in enumerate(batches(config, steps))]
    assert all(outcome.finite for outcome in outcomes)
    return train_state, [outcome.loss for outcome in outcomes]


def test_losses_in_float16_are_close_to_float32():
    """Relative difference below 1e-4 for the first loss, and below 0.01 for each of twelve steps."""
    config = override_config(tiny.recipe(lr=5e-4), ["model.batch_norm=true"])
    _, full = train_steps(config, steps=12)
    train_state, half = train_steps(override_config(config, ["training.amp=O2"]), steps=12)
    assert half[0] == pytest.approx(full[0], rel=1e-4)
    assert half == pytest.approx(full, rel=0.01)
    assert half != full
    assert half[-1] < 0.9 * half[0]
    assert {str(parameter.dtype) for parameter in train_state.optimizer.parameters} == {"Float32"}
