"""Benchmark of the back ends with the same network. They alternate, so that other load affects all of them equally."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from tests.support.coco_folder import ROOT


def measure_backends(ckpt: Path | None, *, rounds: int = 7, batches: int = 4, device: str = "cpu") -> dict[str, Any]:
    """Time checkpoint, MindIR and ONNX on the same images, at the input size that `training.export` chooses.

    Args:
        ckpt: checkpoint or run folder; None for an untrained network of the demo recipe.
        rounds: number of rounds; the median is used.
        batches: batches per round and back end.
        device: device option, as in `evaluation.evaluate`.

    Returns:
        `batch`, `height` and `width` of the input, and `images_per_s` by back end; without ONNX if onnxruntime is not
        installed.
    """
    with tempfile.TemporaryDirectory() as folder:
        networks, shape = _load_networks(ckpt or _save_untrained(Path(folder)), Path(folder), device)
        images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        for network in networks.values():
            network(images)  # compiles
        seconds: dict[str, list[float]] = {name: [] for name in networks}
        for _ in range(rounds):
            for name, network in networks.items():
                start = time.perf_counter()
                for _ in range(batches):
                    network(images)
                seconds[name].append(time.perf_counter() - start)
    speeds = {name: round(shape[0] * batches / statistics.median(taken), 2) for name, taken in seconds.items()}
    return {"batch": shape[0], "height": shape[1], "width": shape[2], "images_per_s": speeds}


def _load_networks(ckpt: Path, folder: Path, device: str) -> tuple[dict[str, Any], tuple[int, int, int, int]]:
    """Return the network on every back end, and the shape of a batch."""
    from importlib.util import find_spec

    from evaluation.inference.backends import load_backend
    from training.checkpoint.checkpoint import load_checkpoint
    from training.graphs.export_graph import choose_input_shape, export_checkpoint

    original = load_backend(ckpt, device, ["evaluation.scales=[1]"])
    checkpoint = load_checkpoint(original.source)
    shape = choose_input_shape(None, None, None, original.config, dynamic=False)
    networks = {"checkpoint": original.network}
    for kind in ("mindir", "onnx") if find_spec("onnxruntime") else ("mindir",):
        graph = folder / f"graph.{kind}"
        export_checkpoint(checkpoint, graph, kind, shape, original.config, all_stages=False)
        networks[kind] = load_backend(graph, device).network
    return networks, shape.example


def _save_untrained(folder: Path) -> Path:
    """Save a checkpoint of the untrained demo network; return its run folder."""
    from pipeline.system.log_filters import silence_mindspore

    silence_mindspore()
    from training.checkpoint.checkpoint import TrainingPosition, save_checkpoint
    from training.network.openpose import OpenPose
    from training.recipes import load_config

    config = load_config(ROOT / "configs" / "demo.yaml")
    save_checkpoint(folder, OpenPose(config.model).get_parameters(), config, TrainingPosition(0, 1, "", 1), keep=1)
    return folder
