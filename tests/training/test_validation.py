"""Evaluation during training: no effect on training, none lost or repeated, and the best checkpoint is kept."""

from __future__ import annotations

import json
import signal

import mindspore as ms
import numpy as np
import pytest
from click.testing import CliRunner
from mindspore import nn

from evaluation.during_training import CocoEvaluator
from evaluation.inference.backends import checkpoint_network
from evaluation.scoring.metrics import AP_KEYS
from pipeline.errors import InputError
from tests.support import tiny
from tests.support.events import read_curves
from training.checkpoint.checkpoint import BestScore, TrainingPosition, load_checkpoint
from training.checkpoint.run_folder import (
    best_checkpoint_path,
    check_run_folder,
    checkpoint_path,
    find_checkpoint,
    list_checkpoints,
)
from training.distributed.file_barrier import FileBarrier
from training.distributed.world import World
from training.loop.validation import Score, Validation
from training.recipes import override_config

EVALUATED = [10, 20, 30, 40, 48]


def recipe(**training):
    config = tiny.recipe(**{"eval_every": 10, "eval_pictures": 8, **training})
    return override_config(config, ["evaluation.size=64"])


@pytest.fixture(scope="module")
def evaluated_run(tiny_shards, tmp_path_factory):
    """The run of `tiny_run` with evaluations; shared by tests, do not modify."""
    run = tmp_path_factory.mktemp("runs") / "evaluated"
    assert (
        tiny.train_in_process(recipe(), tiny_shards, run, evaluator=lambda _: CocoEvaluator(recipe(), tiny_shards)) == 0
    )
    return run


def test_evaluation_does_not_change_training(evaluated_run, tiny_run):
    assert tiny.losses(evaluated_run) == tiny.losses(tiny_run)
    actual, expected = (load_checkpoint(checkpoint_path(run, 48)).tensors for run in (evaluated_run, tiny_run))
    assert actual.keys() == expected.keys()
    for name, tensor in actual.items():
        np.testing.assert_array_equal(tensor.asnumpy(), expected[name].asnumpy(), err_msg=name)


def test_log_and_events_hold_every_evaluation(evaluated_run):
    lines = tiny.metrics(evaluated_run)
    assert [line["step"] for line in lines] == sorted([*range(1, 49), *EVALUATED])
    for line in lines:
        if "AP" in line:
            assert list(line) == ["step", *AP_KEYS, "pictures", "seconds"]
            assert line["pictures"] == 8
            assert line["seconds"] > 0
    events = read_curves(evaluated_run)
    assert [step for step, _ in events["maps"]] == EVALUATED
    assert [(step, pytest.approx(ap)) for step, ap in events["validation/AP"]] == list(
        tiny.evaluations(evaluated_run).items()
    )


def test_preview_shows_the_latest_evaluation(evaluated_run):
    import cv2

    (_, encoded) = read_curves(evaluated_run)["maps"][-1]
    in_events = cv2.imdecode(np.frombuffer(encoded.encoded_image_string, np.uint8), cv2.IMREAD_COLOR)
    preview = cv2.imread(str(evaluated_run / "preview.jpg"))
    assert preview.shape == in_events.shape
    assert np.abs(preview.astype(int) - in_events).mean() < 5


class ScriptedEvaluator:
    """Returns the given AP values, one for each evaluation; raises the value if it is an exception."""

    basis = "scripted"

    def __init__(self, *scores, stop_at=0, signals=None):
        self.scores, self.calls, self.maps = list(scores), 0, []
        self.stop_at, self.signals = stop_at, signals
        self.images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)

    def __call__(self, network, barrier, stopped, progress):
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
        return Score(dict.fromkeys(AP_KEYS, score), image_count=1, seconds=0.5)


def train(run, shards, scripted, *, resume=False, **training):
    def evaluator(signals):
        scripted.signals = signals
        return scripted

    return tiny.train_in_process(recipe(**training), shards, run, resume=resume, evaluator=evaluator)


@pytest.mark.parametrize("training", [{}, {"ema_decay": 0.9}])
def test_best_checkpoint_is_kept_the_first_one_on_ties(tiny_shards, tmp_path, capfd, training):
    run, scripted = tmp_path / "run", ScriptedEvaluator(0.1, 0.3, 0.3, 0.2, 0.3)
    assert train(run, tiny_shards, scripted, **training) == 0
    best, newest = load_checkpoint(best_checkpoint_path(run)), load_checkpoint(find_checkpoint(run))
    assert (best.step, best.best_score) == (20, BestScore(0.3, "scripted"))
    assert (newest.step, newest.best_score) == (48, None)
    assert [path.name for path in list_checkpoints(run)] == ["step-0000040.ckpt", "step-0000048.ckpt"]
    stderr = capfd.readouterr().err
    assert "step 10/48 AP 0.100 AP50 0.100 AR 0.100 on 1 images in 0.5 s, best so far\n" in stderr
    assert "step 30/48 AP 0.300 AP50 0.300 AR 0.300 on 1 images in 0.5 s\n" in stderr
    assert stderr.endswith(f"Best: AP 0.300 after step 20, {best_checkpoint_path(run)}\n")
    for checkpoint, maps in ((best, scripted.maps[1]), (newest, scripted.maps[4])):
        for actual, expected in zip(checkpoint_network(checkpoint)(scripted.images), maps, strict=True):
            np.testing.assert_array_equal(actual, expected)


