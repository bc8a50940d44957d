"""Train: killed at any moment and resumed, and saved to a disk that is full."""

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
from tests.faults.report import Findings
from tests.faults.scenarios.builds import resize, small_disk
from tests.support import tiny
from training.loop.plan import plan_run

LEARNING = {
    "epochs": 40,
    "accumulate": 2,
    "ema_decay": 0.9,
    "loss_scale_mode": "dynamic",
    "loss_scale": 1024,
    "loss_scale_window": 7,
}
"""Six steps an epoch in one process, a checkpoint after every tenth; with everything that a checkpoint has to keep."""
PATIENCE = 300


def kill_training(seed: int, cases: int, folder: Path) -> Findings:
    """Kill one process that trains at random moments and resume: the losses are those of one that nobody disturbed."""
    return _kill_and_resume(seed, cases, folder, processes=1)


def kill_ranks(seed: int, cases: int, folder: Path) -> Findings:
    """Two processes that train together: one of them is killed, or all, and the run resumed."""
    return _kill_and_resume(seed, cases, folder, processes=2)


def _kill_and_resume(seed: int, cases: int, folder: Path, processes: int) -> Findings:
    shards, recipe = _prepare(folder)
    more = ("--nproc", str(processes))
    undisturbed = folder / "undisturbed"
    findings = Findings()
    began = time.monotonic()
    _, error = tiny.start(tiny.command(recipe, shards, undisturbed, *more)).communicate(timeout=PATIENCE)
    length = time.monotonic() - began
    expected = tiny.losses(undisturbed)
    if len(expected) != plan_run(tiny.recipe(**LEARNING), tiny.RECORDS, processes).total_steps:
        findings.count("undisturbed", f"did not finish: {error[-300:]}")
    reached = []
    for case in range(cases):
        chance = np.random.default_rng((seed, case))
        run = folder / "run"
        killed = tiny.start(tiny.command(recipe, shards, run, *more))
        with contextlib.suppress(subprocess.TimeoutExpired):
            killed.wait(float(chance.uniform(0.1, 1.0)) * length)
        _kill(killed, one_rank=processes > 1 and case % 2 == 0)
        killed.communicate(timeout=PATIENCE)
        reached.append(len((run / "metrics.jsonl").read_text().splitlines()) if (run / "metrics.jsonl").exists() else 0)
        resumed = tiny.start(tiny.command(recipe, shards, run, *more, "--resume"))
        error = resumed.communicate(timeout=PATIENCE)[1]
        problem = f"ended with {resumed.returncode}: {error[-300:]}" if resumed.returncode else None
        if not problem and tiny.losses(run) != expected:
            problem = "other losses than undisturbed"
        findings.count(f"killed after step {reached[-1]} (case {case})", problem)
        shutil.rmtree(run, ignore_errors=True)
    findings.figures.append(f"killed between steps {min(reached)} and {max(reached)} of {len(expected)}")
    return findings


def _prepare(folder: Path) -> tuple[Path, Path]:
    """A set of shards and a recipe."""
    generate(folder / "coco", train=tiny.RECORDS, val=0, size=192, workers=1)
    build([(folder / "coco", "train2017")], folder / "shards", BuildOptions(keep_empty=True), workers=1)
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({**tiny.RECIPE, "training": tiny.RECIPE["training"] | LEARNING}))
    return folder / "shards", recipe


def _kill(process: subprocess.Popen[str], *, one_rank: bool) -> None:
    """SIGKILL to a process with all its descendants, or to one of its workers, which takes the others along."""
    with contextlib.suppress(psutil.NoSuchProcess):
        family = psutil.Process(process.pid).children(recursive=True)
        workers = [child for child in family if _role(child) == "MS_WORKER"]
        if one_rank and workers:
            family = workers[-1:]
        else:
            process.kill()
        for child in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.send_signal(signal.SIGKILL)


def _role(process: psutil.Process) -> str | None:
    with contextlib.suppress(psutil.Error):
        return process.environ().get("MS_ROLE")
    return None


def full_disk(seed: int, cases: int, folder: Path) -> Findings:
    """A checkpoint is saved where there is no room for it: the one before stays, whole, and nothing else."""
    silence_mindspore()
    from training.checkpoint.checkpoint import TrainingPosition, newest_checkpoint, save_checkpoint
    from training.network.openpose import OpenPose

    findings = Findings()
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
                problem = _refused(save)
                left = [path.name for path in first.parent.iterdir()]
                newest = newest_checkpoint(disk / "run")[0]
                if left != [first.name] or newest is None or newest.step != 1:
                    problem = problem or f"left {left}"
                resize(disk, "size=8m")
                save(3)
                findings.count(f"room for {room} KB", problem)
    except PermissionError as error:
        findings.skipped.append(str(error))
    return findings


def _refused(save: object) -> str | None:
    try:
        save(2)  # type: ignore[operator]
    except InputError as error:
        return None if "\n" not in str(error) else "says it in more than one line"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "saved without room"
