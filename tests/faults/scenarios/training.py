"""Training that is killed and resumed, and checkpoints saved on a full disk."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import psutil
import yaml

from pipeline.build.build_set import build
from pipeline.build.plan import BuildOptions
from pipeline.errors import InputError
from pipeline.synthetic import generate
from pipeline.system.log_filters import silence_mindspore
from tests.faults.report import FaultReport
from tests.faults.scenarios.builds import resize, small_disk
from tests.support import tiny
from training.loop.plan import plan_run

TRAINING = {
    "epochs": 40,
    "accumulate": 2,
    "ema_decay": 0.9,
    "loss_scale_mode": "dynamic",
    "loss_scale": 1024,
    "loss_scale_window": 7,
}
"""Six steps per epoch in one process and a checkpoint every ten steps, with all kinds of state in the checkpoint."""
TIMEOUT = 300
"""Timeout in seconds for the end of a training process."""


def kill_training(seed: int, cases: int, folder: Path) -> FaultReport:
    """Kill a training process at random times and resume: the losses must equal those without interruption."""
    return _kill_and_resume(seed, cases, folder, processes=1)


def kill_ranks(seed: int, cases: int, folder: Path) -> FaultReport:
    """Kill one or all of two training processes at random times and resume: the losses must not change."""
    return _kill_and_resume(seed, cases, folder, processes=2)


def _kill_and_resume(seed: int, cases: int, folder: Path, processes: int) -> FaultReport:
    shards, recipe = _create_shards_and_recipe(folder)
    more = ("--nproc", str(processes))
    reference = folder / "reference"
    report = FaultReport()
    started = time.monotonic()
    _, error = tiny.start(tiny.command(recipe, shards, reference, *more)).communicate(timeout=TIMEOUT)
    duration = time.monotonic() - started
    expected = tiny.losses(reference)
    if len(expected) != plan_run(tiny.recipe(**TRAINING), tiny.RECORDS, processes).total_steps:
        report.add_case("reference", f"did not finish: {error[-300:]}")
    reached = []
    for case in range(cases):
        rng = np.random.default_rng((seed, case))
        run = folder / "run"
        killed = tiny.start(tiny.command(recipe, shards, run, *more))
        with contextlib.suppress(subprocess.TimeoutExpired):
            killed.wait(float(rng.uniform(0.1, 1.0)) * duration)
        _kill_processes(killed, one_rank=processes > 1 and case % 2 == 0)
        killed.communicate(timeout=TIMEOUT)
        reached.append(len((run / "metrics.jsonl").read_text().splitlines()) if (run / "metrics.jsonl").exists() else 0)
        resumed = tiny.start(tiny.command(recipe, shards, run, *more, "--resume"))
        error = resumed.communicate(timeout=TIMEOUT)[1]
        problem = f"exit code {resumed.returncode}: {error[-300:]}" if resumed.returncode else None
        if not problem and tiny.losses(run) != expected:
            problem = "losses differ from a training without interruption"
        report.add_case(f"killed after step {reached[-1]} (case {case})", problem)
        shutil.rmtree(run, ignore_errors=True)
    report.figures.append(f"killed between steps {min(reached)} and {max(reached)} of {len(expected)}")
    return report


def _create_shards_and_recipe(folder: Path) -> tuple[Path, Path]:
    """Create a shard set and a recipe file."""
    generate(folder / "coco", train=tiny.RECORDS, val=0, size=192, workers=1)
    build([(folder / "coco", "train2017")], folder / "shards", BuildOptions(keep_empty=True), workers=1)
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({**tiny.RECIPE, "training": tiny.RECIPE["training"] | TRAINING}))
    return folder / "shards", recipe


def _kill_processes(process: subprocess.Popen[str], *, one_rank: bool) -> None:
    """Send SIGKILL to a process and all its descendants, or to one worker only, after which the others must end."""
    with contextlib.suppress(psutil.NoSuchProcess):
        family = psutil.Process(process.pid).children(recursive=True)
        workers = [child for child in family if _process_role(child) == "MS_WORKER"]
        if one_rank and workers:
            family = workers[-1:]
        else:
            process.kill()
        for child in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.send_signal(signal.SIGKILL)


def _process_role(process: psutil.Process) -> str | None:
    with contextlib.suppress(psutil.Error):
        return process.environ().get("MS_ROLE")
    return None


def full_disk(seed: int, cases: int, folder: Path) -> FaultReport:
    """Save a checkpoint on a full disk: the previous checkpoint must stay valid, and no other file may be left."""
    silence_mindspore()
    from training.checkpoint.checkpoint import TrainingPosition, newest_checkpoint, save_checkpoint
    from training.network.openpose import OpenPose

    report = FaultReport()
    parameters = list(OpenPose(tiny.recipe().model).get_parameters())
    try:
        for case in range(cases):
            with small_disk(folder / f"disk{case}", "8m") as disk:

                def save(step: int, run: Path = disk / "run") -> Path:
                    position = TrainingPosition(step, records=48, shards="", processes=1)
                    return save_checkpoint(run, parameters, tiny.recipe(), position, keep=2)

                first = save(1)
                used = sum(path.stat().st_size for path in disk.rglob("*") if path.is_file())
                room = int(np.random.default_rng((seed, case)).integers(0, first.stat().st_size // 1024))
                resize(disk, f"size={used // 1024 + room + 8}k")
                problem = _save_problem(save)
                left = [path.name for path in first.parent.iterdir()]
                newest = newest_checkpoint(disk / "run")[0]
                if left != [first.name] or newest is None or newest.step != 1:
                    problem = problem or f"files after the failed save: {left}"
                resize(disk, "size=8m")
                save(3)
                report.add_case(f"{room} KB free", problem)
    except PermissionError as error:
        report.skipped.append(str(error))
    return report


def _save_problem(save: object) -> str | None:
    try:
        save(2)  # type: ignore[operator]
    except InputError as error:
        return None if "\n" not in str(error) else "the error has more than one line"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "no error on a full disk"
