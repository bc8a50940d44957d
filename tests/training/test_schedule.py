"""Learning rate schedules and the number of steps of a run."""

from __future__ import annotations

import itertools

import pytest

from pipeline.errors import InputError
from training.config import Config, TrainingConfig
from training.loop.plan import TrainingPlan, changed_fields, plan_run, samples_per_update
from training.optim.schedule import ema_decay, group_learning_rates, learning_rate
from training.recipes import override_config


def test_step_schedule_decays_at_its_boundaries():
    config = TrainingConfig(lr=1.0, lr_steps=(10, 20), lr_decay=0.1)
    rates = [learning_rate(step, 30, config) for step in (0, 9, 10, 19, 20, 29)]
    assert rates == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_warm_up_is_linear_and_does_not_start_at_0():
    config = TrainingConfig(lr=1.0, warmup_steps=4)
    assert [learning_rate(step, 9, config) for step in range(6)] == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1])


def test_cosine_goes_from_the_learning_rate_to_0():
    config = TrainingConfig(lr=2.0, schedule="cosine", warmup_steps=10)
    rates = [learning_rate(step, 110, config) for step in range(111)]
    assert max(rates) == rates[9] == rates[10] == 2.0
    assert rates[60] == pytest.approx(1.0)
    assert all(later < earlier for earlier, later in itertools.pairwise(rates[10:]))
    assert rates[110] == pytest.approx(0)
    assert learning_rate(500, 110, config) == pytest.approx(0)


def test_cosine_of_a_run_that_is_all_warm_up():
    config = TrainingConfig(lr=1.0, schedule="cosine", warmup_steps=10)
    assert learning_rate(9, 10, config) == 1.0


def test_parts_have_their_own_learning_rates_and_the_backbone_is_frozen_first():
    config = TrainingConfig(lr=1.0, backbone_lr_factor=0.25, feature_lr_factor=0.5, freeze_backbone_steps=3)
    assert group_learning_rates(2, 10, config) == (0.0, 0.5, 1.0)
    assert group_learning_rates(3, 10, config) == (0.25, 0.5, 1.0)


def test_the_decay_of_the_average_rises_from_0_to_its_maximum():
    config = TrainingConfig(ema_decay=0.99)
    assert ema_decay(0, config) == 0  # the values before the first update have no influence
    assert ema_decay(1, config) == pytest.approx(0.1)
    assert ema_decay(891, config) == pytest.approx(0.99)
    assert ema_decay(10**6, config) == 0.99
    assert ema_decay(100, TrainingConfig()) == 0


def test_accumulating_eight_batches_equals_eight_devices():
    eight = override_config(Config(), ["training.batch_size=4"])
    one = override_config(eight, ["training.accumulate=8"])
    assert samples_per_update(one, world_size=1) == samples_per_update(eight, world_size=8) == 32
    assert plan_run(one, records=100, world_size=1) == plan_run(eight, records=100, world_size=8)
    with pytest.raises(InputError, match=r"8 times 4 on 1 processes takes 32 records a step, but .* has 31"):
        plan_run(one, records=31, world_size=1)


def test_a_run_counts_whole_steps_of_all_processes():
    config = override_config(Config(), ["training.batch_size=4", "training.epochs=3"])
    assert plan_run(config, records=11, world_size=1) == TrainingPlan(steps_per_epoch=2, total_steps=6)
    assert plan_run(config, records=11, world_size=2) == TrainingPlan(steps_per_epoch=1, total_steps=3)
    assert plan_run(config, records=11, world_size=2).epochs == 3
    short = override_config(config, ["training.max_steps=3"])
    assert plan_run(short, records=11, world_size=1) == TrainingPlan(steps_per_epoch=2, total_steps=3)
    assert plan_run(short, records=11, world_size=1).epochs == 2
    assert plan_run(override_config(config, ["training.max_steps=99"]), records=11, world_size=1).total_steps == 6


def test_a_set_too_small_for_one_step():
    with pytest.raises(InputError, match="10 on 3 processes takes 30 records a step, but the training set has 29"):
        plan_run(Config(), records=29, world_size=3)


@pytest.mark.parametrize(
    "change", ["model.stages=5", "data.size=376", "data.augment.flip=0", "training.seed=1", "training.accumulate=2"]
)
def test_fields_that_determine_shapes_and_data_cannot_change_on_resume(change):
    field = change.partition("=")[0]
    with pytest.raises(InputError, match=f"{field}: the checkpoints were made with "):
        changed_fields(Config(), override_config(Config(), [change]))


def test_other_changes_are_listed():
    overrides = [
        "training.lr=1",
        "training.epochs=70",
        "training.ema_decay=0.9",
        "training.amp=O2",
        "data.threads=3",
        "data.targets=host",
        "evaluation.size=400",
    ]
    assert changed_fields(Config(), override_config(Config(), overrides)) == [
        "data.threads: None -> 3",
        "data.targets: auto -> host",
        "training.epochs: 60 -> 70",
        "training.lr: 0.0001 -> 1.0",
        "training.ema_decay: None -> 0.9",
        "training.amp: auto -> O2",
    ]
    assert changed_fields(Config(), Config()) == []
