"""Evaluation during training: it disturbs nothing, is never lost or done twice, and the best network is kept."""

from __future__ import annotations

import shutil
import signal

import numpy as np
import pytest
from click.testing import CliRunner

from evaluation.backends import checkpoint_network
from evaluation.during import DuringTraining
from evaluation.metrics import AP_KEYS
from pipeline.errors import InputError
from tests import tiny
from tests.events import curves
from training.checkpoint import Mark, load_checkpoint
from training.folder import best_path, checkpoint_path, checkpoints, find_checkpoint
from training.parallel import World
from training.validation import Score

EVALUATED = [10, 20, 30, 40, 48]


def recipe(**training):
    return tiny.recipe(**{"eval_every": 10, "eval_pictures": 8, **training})


@pytest.fixture(scope="module")
def evaluated_run(tiny_shards, tmp_path_factory):
    """The run of `tiny_run` with evaluations on the way; not to be changed."""
    run = tmp_path_factory.mktemp("runs") / "evaluated"
    assert tiny.train_here(recipe(), tiny_shards, run, evaluator=lambda _: DuringTraining(recipe(), tiny_shards)) == 0
    return run


def test_training_learns_the_same_bit_for_bit(evaluated_run, tiny_run):
    assert tiny.losses(evaluated_run) == tiny.losses(tiny_run)
    ours, theirs = (load_checkpoint(checkpoint_path(run, 48)).tensors for run in (evaluated_run, tiny_run))
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        np.testing.assert_array_equal(tensor.asnumpy(), theirs[name].asnumpy(), err_msg=name)


def test_what_is_logged(evaluated_run):
    lines = tiny.metrics(evaluated_run)
    assert [line["step"] for line in lines] == sorted([*range(1, 49), *EVALUATED])
    for line in lines:
        if "AP" in line:
            assert list(line) == ["step", *AP_KEYS, "pictures", "seconds"]
            assert line["pictures"] == 8
            assert line["seconds"] > 0
    drawn = curves(evaluated_run)
    assert [step for step, _ in drawn["maps"]] == EVALUATED
    assert [(step, pytest.approx(ap)) for step, ap in drawn["validation/AP"]] == list(
        tiny.evaluations(evaluated_run).items()
    )


class Told:
    """Evaluates as it is told: AP by the number of the evaluation, in this process or, as a Mark, found in a file."""

    basis = "told"

    def __init__(self, *scores, stop_at=0, signals=None):
        self.scores, self.calls, self.maps = list(scores), 0, []
        self.stop_at, self.signals = stop_at, signals
        self.images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)

    def __call__(self, network, world, stopped, progress):
        self.calls += 1
        self.maps.append(network(self.images))
        if self.calls == self.stop_at:
            self.signals.number = signal.SIGTERM
        if stopped():
            return None
        progress(1, 1)
        score = self.scores[self.calls - 1]
        if isinstance(score, Exception):
            raise score
        return Score(dict.fromkeys(AP_KEYS, score), pictures=1, seconds=0.5)


def train(run, shards, told, *, resume=False, **training):
    def evaluator(signals):
        told.signals = signals
        return told

    return tiny.train_here(recipe(**training), shards, run, resume=resume, evaluator=evaluator)


