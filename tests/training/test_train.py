"""Training runs with a tiny recipe: the loss decreases, and a resumed run equals an uninterrupted one."""

from __future__ import annotations

import itertools
import math
import re
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from pipeline.errors import InputError
from tests.support import tiny
from training.checkpoint.checkpoint import load_checkpoint
from training.checkpoint.run_folder import checkpoint_path, list_checkpoints
from training.loop.trainer import EXIT_DIVERGED
from training.recipes import load_config, override_config


def test_loss_decreases(tiny_run):
    losses = list(tiny.losses(tiny_run).values())
    assert len(losses) == tiny.STEPS
    first, last = np.mean(losses[:12]), np.mean(losses[-12:])  # one epoch each: the same images
    assert last < 0.9 * first


def test_loss_decreases_with_the_demo_recipe(tiny_shards, tmp_path):
    settings = ["training.epochs=8", "training.log_every=1", "training.warmup_steps=1"]
    config = load_config(tiny.ROOT / "configs" / "demo.yaml", settings)
    assert tiny.train_in_process(config, tiny_shards, tmp_path / "run") == 0
    losses = list(tiny.losses(tmp_path / "run").values())
    epoch = tiny.RECORDS // config.training.batch_size
    assert np.mean(losses[-epoch:]) < 0.9 * np.mean(losses[epoch : 2 * epoch])


def test_metrics_hold_every_step(tiny_run):
    lines = tiny.metrics(tiny_run)
    assert [line["step"] for line in lines] == list(range(1, tiny.STEPS + 1))
    assert [line["epoch"] for line in lines] == [step // 12 for step in range(tiny.STEPS)]
    for line in lines:
        assert set(line) == {"step", "epoch", "loss", "lr", "images_per_s", "data_wait", "terms", "rates"}
        assert list(line["terms"]) == ["pafs_1", "pafs_2", "heatmaps_1", "heatmaps_2"]
        assert line["loss"] == sum(line["terms"].values())
        assert line["rates"] == dict.fromkeys(("backbone", "features", "stages"), line["lr"])
        assert line["images_per_s"] > 0
        assert 0 <= line["data_wait"] <= 1
    assert lines[0]["lr"] == 3e-3
    assert lines[-1]["lr"] < 1e-5


def test_files_of_a_finished_run(tiny_run):
    left = {path.name for path in tiny_run.iterdir()}
    assert left == {"checkpoints", "config.yaml", "metrics.jsonl", "run.json", "tensorboard"}
    assert [path.name for path in list_checkpoints(tiny_run)] == ["step-0000040.ckpt", "step-0000048.ckpt"]
    assert load_config(tiny_run / "config.yaml") == tiny.recipe()
    position = load_checkpoint(list_checkpoints(tiny_run)[-1]).position
    assert (position.step, position.records, position.processes) == (tiny.STEPS, tiny.RECORDS, 1)


def copy(run: Path, out: Path) -> Path:
    shutil.copytree(run, out)
    return out


def test_killed_run_resumes_bit_for_bit(tiny_run, tiny_shards, tmp_path, capfd):
    """Resumes from step 40, because the newest checkpoint is truncated as after a crash of the machine."""
    run = copy(tiny_run, tmp_path / "run")
    newest = checkpoint_path(run, 48)
    newest.write_bytes(newest.read_bytes()[:-1000])
    assert tiny.train_in_process(tiny.recipe(), tiny_shards, run, resume=True) == 0
    stderr = capfd.readouterr().err
    assert f"Warning: {newest}: damaged" in stderr
    assert "Resuming after step 40" in stderr
    assert tiny.losses(run) == tiny.losses(tiny_run)
    actual, expected = load_checkpoint(newest).tensors, load_checkpoint(checkpoint_path(tiny_run, 48)).tensors
    assert actual.keys() == expected.keys()
    for name, tensor in actual.items():
        np.testing.assert_array_equal(tensor.asnumpy(), expected[name].asnumpy(), err_msg=name)


def test_resuming_a_finished_run_changes_nothing(tiny_run, tiny_shards, tmp_path, capfd):
    run = copy(tiny_run, tmp_path / "run")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert tiny.train_in_process(tiny.recipe(), tiny_shards, run, resume=True) == 0
    assert "finished, all 48 steps are done" in capfd.readouterr().err
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "model.stages=1",
            r"tiny: model\.stages: the checkpoints were made with 2, but the recipe has 1: resume with",
        ),
        ("training.seed=1", r"tiny: training\.seed: the checkpoints were made with 0, but the recipe has 1"),
    ],
)
def test_resuming_with_another_recipe_is_an_error(tiny_run, tiny_shards, change, message):
    with pytest.raises(InputError, match=message):
        tiny.train_in_process(override_config(tiny.recipe(), [change]), tiny_shards, tiny_run, resume=True)


