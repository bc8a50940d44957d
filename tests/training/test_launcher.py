"""Two processes under msrun: same losses as one process, and no process left after a signal or a failure."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from pipeline.system.signals import StopSignal
from tests.support import tiny
from training.checkpoint.checkpoint import load_checkpoint
from training.checkpoint.run_folder import checkpoint_path, list_checkpoints
from training.distributed.process_monitor import MAX_ERROR_LINES, ProcessMonitor, extract_error_lines

pytestmark = pytest.mark.usefixtures("no_processes_left")

BATCH = ("--set", "training.batch_size=2")
STATEFUL_OPTIONS = ("ema_decay=0.9", "loss_scale_mode=dynamic", "loss_scale=1024", "loss_scale_window=7")
"""Options with state of their own in a checkpoint, which do not change the losses of the tiny recipe."""
TWO_PROCESSES = (
    "--nproc",
    "2",
    *BATCH,
    *(word for field in STATEFUL_OPTIONS for word in ("--set", f"training.{field}")),
)
ENDLESS = (*TWO_PROCESSES, "--set", "training.epochs=5000")


def processes_of(run: Path) -> list[psutil.Process]:
    """Processes with the run folder in their command line."""
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
def no_processes_left(tmp_path):
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


def finish(process: subprocess.Popen[str], timeout: float = 300) -> tuple[int, str]:
    """Wait for a command; return its exit code and stderr."""
    _, err = process.communicate(timeout=timeout)
    return process.returncode, err


def wait_for_worker(run: Path, rank: int) -> psutil.Process:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with contextlib.suppress(AssertionError, psutil.Error):
            return worker(run, rank)
        time.sleep(0.1)
    raise AssertionError(f"no worker {rank}")


@pytest.fixture(scope="module")
def two(tiny_recipe, tiny_shards, tmp_path_factory):
    """A finished run of two processes and its stderr; shared by tests, do not modify."""
    run = tmp_path_factory.mktemp("two") / "run"
    code, err = finish(tiny.start(tiny.command(tiny_recipe, tiny_shards, run, *TWO_PROCESSES)))
    assert code == 0, err
    return run, err


def test_two_processes_compute_the_losses_of_one(tiny_run, two):
    run, err = two
    assert "2 x CPU, 48 records: 48 steps of 4 images, 4 epochs" in err
    assert "step 48/48 epoch 4/4" in err
    assert "[INFO]" not in err
    actual, expected = tiny.losses(run), tiny.losses(tiny_run)
    assert actual.keys() == expected.keys()
    for step in range(1, 21):
        assert actual[step] == pytest.approx(expected[step], rel=1e-4)
    position = load_checkpoint(list_checkpoints(run)[-1]).position
    assert (position.step, position.processes) == (48, 2)
    logs = sorted(path.name for path in (run / "logs").iterdir())
    assert logs == ["msrun.log", "scheduler.log", "worker_0.log", "worker_1.log"]


def test_two_processes_resume_bit_for_bit(two, tiny_recipe, tiny_shards, tmp_path):
    """Resumes from step 40, as after a crash of the machine; `make faults` kills runs at random times."""
    run = Path(shutil.copytree(two[0], tmp_path / "run"))
    newest = checkpoint_path(run, 48)
    newest.write_bytes(newest.read_bytes()[:-1000])
    code, err = finish(tiny.start(tiny.command(tiny_recipe, tiny_shards, run, *TWO_PROCESSES, "--resume")))
    assert code == 0, err
    assert "Resuming after step 40" in err
    assert tiny.losses(run) == tiny.losses(two[0])
    actual, expected = load_checkpoint(newest).tensors, load_checkpoint(checkpoint_path(two[0], 48)).tensors
    assert any(name.startswith("ema.") for name in actual)
    for name, tensor in actual.items():
        np.testing.assert_array_equal(tensor.asnumpy(), expected[name].asnumpy(), err_msg=name)


def test_two_machines_compute_the_losses_of_one(two, tiny_recipe, tiny_shards, tmp_path):
    """Both machines are this one: two commands with one worker each."""
    run, port = tmp_path / "run", free_port()
    cluster = ("--hosts", "2", "--master", "127.0.0.1", "--master-port", str(port))
    command = tiny.command(tiny_recipe, tiny_shards, run, *TWO_PROCESSES[2:], *cluster)
    machines = [tiny.start([*command, "--node-rank", rank]) for rank in ("0", "1")]
    (code, err), (other_code, other_err) = (finish(machine) for machine in machines)
    assert (code, other_code) == (0, 0), err + other_err
    assert "2 x CPU, 48 records: 48 steps of 4 images, 4 epochs" in err
    assert other_err == "Machine 1 of 2: worker 1; progress is shown on machine 0, 127.0.0.1\n"
    assert tiny.losses(run) == tiny.losses(two[0])
    logs = sorted(str(path.relative_to(run / "logs")) for path in (run / "logs").rglob("*.log"))
    first = [f"node_0/{name}.log" for name in ("msrun", "scheduler", "worker_0")]
    assert [name for name in logs if name != "node_1/scheduler.log"] == [
        *first,
        "node_1/msrun.log",
        "node_1/worker_1.log",
    ]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


FAILING_WORKER = """
import os
from pipeline.loading.collate import Collator
write_image, remaining = Collator.write_image, {after}
def write_or_fail(*arguments):
    global remaining
    remaining -= 1
    if remaining < 0:
        raise ValueError("broken on purpose")
    return write_image(*arguments)