@pytest.mark.parametrize("training", [{}, {"ema_decay": 0.9}])
def test_the_network_evaluated_is_that_of_the_checkpoint(tiny_shards, tmp_path, training):
    told = Told(0.1, 0.3, 0.2, 0.2, 0.2)
    assert train(tmp_path / "run", tiny_shards, told, **training) == 0
    for path, maps in ((best_path(tmp_path / "run"), told.maps[1]), (checkpoints(tmp_path / "run")[-1], told.maps[-1])):
        answer = checkpoint_network(load_checkpoint(path))(told.images)
        for ours, theirs in zip(answer, maps, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_the_best_is_kept_and_the_earlier_of_equals(tiny_shards, tmp_path, capfd):
    run = tmp_path / "run"
    assert train(run, tiny_shards, Told(0.1, 0.3, 0.3, 0.2, 0.3)) == 0
    best = load_checkpoint(best_path(run))
    assert (best.step, best.mark) == (20, Mark(0.3, "told"))
    assert [path.name for path in checkpoints(run)] == ["step-0000040.ckpt", "step-0000048.ckpt"]
    assert find_checkpoint(run) == checkpoint_path(run, 48)
    assert load_checkpoint(find_checkpoint(run)).mark is None
    said = capfd.readouterr().err
    assert "step 10/48 AP 0.100 AP50 0.100 AR 0.100 on 1 pictures in 0.5 s, the best so far\n" in said
    assert "step 30/48 AP 0.300 AP50 0.300 AR 0.300 on 1 pictures in 0.5 s\n" in said
    assert said.endswith(f"Best: AP 0.300 after step 20, {best_path(run)}\n")


def test_pictures_of_nobody_choose_nothing(tiny_shards, tmp_path, capfd):
    assert train(tmp_path / "run", tiny_shards, Told(*[-1.0] * 5)) == 0
    assert not best_path(tmp_path / "run").exists()
    assert "step 10/48 AP - AP50 - AR - on 1 pictures" in capfd.readouterr().err


def test_an_evaluation_that_fails_does_not_end_the_run(tiny_shards, tmp_path, capfd):
    run = tmp_path / "run"
    assert train(run, tiny_shards, Told(0.1, InputError("image 7: damaged"), 0.2, 0.0, 0.0)) == 0
    assert "Warning: step 20: not evaluated: image 7: damaged\n" in capfd.readouterr().err
    assert tiny.evaluations(run) == {10: 0.1, 30: 0.2, 40: 0.0, 48: 0.0}
    assert len(tiny.losses(run)) == 48


@pytest.mark.parametrize("stop_at", [2, 5])
def test_a_stop_during_an_evaluation_saves_and_the_evaluation_is_made_up_for(
    tiny_shards, tiny_run, tmp_path, capfd, stop_at
):
    run = tmp_path / "run"
    scores = (0.1, 0.3, 0.2, 0.4, 0.5)
    assert train(run, tiny_shards, Told(*scores, stop_at=stop_at), checkpoint_every=1000) == 0
    stopped = EVALUATED[stop_at - 1]
    said = capfd.readouterr().err
    assert said.endswith(f"Stopped after step {stopped} of 48; go on with: COMMAND\n")
    assert checkpoints(run)[-1] == checkpoint_path(run, stopped)
    assert list(tiny.evaluations(run)) == EVALUATED[: stop_at - 1]

    assert train(run, tiny_shards, Told(*scores[stop_at - 1 :]), checkpoint_every=1000, resume=True) == 0
    assert tiny.evaluations(run) == dict(zip(EVALUATED, scores, strict=True))
    assert tiny.losses(run) == tiny.losses(tiny_run)
    assert load_checkpoint(best_path(run)).mark == Mark(0.5, "told")
    assert [step for step, _ in curves(run)["validation/AP"]] == EVALUATED
    assert [step for step, _ in curves(run)["loss/total"]] == list(range(1, 49))

    capfd.readouterr()
    assert train(run, tiny_shards, Told(), resume=True) == 0
    assert "finished, all 48 steps are done" in capfd.readouterr().err


def crash(run, out, step):
    """A copy of a run as it would be had the machine died some time after `step`."""
    shutil.copytree(run, out)
    for path in checkpoints(out):
        if path > checkpoint_path(out, step):
            path.write_bytes(path.read_bytes()[:-1000])
    return out


@pytest.fixture(scope="module")
def told_run(tiny_shards, tmp_path_factory):
    """A finished run whose best was at step 20; not to be changed."""
    run = tmp_path_factory.mktemp("runs") / "told"
    assert train(run, tiny_shards, Told(0.1, 0.3, 0.2, 0.2, 0.1), keep=9) == 0
    return run


def test_a_resumed_run_remembers_the_best(tiny_shards, told_run, tmp_path, capfd):
    run = crash(told_run, tmp_path / "run", 30)
    before = best_path(run).read_bytes()
    assert train(run, tiny_shards, Told(0.2, 0.3), resume=True) == 0
    assert best_path(run).read_bytes() == before
    assert capfd.readouterr().err.endswith(f"Best: AP 0.300 after step 20, {best_path(run)}\n")
    assert tiny.evaluations(run) == {10: 0.1, 20: 0.3, 30: 0.2, 40: 0.2, 48: 0.3}


def test_a_best_beyond_the_step_that_a_run_goes_on_from_stays_until_it_is_beaten(tiny_shards, told_run, tmp_path):
    run = crash(told_run, tmp_path / "run", 10)
    assert train(run, tiny_shards, Told(0.3, 0.2, 0.4, 0.1), resume=True) == 0
    best = load_checkpoint(best_path(run))
    assert (best.step, best.mark.ap) == (40, 0.4)


def test_a_best_of_other_pictures_does_not_count(tiny_shards, told_run, tmp_path, capfd):
    run = crash(told_run, tmp_path / "run", 40)
    told = Told(0.05)
    told.basis = "other pictures"
    assert train(run, tiny_shards, told, resume=True) == 0
    assert "best.ckpt: chosen by other pictures or another way of finding people" in capfd.readouterr().err
    assert load_checkpoint(best_path(run)).mark == Mark(0.05, "other pictures")


def test_a_damaged_best_is_told_of_and_replaced(tiny_shards, told_run, tmp_path, capfd):
    run = crash(told_run, tmp_path / "run", 40)
    best_path(run).write_bytes(best_path(run).read_bytes()[:-1000])
    assert train(run, tiny_shards, Told(0.05), resume=True) == 0
    assert f"Warning: {best_path(run)}: damaged" in capfd.readouterr().err
    assert load_checkpoint(best_path(run)).step == 48


def test_a_folder_with_nothing_but_a_best_holds_a_run(tiny_shards, told_run, tmp_path):
    best_path(tmp_path).parent.mkdir()
    shutil.copy(best_path(told_run), best_path(tmp_path))
    with pytest.raises(InputError, match="holds a run already"):
        train(tmp_path, tiny_shards, Told())


def test_the_command_checks_the_validation_set_before_it_starts(tiny_recipe, tiny_shards, tmp_path):
    from training.train import main

    def run(*more, every="10"):
        options = ("--set", f"training.eval_every={every}", "--set", "training.epochs=1", *more)
        with tiny.kept_signals():
            return CliRunner().invoke(main, tiny.command(tiny_recipe, tiny_shards, tmp_path / "run", *options)[3:])

    result = run("--val", str(tmp_path / "nowhere"))
    assert result.exit_code == 2
    assert result.stderr.startswith(f"Error: {tmp_path / 'nowhere'}")
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "run").exists()
    result = run()
    assert result.exit_code == 0, result.output
    assert "Warning: training.eval_every: there is no validation set" in result.stderr
    assert tiny.evaluations(tmp_path / "run") == {}


def test_ranks_take_the_moments_of_the_first(monkeypatch):
    from training.answer import Understudy
    from training.config import ModelConfig
    from training.network import OpenPose

    config = ModelConfig(
        backbone="compact", feature_widths=(8, 8), stages=1, first_width=8, stage_width=8, batch_norm=True
    )
    weights = {parameter.name: parameter for parameter in OpenPose(config).get_parameters()}
    moments = [name for name in weights if "moving" in name]
    given = []
    monkeypatch.setattr(World, "of_first", lambda self, values: given.append(values) or values + 1)
    understudy = Understudy(config)
    understudy.take(weights, World("CPU", rank=1, size=2))
    assert moments
    assert len(given[0]) == sum(weights[name].size for name in moments)
    for name, parameter in understudy.parameters.items():
        expected = weights[name].asnumpy() + (name in moments)
        np.testing.assert_array_equal(parameter.asnumpy(), expected, err_msg=name)
