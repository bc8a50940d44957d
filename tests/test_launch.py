"""Two processes through msrun: they learn what one learns, and nothing survives a signal or a failure."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from tests import tiny
from training.callbacks import StopSignal
from training.checkpoint import load_checkpoint
from training.folder import checkpoints
from training.watch import Watch

pytestmark = pytest.mark.usefixtures("nothing_survives")

HALF = ("--nproc", "2", "--set", "training.batch_size=2")
ENDLESS = (*HALF, "--set", "training.epochs=5000")


def processes_of(run: Path) -> list[psutil.Process]:
    """Every process with the run's folder in its command line, or its environment's."""
    found = []
    for process in psutil.process_iter():
        try:
            if any(str(run) in argument for argument in process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def worker(run: Path, rank: int) -> psutil.Process:
    for process in processes_of(run):
        environment = process.environ()
        if environment.get("MS_ROLE") == "MS_WORKER" and environment.get("RANK_ID") == str(rank):
            return process
    raise AssertionError(f"no worker {rank}")


@pytest.fixture
def nothing_survives(tmp_path):
    yield
    left = processes_of(tmp_path)
    for process in left:
        process.kill()
    assert left == []


def wait_for_step(run: Path, step: int, process) -> None:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline and process.poll() is None:
        if (run / "metrics.jsonl").is_file() and max(tiny.losses(run), default=0) >= step:
            return
        time.sleep(0.1)
    raise AssertionError(process.communicate()[1])


def test_two_processes_learn_what_one_learns(tiny_run, tiny_recipe, tiny_shards, tmp_path):
    run = tmp_path / "run"
    process = tiny.start(tiny.command(tiny_recipe, tiny_shards, run, *HALF))
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "2 x CPU, 48 records: 48 steps of 4 images, 4 epochs" in err
    assert "step 48/48 epoch 4/4" in err
    assert "[INFO]" not in err
    ours, theirs = tiny.losses(run), tiny.losses(tiny_run)
    assert ours.keys() == theirs.keys()
    for step in range(1, 21):
        assert ours[step] == pytest.approx(theirs[step], rel=1e-4)
    position = load_checkpoint(checkpoints(run)[-1]).position
    assert (position.step, position.processes) == (48, 2)
    logs = sorted(path.name for path in (run / "logs").iterdir())
    assert logs == ["msrun.log", "scheduler.log", "worker_0.log", "worker_1.log"]


def test_ctrl_c_saves_and_a_killed_worker_is_told_of(tiny_recipe, tiny_shards, tmp_path):
    run = tmp_path / "run"
    process = tiny.start(tiny.command(tiny_recipe, tiny_shards, run, *ENDLESS))
    wait_for_step(run, 2, process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    stopped = max(tiny.losses(run))
    assert f"Stopped after step {stopped} of 60000; go on with: " in err
    assert checkpoints(run)[-1].name == f"step-{stopped:07d}.ckpt"
    assert processes_of(run) == []

    process = tiny.start(tiny.command(tiny_recipe, tiny_shards, run, *ENDLESS, "--resume"))
    wait_for_step(run, stopped + 2, process)
    assert sorted(tiny.losses(run)) == list(range(1, max(tiny.losses(run)) + 1))
    worker(run, 1).kill()
    _, err = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGKILL, err
    # msrun alone would wait half a minute for its scheduler to notice
    assert "timed out" not in (run / "logs" / "scheduler.log").read_text()
    assert f"Going on after step {stopped}" in err
    assert f"Error: worker 1 ended with SIGKILL; all logs are in {run / 'logs'}" in err


STAND_IN = """
import os, subprocess, sys, time
worker = "import signal, time, sys; {0}; print('ready', flush=True); time.sleep(600)"
with open(sys.argv[1] + "/worker_0.log", "wb") as log:
    environment = os.environ | {{"MS_ROLE": "MS_WORKER", "RANK_ID": "0"}}
    command = [sys.executable, "-c", worker, sys.argv[1]]
    child = subprocess.Popen(command, env=environment, stdout=log, start_new_session=True)
code = child.wait()
sys.exit(code != 0)
"""
"""Starts a worker in a session of its own, as msrun does, and waits for it."""


def watch(logs: Path, worker: str, number: int) -> int:
    """Watch one worker that runs `worker` first, with a signal that comes once it is ready; returns the exit code."""
    logs.mkdir()
    with tiny.kept_signals():
        signals = StopSignal()
    (logs / "msrun.log").touch()
    parent = subprocess.Popen([sys.executable, "-c", STAND_IN.format(worker), str(logs)], start_new_session=True)

    def interrupt() -> None:
        log = logs / "worker_0.log"
        while not (log.is_file() and "ready" in log.read_text()):
            time.sleep(0.05)
        signals.number = number

    ready = threading.Thread(target=interrupt)
    ready.start()
    code = Watch(parent, logs, signals).until_the_end()
    ready.join()
    return code


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_signals_reach_a_worker_in_another_session(tmp_path, number, code):
    came = tmp_path / "came"
    worker = f"[signal.signal(n, lambda n, f: (open('{came}', 'w').write(str(n)), sys.exit(0))) for n in (2, 15)]"
    assert watch(tmp_path / "logs", worker, number) == code
    assert came.read_text() == str(int(number))


def test_a_worker_that_does_not_end_is_killed(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("training.watch.GRACE", 1.0)
    worker = "[signal.signal(n, signal.SIG_IGN) for n in (2, 15)]"
    assert watch(tmp_path / "logs", worker, signal.SIGTERM) == 1
    assert "Error: the workers did not end within 1 s" in capfd.readouterr().err
