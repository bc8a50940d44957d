"""How long training waits for data, and what a step costs: real runs of the trainer, from its own metrics."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.coco_folder import ROOT


def measure_training(shards: Path, folder: Path, *, steps: int) -> dict[str, Any]:
    """Train the demo recipe for some steps on a set.

    Args:
        shards: the set; real pictures are harder to feed than those the recipe is made for.
        folder: for the run.
        steps: to train; metrics are read every 10 of them.

    Returns:
        `data_wait_fraction` of the time that the trainer waited for batches, and `demo_images_per_s`; both medians
        after the first 10 steps, in which the graph is compiled.
    """
    lines = _train(shards, folder / "demo", "demo.yaml", max_steps=steps, log_every=10, warmup_steps=0)[1:]
    return {
        "data_wait_fraction": round(statistics.median(line["data_wait"] for line in lines), 4),
        "demo_images_per_s": round(statistics.median(line["images_per_s"] for line in lines), 1),
    }


def measure_full_step(shards: Path, folder: Path, targets_device_ms: float) -> dict[str, Any]:
    """Train configs/openpose.yaml, one picture a step: on CPU 11 GB of memory, and half a minute.

    Returns:
        `full_step_ms`, and `targets_device_share`: the part of it that drawing a sample's targets on the device takes.
    """
    lines = _train(shards, folder / "full", "openpose.yaml", max_steps=3, log_every=1, batch_size=1)[1:]
    milliseconds = 1e3 / statistics.median(line["images_per_s"] for line in lines)
    return {
        "full_step_ms": round(milliseconds, 1),
        "targets_device_share": round(targets_device_ms / milliseconds, 5),
    }


def _train(shards: Path, run: Path, recipe: str, **training: int) -> list[dict[str, Any]]:
    """Lines of metrics.jsonl of a new run."""
    command = [sys.executable, "-m", "training.train", "--config", str(ROOT / "configs" / recipe)]
    command += ["--shards", str(shards), "--out", str(run)]
    for name, value in training.items():
        command += ["--set", f"training.{name}={value}"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"{recipe}: the trainer ended with {result.returncode}: {result.stderr[-2000:]}")
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