if (os.environ.get("MS_ROLE"), os.environ.get("RANK_ID")) == ("MS_WORKER", "{rank}"):
    Collator.write_image = write_or_fail
"""
"""A sitecustomize module, which Python runs at startup: one worker fails after `after` images."""


@pytest.mark.parametrize(("rank", "after"), [(1, 0), (0, 20)])
def test_error_of_the_failed_worker_is_printed(rank, after, tiny_recipe, tiny_shards, tmp_path, monkeypatch):
    """Failure at the first step and later; the printed lines end with the exception."""
    run, hook = tmp_path / "run", tmp_path / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(FAILING_WORKER.format(rank=rank, after=after))
    monkeypatch.setenv("PYTHONPATH", f"{hook}{os.pathsep}{tiny.ROOT}")
    code, err = finish(tiny.start(tiny.command(tiny_recipe, tiny_shards, run, *ENDLESS)))
    assert code == 1, err
    assert err.count("ValueError: broken on purpose") == 1
    assert f"Error: worker {rank} ended with exit code 1; all logs are in {run / 'logs'}" in err
    if rank:
        assert err.rstrip().endswith("ValueError: broken on purpose")
        assert f"--- {run / 'logs' / 'worker_1.log'}" in err


def test_sigterm_saves_and_no_process_outlives_a_killed_parent(tiny_recipe, tiny_shards, tmp_path):
    run = tmp_path / "run"
    process = tiny.start(tiny.command(tiny_recipe, tiny_shards, run, *ENDLESS))
    wait_for_step(run, 2, process)
    process.send_signal(signal.SIGTERM)
    code, err = finish(process)
    assert code == 0, err
    stopped = max(tiny.losses(run))
    assert list_checkpoints(run)[-1] == checkpoint_path(run, stopped)
    assert processes_of(run) == []

    process = tiny.start(tiny.command(tiny_recipe, tiny_shards, run, *ENDLESS, "--resume"))
    wait_for_worker(run, 1).parent().kill()
    code, err = finish(process, timeout=30)
    assert code == 1, err
    assert f"Error: msrun failed; all logs are in {run / 'logs'}" in err
    assert processes_of(run) == []

    process = tiny.start(tiny.command(tiny_recipe, tiny_shards, run, *ENDLESS, "--resume"))
    wait_for_worker(run, 1)
    process.kill()
    deadline = time.monotonic() + 30
    while processes_of(run) and time.monotonic() < deadline:
        time.sleep(0.2)
    # the fixture checks that no process is left
    process.communicate(timeout=30)


def test_ctrl_c_saves_and_a_killed_worker_is_reported(tiny_recipe, tiny_shards, tmp_path):
    run = tmp_path / "run"
    process = tiny.start(tiny.command(tiny_recipe, tiny_shards, run, *ENDLESS))
    wait_for_step(run, 2, process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    stopped = max(tiny.losses(run))
    assert f"Stopped after step {stopped} of 60000; resume with: " in err
    assert list_checkpoints(run)[-1].name == f"step-{stopped:07d}.ckpt"
    assert processes_of(run) == []

    process = tiny.start(tiny.command(tiny_recipe, tiny_shards, run, *ENDLESS, "--resume"))
    wait_for_step(run, stopped + 2, process)
    assert sorted(tiny.losses(run)) == list(range(1, max(tiny.losses(run)) + 1))
    worker(run, 1).kill()
    _, err = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGKILL, err
    # without the process monitor, msrun would wait 30 s until its scheduler times out
    assert "timed out" not in (run / "logs" / "scheduler.log").read_text()
    assert f"Resuming after step {stopped}" in err
    assert f"Error: worker 1 ended with SIGKILL; all logs are in {run / 'logs'}" in err


FAKE_MSRUN = """
import os, subprocess, sys, time
worker = "import signal, time, sys; {0}; print('ready', flush=True); time.sleep(600)"
subprocess.Popen([sys.executable, "-c", "{1}"], env=os.environ | {{"MS_ROLE": "MS_SCHED"}})
with open(sys.argv[1] + "/worker_0.log", "wb") as log:
    environment = os.environ | {{"MS_ROLE": "MS_WORKER", "RANK_ID": "0"}}
    command = [sys.executable, "-c", worker, sys.argv[1]]
    child = subprocess.Popen(command, env=environment, stdout=log, start_new_session=True)