def test_failed_or_undefined_evaluation_does_not_end_the_run(tiny_shards, tmp_path, capfd):
    run = tmp_path / "run"
    assert train(run, tiny_shards, ScriptedEvaluator(-1.0, InputError("image 7: damaged"), 0.2, -1.0, 0.0)) == 0
    stderr = capfd.readouterr().err
    assert "step 10/48 AP - AP50 - AR - on 1 images in 0.5 s\n" in stderr
    assert "Warning: step 20: not evaluated: image 7: damaged\n" in stderr
    assert tiny.evaluations(run) == {10: -1.0, 30: 0.2, 40: -1.0, 48: 0.0}
    assert load_checkpoint(best_checkpoint_path(run)).step == 30
    assert len(tiny.losses(run)) == 48


@pytest.mark.parametrize("stop_at", [2, 5])
def test_stop_during_evaluation_saves_and_resuming_evaluates_again(tiny_shards, tiny_run, tmp_path, capfd, stop_at):
    run = tmp_path / "run"
    scores = (0.1, 0.3, 0.2, 0.4, 0.5)
    assert train(run, tiny_shards, ScriptedEvaluator(*scores, stop_at=stop_at), checkpoint_every=1000) == 0
    stopped = EVALUATED[stop_at - 1]
    stderr = capfd.readouterr().err
    assert stderr.endswith(f"Stopped after step {stopped} of 48; resume with: COMMAND\n")
    assert list_checkpoints(run)[-1] == checkpoint_path(run, stopped)
    assert list(tiny.evaluations(run)) == EVALUATED[: stop_at - 1]

    assert train(run, tiny_shards, ScriptedEvaluator(*scores[stop_at - 1 :]), checkpoint_every=1000, resume=True) == 0
    assert tiny.evaluations(run) == dict(zip(EVALUATED, scores, strict=True))
    assert tiny.losses(run) == tiny.losses(tiny_run)
    assert load_checkpoint(best_checkpoint_path(run)).best_score == BestScore(0.5, "scripted")
    assert [step for step, _ in read_curves(run)["validation/AP"]] == EVALUATED
    assert [step for step, _ in read_curves(run)["loss/total"]] == list(range(1, 49))

    capfd.readouterr()
    assert train(run, tiny_shards, ScriptedEvaluator(), resume=True) == 0
    assert "finished, all 48 steps are done" in capfd.readouterr().err


class Weights(nn.Cell):
    def __init__(self):
        super().__init__()
        self.layer = nn.Dense(3, 4)

    def parameters(self):
        return self.get_parameters()


def keep(validation, step, ap):
    score = Score(dict.fromkeys(AP_KEYS, ap), image_count=1, seconds=0.5)
    return validation.save_if_best(score, Weights(), TrainingPosition(step, records=48, shards="", processes=1))


def resumed(run, basis="scripted", rank=0):
    scripted = ScriptedEvaluator()
    scripted.basis = basis
    validation = Validation(run, recipe(), scripted, tiny.STEPS, World("CPU", rank, 2 if rank else 1))
    return validation, validation.resume()


def test_best_score_of_an_earlier_session_is_loaded(tmp_path):
    assert keep(resumed(tmp_path)[0], 20, 0.3)
    before = best_checkpoint_path(tmp_path).read_bytes()
    validation, messages = resumed(tmp_path)
    assert (validation.best, messages) == ((20, 0.3), [])
    assert not keep(validation, 10, 0.3)  # a run resumed from an earlier checkpoint evaluates this step again
    assert not keep(validation, 30, 0.3)
    assert best_checkpoint_path(tmp_path).read_bytes() == before
    assert keep(validation, 40, 0.4)
    assert load_checkpoint(best_checkpoint_path(tmp_path)).best_score == BestScore(0.4, "scripted")
    assert [path.name for path in best_checkpoint_path(tmp_path).parent.iterdir()] == ["best.ckpt"]


def test_best_score_with_another_basis_is_replaced(tmp_path):
    keep(resumed(tmp_path)[0], 20, 0.3)
    validation, messages = resumed(tmp_path, basis="other pictures")
    assert validation.best is None
    assert len(messages) == 1
    assert "best.ckpt: selected with other images or evaluation settings" in messages[0]
    assert keep(validation, 30, 0.05)
    assert load_checkpoint(best_checkpoint_path(tmp_path)).best_score == BestScore(0.05, "other pictures")


