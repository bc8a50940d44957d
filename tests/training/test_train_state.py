"""Training state in a checkpoint, and restoring it with another recipe."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import InputError
from tests.support import tiny
from training.checkpoint.checkpoint import (
    Checkpoint,
    TrainingPosition,
    load_checkpoint,
    restore_for_inference,
    save_checkpoint,
)
from training.distributed.world import World
from training.loop.state import TrainState
from training.network.openpose import OpenPose
from training.optim.ema import AVERAGE_PREFIX

AVERAGED = {"ema_decay": 0.9}
SCALED = {"loss_scale_mode": "dynamic", "loss_scale": 64}


def create(**training) -> TrainState:
    return TrainState(tiny.recipe(**training), World("CPU"), total_steps=10)


def saved(run: Path, train_state: TrainState, **training) -> Checkpoint:
    """A checkpoint in which every tensor has a different value."""
    for number, parameter in enumerate(train_state.parameters()):
        parameter.set_data(parameter.value() * 0 + number)
    path = save_checkpoint(
        run, train_state.parameters(), tiny.recipe(**training), TrainingPosition(3, 9, "", 1), keep=1
    )
    return load_checkpoint(path)


def values(parameters) -> dict[str, np.ndarray]:
    return {parameter.name: parameter.asnumpy() for parameter in parameters}


def test_all_state_round_trips_through_a_checkpoint(tmp_path):
    everything = AVERAGED | SCALED | {"accumulate": 2}
    train_state = create(**everything)
    names = set(values(train_state.parameters()))
    weights = set(values(train_state.network.get_parameters()))
    assert {f"{AVERAGE_PREFIX}{name}" for name in weights} | {"loss_scale.value", "loss_scale.good_updates"} < names
    assert {f"moment1.{name}" for name in weights} < names
    assert not any(name.startswith("sum.") for name in names)
    checkpoint = saved(tmp_path, train_state, **everything)
    other = create(**everything)
    other.restore(checkpoint)
    for name, value in values(other.parameters()).items():
        np.testing.assert_array_equal(value, checkpoint.tensors[name].asnumpy(), err_msg=name)


def test_averaging_and_loss_scaling_can_change_when_resuming(tmp_path):
    plain = saved(tmp_path / "plain", create())
    train_state = create(**AVERAGED, **SCALED)
    train_state.restore(plain)
    weights = values(train_state.network.get_parameters())
    for name, value in values(train_state.inference_weights().values()).items():
        np.testing.assert_array_equal(value, weights[name.removeprefix(AVERAGE_PREFIX)], err_msg=name)
    assert train_state.loss_scale.value.asnumpy() == 64
    create().restore(saved(tmp_path / "full", train_state, **AVERAGED, **SCALED))


def test_incomplete_averages_are_an_error(tmp_path):
    checkpoint = saved(tmp_path, create(**AVERAGED))
    missing = f"{AVERAGE_PREFIX}stages.1.pafs.head.bias"
    del checkpoint.tensors[missing]
    with pytest.raises(InputError, match=f"has no {missing}"):
        create(**AVERAGED).restore(checkpoint)


def test_inference_uses_averaged_weights_if_present(tmp_path):
    network = OpenPose(tiny.recipe().model)
    for name, training in (("weights", {}), ("average", AVERAGED)):
        train_state = create(**training)
        checkpoint = saved(tmp_path / name, train_state, **training)
        restore_for_inference(network, checkpoint)
        expected = values(train_state.inference_weights().values())
        assert all(key.startswith(AVERAGE_PREFIX) == (name == "average") for key in expected)
        for parameter in network.get_parameters():
            key = parameter.name if name == "weights" else f"{AVERAGE_PREFIX}{parameter.name}"
            np.testing.assert_array_equal(parameter.asnumpy(), expected[key])