code = child.wait()
sys.exit(code != 0)
"""
"""Starts a scheduler and, in a session of its own, a worker, as msrun does; then waits for the worker."""
SCHEDULER = "import time; time.sleep(600)"


def run_monitor(logs: Path, worker: str, number: int, count: int = 1, scheduler: str = SCHEDULER) -> int:
    """Monitor a worker that runs `worker` first; send a signal `count` times when it is ready. Return the exit code."""
    logs.mkdir()
    with tiny.restore_signal_mask():
        signals = StopSignal()
    (logs / "msrun.log").touch()
    parent = subprocess.Popen(
        [sys.executable, "-c", FAKE_MSRUN.format(worker, scheduler), str(logs)], start_new_session=True
    )

    def interrupt() -> None:
        log = logs / "worker_0.log"
        while not (log.is_file() and "ready" in log.read_text()):
            time.sleep(0.05)
        signals.number, signals.count = number, count

    ready = threading.Thread(target=interrupt)
    ready.start()
    code = ProcessMonitor(parent, logs, signals).wait_for_workers()
    ready.join()
    return code


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_signals_are_forwarded_to_a_worker_in_another_session(tmp_path, number, code):
    came = tmp_path / "came"
    worker = f"[signal.signal(n, lambda n, f: (open('{came}', 'w').write(str(n)), sys.exit(0))) for n in (2, 15)]"
    assert run_monitor(tmp_path / "logs", worker, number) == code
    assert came.read_text() == str(int(number))


def test_second_signal_kills_the_workers(tmp_path, capfd):
    worker = "[signal.signal(n, signal.SIG_IGN) for n in (2, 15)]"
    assert run_monitor(tmp_path / "logs", worker, signal.SIGINT, count=2) == 130
    assert "Killed; continue from the last checkpoint with --resume" in capfd.readouterr().err


def test_workers_are_killed_after_their_scheduler_ended(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("training.distributed.process_monitor.SCHEDULER_LOSS_TIMEOUT", 1.0)
    log = tmp_path / "logs" / "scheduler.log"
    scheduler = f"import time; time.sleep(2); open('{log}', 'w').write('timed out'); raise SystemExit(1)"
    assert run_monitor(tmp_path / "logs", "pass", number=0, count=0, scheduler=scheduler) == 1
    stderr = capfd.readouterr().err
    assert f"Error: the scheduler ended before the workers; all logs are in {tmp_path / 'logs'}" in stderr
    assert stderr.endswith("scheduler.log\ntimed out\n")


def test_worker_that_ignores_the_signal_is_killed(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("training.distributed.process_monitor.STOP_TIMEOUT", 1.0)
    worker = "[signal.signal(n, signal.SIG_IGN) for n in (2, 15)]"
    assert run_monitor(tmp_path / "logs", worker, signal.SIGTERM) == 1
    assert "Error: the workers did not end within 1 s" in capfd.readouterr().err


LOG = """\
[ERROR] DISTRIBUTED(7,7f,python):2026-11-24-14:40:00.000.000 [mindspore/x.cc:1] Close] it is over
Traceback (most recent call last):
  File "/work/training/run.py", line 1, in train
    reduce(values)
RuntimeError: The state of the cluster is error

----------------------------------------------------
- C++ Call Stack: (For framework developers)
----------------------------------------------------
mindspore/ccsrc/cluster/topology/compute_graph_node.cc:328 Heartbeat

[WARNING] ME(7:7f,MainProcess):2026-11-24-14:40:00.000.000 [mindspore/run_check.py:1] about something else
"""


def test_error_lines_are_extracted_from_a_log():
    assert extract_error_lines(LOG) == LOG.splitlines()[1:5]
    assert extract_error_lines(LOG.splitlines()[0]) == LOG.splitlines()[:1]
    assert extract_error_lines("\n".join(map(str, range(100)))) == [str(n) for n in range(100 - MAX_ERROR_LINES, 100)]
    assert extract_error_lines("") == []