def test_resuming_with_other_shards_is_an_error(tiny_run, coco_shards):
    with pytest.raises(InputError, match=r"trained on other shards \(48 records, now \d+\)"):
        tiny.train_in_process(tiny.recipe(), coco_shards, tiny_run, resume=True)


def test_a_run_is_not_overwritten(tiny_run, tiny_shards):
    with pytest.raises(InputError, match="already contains a run"):
        tiny.train_in_process(tiny.recipe(), tiny_shards, tiny_run)


def test_unavailable_device_is_an_error(tmp_path):
    from training.distributed.world import init_world

    with pytest.raises(InputError, match="--device ascend: MindSpore finds no Ascend device"):
        init_world("ascend", tmp_path / "debug")


def test_nonfinite_loss_ends_the_run(tiny_shards, tmp_path, capfd):
    run = tmp_path / "run"
    config = tiny.recipe(lr=10.0, schedule="steps", checkpoint_every=1)
    assert tiny.train_in_process(config, tiny_shards, run) == EXIT_DIVERGED == 3
    stderr = capfd.readouterr().err
    failed = len(tiny.losses(run)) + 1
    assert f"Error: step {failed}: training has diverged: the " in stderr
    assert "is not finite; image ids " in stderr
    ids = [int(i) for i in stderr.partition("image ids ")[2].partition(";")[0].split(",")]
    assert len(ids) == 4
    assert all(math.isfinite(loss) for loss in tiny.losses(run).values())
    weights = load_checkpoint(list_checkpoints(run)[-1]).tensors
    assert load_checkpoint(list_checkpoints(run)[-1]).step == failed - 1
    assert all(np.isfinite(tensor.asnumpy()).all() for tensor in weights.values())


def insert_nans(monkeypatch, steps):
    """Write a NaN into the targets of the given steps."""
    from training.loop import trainer as run

    whole, done = run.create_batches, itertools.count(1)

    def create_batches(*arguments, **options):
        for batch in whole(*arguments, **options):
            if next(done) in steps:
                batch["heatmaps"][0, 0, 0, 0] = np.nan
            yield batch

    monkeypatch.setattr(run, "create_batches", create_batches)


def test_nonfinite_steps_are_skipped_and_counted(tiny_shards, tiny_run, tmp_path, capfd, monkeypatch):
    run = tmp_path / "run"
    insert_nans(monkeypatch, {13, 20, 21})
    config = tiny.recipe(on_nonfinite="skip")
    assert tiny.train_in_process(config, tiny_shards, run) == 0
    stderr = capfd.readouterr().err
    ids = re.findall(
        r"Warning: step (\d+): the loss is not finite; image ids ([\d, ]+); update skipped, (\d) so far", stderr
    )
    assert [(step, count) for step, _, count in ids] == [("13", "1"), ("20", "2"), ("21", "3")]
    losses = tiny.losses(run)
    assert losses.keys() == tiny.losses(tiny_run).keys() - {13, 20, 21}
    assert all(math.isfinite(loss) for loss in losses.values())
    assert [losses[step] for step in range(1, 13)] == [tiny.losses(tiny_run)[step] for step in range(1, 13)]
    weights = load_checkpoint(list_checkpoints(run)[-1]).tensors
    assert all(np.isfinite(tensor.asnumpy()).all() for tensor in weights.values())


