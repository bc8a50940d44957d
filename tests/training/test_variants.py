"""Other network structures can be trained, evaluated and exported to graphs with the same maps."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from click.testing import CliRunner

from evaluation import evaluate
from tests.support import tiny
from training import export
from training.graphs.metadata import GraphMetadata
from training.recipes import parse_config

STEPS = 48
MODELS = {
    "paf_first": {
        "stages": 2,
        "heatmap_stages": 1,
        "wide_kernels": "dense",
        "first_kernel": 5,
        "first_inner_width": 8,
        "stage_kernel": 7,
        "last_width": 16,
    },
    "light": {
        "backbone": "mobilenet",
        "backbone_scale": 0.0625,
        "feature_block": "separable",
        "branches": "shared",
        "wide_kernels": "residual",
        "stage_kernel": 7,
        "batch_norm": True,
    },
}
ALL_STAGES = {
    "paf_first": ("pafs_1", "pafs", "heatmaps"),
    "light": ("pafs_1", "pafs", "heatmaps_1", "heatmaps"),
}


@pytest.fixture(scope="module", params=MODELS)
def run(request, tiny_shards, tmp_path_factory):
    """The name and the run folder of a small network after some training steps."""
    recipe = {**tiny.RECIPE, "model": tiny.RECIPE["model"] | MODELS[request.param]}
    recipe["training"] = tiny.RECIPE["training"] | {"max_steps": STEPS, "checkpoint_every": STEPS}
    recipe["evaluation"] = {"size": 64, "batch_size": 2}
    folder = tmp_path_factory.mktemp(request.param) / "run"
    assert tiny.train_in_process(parse_config(recipe, source="test"), tiny_shards, folder) == 0
    return request.param, folder


def test_the_loss_falls(run):
    losses = list(tiny.losses(run[1]).values())
    assert len(losses) == STEPS
    epoch = tiny.RECORDS // tiny.RECIPE["training"]["batch_size"]
    assert np.mean(losses[-epoch:]) < 0.93 * np.mean(losses[:epoch])


def test_evaluation(run, tiny_shards, tmp_path):
    arguments = ["--ckpt", run[1], "--shards", tiny_shards, "--limit", 4, "--json", tmp_path / "eval.json"]
    result = CliRunner().invoke(evaluate.main, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "eval.json").read_text())


@pytest.mark.parametrize("kind", ["onnx", "mindir"])
def test_an_exported_graph_outputs_the_same_maps(run, kind, tmp_path):
    """Export runs graph and checkpoint on the same input and prints the largest difference of their maps."""
    name, folder = run
    graph = tmp_path / f"graph.{kind}"
    options = ["--height", 64, "--width", 96, *(["--all-stages"] if kind == "onnx" else [])]
    arguments = ["--ckpt", folder, "--device", "cpu", "--format", kind, *options, "--out", graph]
    result = CliRunner().invoke(export.main, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    difference = re.search(r"maps within (\S+) of the checkpoint's", result.output)
    assert difference
    assert float(difference[1]) < 1e-4
    assert GraphMetadata.load(graph).outputs == (ALL_STAGES[name] if kind == "onnx" else ("pafs", "heatmaps"))
