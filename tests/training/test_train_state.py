"""What a checkpoint keeps of a network in training, and what becomes of it in another recipe."""

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


def begin(**training) -> TrainState:
    return TrainState(tiny.recipe(**training), World("CPU"), total_steps=10)


def saved(run: Path, train_state: TrainState, **training) -> Checkpoint:
    """A checkpoint of which every tensor is another."""
    for number, parameter in enumerate(train_state.parameters()):
        parameter.set_data(parameter.value() * 0 + number)
    path = save_checkpoint(
        run, train_state.parameters(), tiny.recipe(**training), TrainingPosition(3, 9, "", 1), keep=1
    )
    return load_checkpoint(path)


def values(parameters) -> dict[str, np.ndarray]:
    return {parameter.name: parameter.asnumpy() for parameter in parameters}


def test_everything_with_state_is_kept_and_comes_back(tmp_path):
    everything = AVERAGED | SCALED | {"accumulate": 2}
    train_state = begin(**everything)
    names = set(values(train_state.parameters()))
    weights = set(values(train_state.network.get_parameters()))
    assert {f"{AVERAGE_PREFIX}{name}" for name in weights} | {"loss_scale.value", "loss_scale.good_updates"} < names
    assert {f"moment1.{name}" for name in weights} < names
    assert not any(name.startswith("sum.") for name in names)
    checkpoint = saved(tmp_path, train_state, **everything)
    other = begin(**everything)
    other.restore(checkpoint)
    for name, value in values(other.parameters()).items():
        np.testing.assert_array_equal(value, checkpoint.tensors[name].asnumpy(), err_msg=name)


def test_an_average_and_a_scale_may_begin_and_end_with_a_resume(tmp_path):
    bare = saved(tmp_path / "bare", begin())
    train_state = begin(**AVERAGED, **SCALED)
    train_state.restore(bare)
    weights = values(train_state.network.get_parameters())
    for name, value in values(train_state.inference_weights().values()).items():
        np.testing.assert_array_equal(value, weights[name.removeprefix(AVERAGE_PREFIX)], err_msg=name)
    assert train_state.loss_scale.value.asnumpy() == 64
    begin().restore(saved(tmp_path / "full", train_state, **AVERAGED, **SCALED))


def test_half_an_average_is_none(tmp_path):
    checkpoint = saved(tmp_path, begin(**AVERAGED))
    lost = f"{AVERAGE_PREFIX}stages.1.pafs.head.bias"
    del checkpoint.tensors[lost]
    with pytest.raises(InputError, match=f"has no {lost}"):
        begin(**AVERAGED).restore(checkpoint)


def test_the_average_answers_where_there_is_one(tmp_path):
    network = OpenPose(tiny.recipe().model)
    for name, training in (("weights", {}), ("average", AVERAGED)):
        train_state = begin(**training)
        checkpoint = saved(tmp_path / name, train_state, **training)
        restore_for_inference(network, checkpoint)
        expected = values(train_state.inference_weights().values())
        assert all(key.startswith(AVERAGE_PREFIX) == (name == "average") for key in expected)
        for parameter in network.get_parameters():
            key = parameter.name if name == "weights" else f"{AVERAGE_PREFIX}{parameter.name}"
            np.testing.assert_array_equal(parameter.asnumpy(), expected[key])
