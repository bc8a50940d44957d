"""Benchmark of a whole evaluation, from shards to COCO metrics; graph compilation is measured separately."""

from __future__ import annotations

import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.inference.predictor import Predictor
from evaluation.scoring.datasets import EvaluationDataset, ShardDataset
from evaluation.scoring.detect import detect_people
from evaluation.scoring.evaluation import score_detections
from pipeline.system.log_filters import silence_mindspore
from training.recipes import load_config

RECIPE = Path(__file__).resolve().parent.parent.parent / "configs" / "demo.yaml"


def measure_evaluation(
    shards: Path, ckpt: Path | None = None, *, limit: int | None = None, device: str = "cpu"
) -> dict[str, Any]:
    """Measure an evaluation on a shard set.

    Args:
        shards: shard set.
        ckpt: network, as for `Predictor.load`. The default is the untrained network of configs/demo.yaml; it detects
            nobody, so that decoding takes less time than for a trained network.
        limit: maximum number of images.
        device: device for inference.

    Returns:
        `images` and `canvases` (numbers of images and input shapes), `compile_s` (s for compiling all graphs), `find_s`
        (s from shards to detections, without compilation), `score_s` (s from detections to metrics and error
        analysis), `images_per_s` (images / (find_s + score_s)) and `network` (file or description).
    """
    silence_mindspore()
    dataset = ShardDataset(shards)
    number = min(limit or len(dataset), len(dataset))
    with ExitStack() as stack:
        path = ckpt or _save_untrained(Path(stack.enter_context(tempfile.TemporaryDirectory())))
        predictor = Predictor.load(path, device)
    compile_s = _compile(predictor, dataset, number)
    start = time.perf_counter()
    findings = detect_people(predictor, dataset.records(range(number)))
    found = time.perf_counter()
    _ = score_detections(findings).diagnosis
    end = time.perf_counter()
    return {
        "images": number,
        "canvases": len(findings.canvases),
        "compile_s": round(compile_s, 2),
        "find_s": round(found - start, 2),
        "score_s": round(end - found, 2),
        "images_per_s": round(number / (end - start), 2),
        "network": str(ckpt) if ckpt else f"{RECIPE.name}, untrained",
    }


def _save_untrained(folder: Path) -> Path:
    """Save a checkpoint of the untrained demo network; return its run folder."""
    import mindspore as ms

    from training.checkpoint.checkpoint import TrainingPosition, save_checkpoint
    from training.network.openpose import OpenPose

    config = load_config(RECIPE)
    ms.set_seed(0)
    save_checkpoint(folder, OpenPose(config.model).get_parameters(), config, TrainingPosition(0, 0, "", 1), keep=1)
    return folder


def _compile(predictor: Predictor, dataset: EvaluationDataset, number: int) -> float:
    """Ask the network once with every canvas that the pictures need; seconds more than it takes when asked again."""
    sizes = [predictor.config.size * scale for scale in predictor.config.scales]
    examples = {
        tuple(predictor.choose_letterbox(picture, size).canvas for size in sizes): picture
        for picture in dataset.sizes()[:number]
    }
    grey = [np.full((*picture, 3), 128, dtype=np.uint8) for picture in examples.values()]
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        predictor.predict_people(grey)
        seconds.append(time.perf_counter() - start)
    return max(seconds[0] - seconds[1], 0.0)
