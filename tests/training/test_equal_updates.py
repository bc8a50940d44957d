"""The same samples give the same updates for any split into batches and processes, and after resuming."""

from __future__ import annotations

import itertools
import math
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support import tiny
from tests.training.test_step import GRADIENT, LR
from training.checkpoint.checkpoint import load_checkpoint
from training.checkpoint.run_folder import checkpoint_path
from training.config import Config
from training.optim.ema import AVERAGE_PREFIX

ALL_STATEFUL_OPTIONS = {
    "ema_decay": 0.99,
    "amp": "O2",
    "loss_scale": 2.0**24,  # too large at first
    "loss_scale_mode": "dynamic",
    "loss_scale_window": 9,
    "clip_norm": 1.0,
    "weight_decay": 1e-4,
    "warmup_steps": 5,
    "freeze_backbone_steps": 3,
}
"""Every option that has state in a checkpoint or changes an update."""


def resumed(config: Config, shards: Path, run: Path, out: Path) -> Path:
    """Copy a finished run, truncate its newest checkpoint, and train it to the end again."""
    shutil.copytree(run, out)
    newest = checkpoint_path(out, tiny.STEPS)
    newest.write_bytes(newest.read_bytes()[:-1000])
    assert tiny.train_in_process(config, shards, out, resume=True) == 0
    return out


def assert_same(run: Path, other: Path) -> None:
    """Compare bit for bit: logged losses, loss scales and overflows, and the last checkpoints."""
    for line, expected in zip(tiny.metrics(run), tiny.metrics(other), strict=True):
        for name in ("step", "loss", "terms", "rates", "loss_scale", "overflows"):
            assert line.get(name) == expected.get(name), (name, line["step"])
    actual, expected = (load_checkpoint(checkpoint_path(each, tiny.STEPS)).tensors for each in (run, other))
    assert actual.keys() == expected.keys()
    for name, tensor in actual.items():
        np.testing.assert_array_equal(tensor.asnumpy(), expected[name].asnumpy(), err_msg=name)


def assert_close(run: Path, other: Path) -> None:
    """Compare the losses of the first 20 steps, relative tolerance 1e-4."""
    actual, expected = tiny.losses(run), tiny.losses(other)
    assert actual.keys() == expected.keys()
    for step in range(1, 21):
        assert actual[step] == pytest.approx(expected[step], rel=1e-4), step


def test_two_accumulated_batches_equal_one_of_twice_the_size(tiny_run, tiny_shards, tmp_path):
    config = tiny.recipe(batch_size=2, accumulate=2)
    assert tiny.train_in_process(config, tiny_shards, tmp_path / "run") == 0
    assert_close(tmp_path / "run", tiny_run)
    assert (
        load_checkpoint(checkpoint_path(tmp_path / "run", tiny.STEPS)).tensors.keys()
        == load_checkpoint(checkpoint_path(tiny_run, tiny.STEPS)).tensors.keys()
    )


def test_run_with_all_kinds_of_state_resumes_bit_for_bit(tiny_shards, tmp_path, capfd):
    config = tiny.recipe(**ALL_STATEFUL_OPTIONS, batch_size=2, accumulate=2)
    run = tmp_path / "whole"
    assert tiny.train_in_process(config, tiny_shards, run) == 0
    lines = tiny.metrics(run)
    overflows = sum(line["overflows"] for line in lines)
    assert 0 < overflows < 20
    assert f" overflows {overflows}" in capfd.readouterr().err
    assert lines[0]["loss_scale"] == 2.0**24
    scales = [line["loss_scale"] for line in lines]
    assert any(later > earlier for earlier, later in itertools.pairwise(scales))  # it doubled
    again = resumed(config, tiny_shards, run, tmp_path / "again")
    assert_same(again, run)
    tensors = load_checkpoint(checkpoint_path(run, tiny.STEPS)).tensors
    assert tensors["loss_scale.value"].asnumpy() in (scales[-1] / 2, scales[-1], scales[-1] * 2)
    averages = {name for name in tensors if name.startswith(AVERAGE_PREFIX)}
    assert {name.removeprefix(AVERAGE_PREFIX) for name in averages} < tensors.keys()
    assert any(
        np.any(tensors[name].asnumpy() != tensors[name.removeprefix(AVERAGE_PREFIX)].asnumpy()) for name in averages
    )


def test_two_processes_with_accumulation_compute_the_losses_of_one(tiny_recipe, tiny_shards, tiny_run, tmp_path):
    """Batches of 1 image, 2 batches per update, 2 processes; then resumed from step 40, bit for bit."""
    run, again = tmp_path / "run", tmp_path / "again"
    options = ["--nproc", "2", "--set", "training.batch_size=1", "--set", "training.accumulate=2"]
    options += ["--set", "training.ema_decay=0.99", "--set", "training.loss_scale_mode=dynamic"]
    process = tiny.start(tiny.command(tiny_recipe, tiny_shards, run, *options))
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert_close(run, tiny_run)
    shutil.copytree(run, again)
    checkpoint_path(again, tiny.STEPS).unlink()
    process = tiny.start(tiny.command(tiny_recipe, tiny_shards, again, *options, "--resume"))
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "Resuming after step 40" in err
    assert_same(again, run)


def test_too_large_static_loss_scale_ends_the_run_with_advice(tiny_shards, tmp_path, capfd):
    config = tiny.recipe(amp="O2", loss_scale=2.0**24, loss_scale_mode="static")
    assert tiny.train_in_process(config, tiny_shards, tmp_path / "run") == 3
    results = capfd.readouterr().err
    assert "Error: step 20: training has diverged: the gradient is not finite; image ids " in results
    assert "lower training.loss_scale or set training.loss_scale_mode=dynamic" in results
    losses = tiny.losses(tmp_path / "run")
    assert sorted(losses) == list(range(1, 20))
    assert all(math.isfinite(loss) for loss in losses.values())


def test_overflow_on_one_process_skips_the_update_on_all(tmp_path):
    """The next update, from gradients g and 2 g, moves the weights of both processes by 1.5 g."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    binaries, logs = Path(sys.executable).parent, tmp_path / "logs"
    command = [binaries / "msrun", "--worker_num=2", "--local_worker_num=2", "--join=True", f"--master_port={port}"]
    command += [f"--log_dir={logs}", "python", "-m", "tests.support.overflow_worker", tmp_path / "debug"]
    path = f"{binaries}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(
        command, cwd=tiny.ROOT, env=os.environ | {"PATH": path}, capture_output=True, timeout=180, check=True
    )
    results = [
        [line.split()[1:] for line in log.read_text().splitlines() if line.startswith("RESULT")]
        for log in sorted(logs.glob("worker_*.log"))
    ]
    assert len(results) == 2
    assert results[0] == results[1]
    left_out, counted = ([float(number) for number in line] for line in results[0])
    assert left_out == [0, 1, 4, *[1] * 12]
    moved = LR * 1.5 * GRADIENT
    assert counted == pytest.approx([1, 1, 4, *(1 - moved), *(1 - moved / 2)])