def test_damaged_best_checkpoint_is_reported_and_replaced(tmp_path):
    keep(resumed(tmp_path)[0], 20, 0.3)
    best_checkpoint_path(tmp_path).write_bytes(best_checkpoint_path(tmp_path).read_bytes()[:-1000])
    validation, messages = resumed(tmp_path)
    assert messages == [
        f"Warning: {best_checkpoint_path(tmp_path)}: damaged or not a MindSpore checkpoint; use an older one"
    ]
    assert keep(validation, 30, 0.05)
    assert load_checkpoint(best_checkpoint_path(tmp_path)).step == 30


def test_rank_0_decides_which_checkpoint_is_best(tmp_path, monkeypatch):
    monkeypatch.setattr(World, "all_gather", lambda self, values: values)
    monkeypatch.setattr(FileBarrier, "all_gather", lambda self, data: [b"better", data])
    validation, _ = resumed(tmp_path, rank=1)
    assert keep(validation, 20, 0.3)
    assert validation.best == (20, 0.3)
    assert not best_checkpoint_path(tmp_path).exists()


def test_folder_with_only_a_best_checkpoint_contains_a_run(tmp_path):
    keep(resumed(tmp_path)[0], 20, 0.3)
    with pytest.raises(InputError, match="already contains a run"):
        check_run_folder(tmp_path, resume=False)


@pytest.mark.parametrize("mark", [None, {}, {"ap": 2.0}, {"ap": "0.5"}, {"ap": float("nan")}])
def test_invalid_best_score_is_a_one_line_error(tmp_path, mark):
    keep(resumed(tmp_path)[0], 20, 0.3)
    path = best_checkpoint_path(tmp_path)
    state = {"format": 1, "config": {}, "step": 1, "records": 1, "processes": 1, "mark": mark}
    ms.save_checkpoint(Weights(), str(path), append_dict={"openpose": json.dumps(state)}, crc_check=True)
    with pytest.raises(InputError, match=r"best\.ckpt: mark is .*, expected an object with ap from 0 to 1"):
        load_checkpoint(path)


def test_command_checks_the_validation_set_first(tiny_recipe, tiny_shards, tmp_path):
    from training.train import main

    def run(*more, every="10"):
        options = ("--set", f"training.eval_every={every}", "--set", "training.epochs=1", *more)
        with tiny.restore_signal_mask():
            return CliRunner().invoke(main, tiny.command(tiny_recipe, tiny_shards, tmp_path / "run", *options)[3:])

    result = run("--val", str(tmp_path / "nowhere"))
    assert result.exit_code == 2
    assert result.stderr.startswith(f"Error: {tmp_path / 'nowhere'}")
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "run").exists()
    result = run()
    assert result.exit_code == 0, result.output
    assert "Warning: training.eval_every is set, but there is no validation set; give one with --val" in result.stderr
    assert tiny.evaluations(tmp_path / "run") == {}


def test_ranks_copy_the_running_statistics_of_rank_0(monkeypatch):
    from training.config import ModelConfig
    from training.loop.evaluation_network import EvaluationNetwork
    from training.network.openpose import OpenPose

    config = ModelConfig(
        backbone="compact", feature_widths=(8, 8), stages=1, first_width=8, stage_width=8, batch_norm=True
    )
    weights = {parameter.name: parameter for parameter in OpenPose(config).get_parameters()}
    moments = [name for name in weights if "moving" in name]
    given = []
    monkeypatch.setattr(World, "broadcast", lambda self, values: given.append(values) or values + 1)
    evaluation_network = EvaluationNetwork(config)
    evaluation_network.copy_weights(weights, World("CPU", rank=1, size=2))
    assert moments
    assert len(given[0]) == sum(weights[name].size for name in moments)
    for name, parameter in evaluation_network.parameters.items():
        expected = weights[name].asnumpy() + (name in moments)
        np.testing.assert_array_equal(parameter.asnumpy(), expected, err_msg=name)


def test_two_processes_share_the_images_of_an_evaluation(tiny_recipe, tiny_shards, tmp_path):
    run = tmp_path / "run"
    settings = ("training.batch_size=2", "training.eval_every=24", "training.eval_pictures=12", "model.batch_norm=true")
    more = [part for setting in settings for part in ("--set", setting)]
    command = tiny.command(tiny_recipe, tiny_shards, run, "--nproc", "2", "--val", str(tiny_shards), *more)
    process = tiny.start(command)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    lines = [line for line in tiny.metrics(run) if "AP" in line]
    assert [(line["step"], line["pictures"]) for line in lines] == [(24, 12), (48, 12)]
    assert err.count(" on 12 images in ") == 2
    best = load_checkpoint(best_checkpoint_path(run))
    assert f"Best: AP {best.best_score.ap:.3f} after step {best.step}, {best_checkpoint_path(run)}\n" in err
    assert [step for step, _ in read_curves(run)["validation/AP"]] == [24, 48]