def test_consecutive_nonfinite_steps_end_the_run(tiny_shards, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr("training.loop.trainer.MAX_CONSECUTIVE_SKIPS", 3)
    insert_nans(monkeypatch, {3, 5, 6, 7})
    assert tiny.train_in_process(tiny.recipe(on_nonfinite="skip"), tiny_shards, tmp_path / "run") == EXIT_DIVERGED
    stderr = capfd.readouterr().err
    assert stderr.count("Warning: step ") == 3
    assert "Error: step 7: training has diverged: the loss is not finite; image ids " in stderr
    assert sorted(tiny.losses(tmp_path / "run")) == [1, 2, 4]


def test_nonfinite_running_statistics_end_the_run(tiny_shards, tmp_path, capfd):
    """Inputs exceed the range of float16, so that the statistics of batch normalisation stay infinite."""
    config = override_config(
        tiny.recipe(on_nonfinite="skip", amp="O2"), ["model.batch_norm=true", "model.std=[0.001, 0.001, 0.001]"]
    )
    assert tiny.train_in_process(config, tiny_shards, tmp_path / "run") == EXIT_DIVERGED
    stderr = capfd.readouterr().err
    assert "Error: step 1: training has diverged: the gradient is not finite; image ids " in stderr
    assert "the running statistics of batch normalisation are not finite; lower training.lr" in stderr


@pytest.fixture(scope="module")
def coco_shards(coco_mini, tmp_path_factory):
    from pipeline.build.build_set import build
    from pipeline.build.plan import BuildOptions

    out = tmp_path_factory.mktemp("real") / "train"
    build([(coco_mini, "train2017")], out, BuildOptions(), workers=1)
    return out


def test_stop_before_the_first_step_with_targets_on_the_device(coco_shards, tmp_path, capfd):
    """SIGTERM on real images: one step, a checkpoint, exit code 0."""
    run = tmp_path / "run"
    config = override_config(tiny.recipe(), ["data.targets=device", "data.max_people=32"])
    assert tiny.train_in_process(config, coco_shards, run, resume=True, stop=signal.SIGTERM) == 0
    stderr = capfd.readouterr().err
    assert f"{run}: no checkpoint yet, starting a new run" in stderr
    assert "Stopped after step 1 of " in stderr
    assert "resume with: COMMAND" in stderr
    assert [path.name for path in list_checkpoints(run)] == ["step-0000001.ckpt"]


def test_ctrl_c_saves_and_prints_the_resume_command(tiny_recipe, tiny_shards, tmp_path):
    run = tmp_path / "run"
    process = tiny.start(tiny.command(tiny_recipe, tiny_shards, run, "--set", "training.epochs=5000"))
    deadline = time.monotonic() + 120
    while not (run / "metrics.jsonl").is_file() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert out == ""
    steps = len(tiny.losses(run))
    assert [path.name for path in list_checkpoints(run)][-1] == f"step-{steps:07d}.ckpt"
    assert "Stopping after the current step" in err
    assert f"Stopped after step {steps} of 60000; resume with: " in err
    assert err.rstrip().endswith("--set training.epochs=5000 --resume")
    assert "Traceback" not in err
    assert sorted(path.name for path in run.iterdir()) == [
        "checkpoints",
        "config.yaml",
        "metrics.jsonl",
        "run.json",
        "tensorboard",
    ]


def test_invalid_input_is_a_one_line_error_with_exit_code_2(tiny_recipe, tiny_shards, tmp_path):
    from click.testing import CliRunner

    from training.train import main

    def run(*more, recipe=tiny_recipe, shards=tiny_shards, out=tmp_path / "run"):
        with tiny.restore_signal_mask():
            return CliRunner().invoke(main, tiny.command(recipe, shards, out, *more)[3:])

    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump({"training": {"batch": 3}}))
    for result, message in (
        (run(recipe=tmp_path / "no.yaml"), "no.yaml: cannot be read"),
        (run(recipe=other), "other.yaml: training.batch: unknown key; did you mean batch_size?"),
        (run("--set", "training.lr=x"), "training.lr: 'x': input should be a valid number"),
        (run(shards=tmp_path), "make shards"),
        (run("--set", "training.batch_size=49"), "takes 49 records a step, but the training set has 48"),
        (run("--nproc", "13"), "4 on 13 processes takes 52 records a step"),
        (run(out=other), "other.yaml: is a file; expected a folder"),
    ):
        assert result.exit_code == 2, result.output
        assert result.stderr.startswith("Error: ")
        assert message in result.stderr
        assert len(result.stderr.splitlines()) == 1, result.stderr
    assert not (tmp_path / "run").exists()
    (tmp_path / "blocked" / "metrics.jsonl").mkdir(parents=True)
    result = run(out=tmp_path / "blocked")
    assert result.exit_code == 2, result.output
    assert result.stderr.endswith(f"Error: {tmp_path / 'blocked' / 'metrics.jsonl'}: Is a directory\n")
