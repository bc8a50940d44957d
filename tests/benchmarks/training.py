"""Benchmark of training: time waiting for data, and time per step, from the metrics of real training runs."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.coco_folder import ROOT


def measure_training(shards: Path, folder: Path, *, steps: int) -> dict[str, Any]:
    """Train the demo recipe for some steps.

    Args:
        shards: shard set; real images take longer to load than those of the embedded dataset.
        folder: parent folder of the run folder.
        steps: number of steps; metrics are logged every 10 steps.

    Returns:
        `data_wait_fraction`, the fraction of the time spent waiting for batches, and `demo_images_per_s`. Both are
        medians without the first 10 steps, in which the graph is compiled.
    """
    lines = _train(shards, folder / "demo", "demo.yaml", max_steps=steps, log_every=10, warmup_steps=0)[1:]
    return {
        "data_wait_fraction": round(statistics.median(line["data_wait"] for line in lines), 4),
        "demo_images_per_s": round(statistics.median(line["images_per_s"] for line in lines), 1),
    }


def measure_full_step(shards: Path, folder: Path, targets_device_ms: float) -> dict[str, Any]:
    """Train configs/openpose.yaml with one image per step: on CPU it takes 11 GB of memory and half a minute.

    Returns:
        `full_step_ms`, and `targets_device_share`, the fraction of it for rendering a sample's targets on the device.
    """
    lines = _train(shards, folder / "full", "openpose.yaml", max_steps=3, log_every=1, batch_size=1)[1:]
    milliseconds = 1e3 / statistics.median(line["images_per_s"] for line in lines)
    return {
        "full_step_ms": round(milliseconds, 1),
        "targets_device_share": round(targets_device_ms / milliseconds, 5),
    }


def _train(shards: Path, run: Path, recipe: str, **training: int) -> list[dict[str, Any]]:
    """Train a new run; return the lines of its metrics.jsonl."""
    command = [sys.executable, "-m", "training.train", "--config", str(ROOT / "configs" / recipe)]
    command += ["--shards", str(shards), "--out", str(run)]
    for name, value in training.items():
        command += ["--set", f"training.{name}={value}"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"{recipe}: training failed with exit code {result.returncode}: {result.stderr[-2000:]}")
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
