"""Tests of the inference back ends: all give the same maps and the same errors."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner

from evaluation.inference.predictor import Predictor
from pipeline.errors import InputError
from pipeline.skeleton import KEYPOINTS, LIMBS
from tests.support import tiny
from tests.support.coco_folder import ROOT
from training.export import main
from training.graphs.export_graph import InputShape, choose_input_shape
from training.graphs.metadata import GraphMetadata, metadata_path
from training.recipes import parse_config

RECIPE = parse_config({**tiny.RECIPE, "evaluation": {"size": 64, "batch_size": 2, "flip": True}}, source="tiny")
SIZES = [(64, 80), (70, 64), (128, 150), (300, 900), (900, 300), (20, 30)]
OPTIONS = {
    "fixed.mindir": ("mindir", "--height", 128, "--width", 128),
    "any.mindir": ("mindir", "--dynamic"),
    "any.onnx": ("onnx", "--dynamic"),
    "fixed.onnx": ("onnx", "--height", 128, "--width", 128),
    "stages.onnx": ("onnx", "--height", 128, "--width", 128, "--all-stages"),
}


def images():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3), np.uint8) for size in SIZES]


def export(checkpoint, *options):
    arguments = ["--ckpt", checkpoint, "--device", "cpu", "--format", *options]
    return CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A run folder with random weights."""
    import mindspore as ms

    from training.checkpoint.checkpoint import TrainingPosition, save_checkpoint
    from training.network.openpose import OpenPose

    ms.set_seed(5)
    run = tmp_path_factory.mktemp("run")
    save_checkpoint(run, OpenPose(RECIPE.model).get_parameters(), RECIPE, TrainingPosition(9, 1, "", 1), keep=1)
    return run


@pytest.fixture(scope="module")
def graphs(checkpoint, tmp_path_factory):
    """The network of the checkpoint as a graph in each format."""
    folder = tmp_path_factory.mktemp("graphs")
    for name, options in OPTIONS.items():
        result = export(checkpoint, *options, "--out", folder / name)
        assert result.exit_code == 0, result.output
        assert result.output.startswith(f"{folder / name}: images of ")
        assert "of the checkpoint's" in result.output
    return folder


def test_export_writes_a_graph_and_its_metadata_and_no_other_file(graphs):
    assert sorted(path.name for path in graphs.iterdir()) == sorted([*OPTIONS, *(f"{name}.json" for name in OPTIONS)])
    for path in graphs.iterdir():
        assert path.stat().st_mode & 0o600 == 0o600
    described = json.loads((graphs / "fixed.onnx.json").read_text())
    assert (described["batch"], described["height"], described["width"]) == (2, 128, 128)
    assert (described["stride"], described["step"], described["outputs"]) == (8, 9, ["pafs", "heatmaps"])
    assert described["keypoints"] == list(KEYPOINTS)
    assert described["limbs"] == [list(limb) for limb in LIMBS]
    assert described["evaluation"] == RECIPE.evaluation.model_dump(mode="json")
    assert GraphMetadata.load(graphs / "stages.onnx").outputs == ("pafs_1", "pafs", "heatmaps_1", "heatmaps")
    assert GraphMetadata.load(graphs / "any.mindir").canvas is None
    assert GraphMetadata.load(graphs / "any.onnx").canvas is None


@pytest.mark.parametrize("name", ["fixed.onnx", "stages.onnx"])
def test_onnx_graph_has_named_outputs(graphs, name):
    import onnxruntime

    session = onnxruntime.InferenceSession(graphs / name, providers=["CPUExecutionProvider"])
    assert tuple(output.name for output in session.get_outputs()) == GraphMetadata.load(graphs / name).outputs
    (image,) = session.get_inputs()
    assert (image.name, image.shape) == ("image", [2, 128, 128, 3])


def test_dynamic_onnx_graph_declares_dynamic_shapes(graphs):
    import onnxruntime

    session = onnxruntime.InferenceSession(graphs / "any.onnx", providers=["CPUExecutionProvider"])
    assert [value.shape for value in session.get_inputs()] == [["batch", "height", "width", 3]]
    assert [value.shape for value in session.get_outputs()] == [
        ["batch", 2 * len(LIMBS), "map_height", "map_width"],
        ["batch", len(KEYPOINTS) + 1, "map_height", "map_width"],
    ]


@pytest.mark.parametrize("name", OPTIONS)
def test_graph_outputs_the_maps_of_its_checkpoint(name, graphs, checkpoint):
    graph = Predictor.load(graphs / name, "cpu")
    original = Predictor.load(checkpoint, "cpu", backend="mindspore")
    assert graph.config == original.config
    if graph.fixed_canvas:
        original.fixed_canvas = graph.fixed_canvas
    found, expected = graph.predict_maps(images()), original.predict_maps(images())
    assert graph.canvases == original.canvases
    assert (graph.canvases == {(128, 128)}) == (not name.startswith("any"))
    for one, other in zip(found, expected, strict=True):
        assert one.heatmaps.dtype == one.pafs.dtype == np.float32
        assert np.abs(one.heatmaps - other.heatmaps).max() < 1e-4
        assert np.abs(one.pafs - other.pafs).max() < 1e-4
        assert np.ptp(one.heatmaps[0]) > 1e-3


def test_evaluation_and_export_use_averaged_weights(checkpoint, tmp_path):
    import mindspore as ms

    from training.checkpoint.checkpoint import TrainingPosition, load_checkpoint, save_checkpoint
    from training.checkpoint.run_folder import find_checkpoint
    from training.graphs.export_graph import checkpoint_network
    from training.network.openpose import OpenPose

    average = load_checkpoint(find_checkpoint(checkpoint)).tensors
    ms.set_seed(6)
    state = [*OpenPose(RECIPE.model).get_parameters()]
    state += [ms.Parameter(tensor, name=f"ema.{name}") for name, tensor in average.items()]
    path = save_checkpoint(tmp_path / "run", state, RECIPE, TrainingPosition(9, 1, "", 1), keep=1)
    predictors = (Predictor.load(each, "cpu", backend="mindspore") for each in (path, checkpoint))
    found, expected = (predictor.predict_maps(images()[:1])[0] for predictor in predictors)
    assert np.array_equal(found.heatmaps, expected.heatmaps)
    assert np.array_equal(found.pafs, expected.pafs)
    result = export(path, "onnx", "--height", 64, "--width", 64, "--out", tmp_path / "graph.onnx")
    assert "; averaged weights; maps within " in result.output
    assert GraphMetadata.load(tmp_path / "graph.onnx").averaged
    network = checkpoint_network(load_checkpoint(path), all_stages=False)
    for parameter in network.get_parameters():
        assert np.array_equal(parameter.asnumpy(), average[parameter.name.removeprefix("network.")].asnumpy())


def test_several_scales_need_a_graph_with_dynamic_shape(graphs, checkpoint):
    scales = ["evaluation.scales=[0.5, 1, 1.5]"]
    for name in ("fixed.mindir", "fixed.onnx"):
        with pytest.raises(InputError, match=r"scales=\[0.5, 1.0, 1.5\].*--scales 1"):
            Predictor.load(graphs / name, "cpu", scales)
    found = Predictor.load(graphs / "any.mindir", "cpu", scales).predict_maps(images()[:3])
    expected = Predictor.load(checkpoint, "cpu", scales, "mindspore").predict_maps(images()[:3])
    for one, other in zip(found, expected, strict=True):
        assert np.abs(one.heatmaps - other.heatmaps).max() < 1e-4


_WITHOUT_MINDSPORE = """
import sys
sys.modules["mindspore"] = None
from evaluation.predict import main
main(sys.argv[1:])
"""


def test_only_onnx_graphs_run_without_mindspore(graphs, checkpoint, tmp_path):
    import cv2

    cv2.imwrite(str(tmp_path / "noise.png"), images()[2])
    for source, message in (
        (graphs / "fixed.onnx", ""),
        (
            graphs / "fixed.mindir",
            "Error: {}: needs MindSpore, which is not installed; install it or use an ONNX graph\n",
        ),
        (checkpoint, "Error: {}: needs MindSpore, which is not installed; install it or use an ONNX graph\n"),
    ):
        command = [sys.executable, "-c", _WITHOUT_MINDSPORE, str(tmp_path / "noise.png")]
        command += ["--ckpt", str(source), "--out", str(tmp_path / "out")]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert (result.returncode, result.stderr) == (2 if message else 0, message.format(source))
    assert json.loads((tmp_path / "out" / "images.json").read_text())["images"][0]["width"] == 150


def test_errors_are_one_line_with_the_next_step(graphs, checkpoint, tmp_path):
    def load(graph, *overrides):
        with pytest.raises(InputError) as raised:
            Predictor.load(graph, "cpu", overrides)
        assert "\n" not in str(raised.value)
        return str(raised.value)

    graph = tmp_path / "x.onnx"
    assert load(graph) == (
        f"{graph}.json: No such file or directory; training.export writes a graph and its json, keep both in one folder"
    )
    shutil.copy(metadata_path(graphs / "fixed.onnx"), metadata_path(graph))
    assert load(graph).startswith(f"{graph}: No such file")
    graph.write_bytes((graphs / "fixed.onnx").read_bytes()[:-5])
    assert "its SHA-256 differs from that in x.onnx.json" in load(graph)
    metadata_path(graph).write_text("{")
    assert f"{metadata_path(graph)}: Invalid JSON" in load(graph)
    described = json.loads(metadata_path(graphs / "fixed.onnx").read_text())
    metadata_path(graph).write_text(json.dumps(described | {"batch": "many"}))
    assert f"{metadata_path(graph)}: batch: " in load(graph)
    assert "ATC" in load(tmp_path / "x.air")
    assert "was exported for a batch of 2" in load(graphs / "fixed.onnx", "evaluation.batch_size=3")
    assert "only evaluation.… can be set" in load(graphs / "fixed.onnx", "model.stages=3")
    with pytest.raises(InputError, match="no CANN provider"):
        Predictor.load(graphs / "fixed.onnx", "ascend")


@pytest.mark.parametrize("kind", ["mindir", "onnx"])
def test_file_of_another_format_is_an_error(kind, tmp_path, graphs):
    import hashlib

    graph = tmp_path / f"x.{kind}"
    graph.write_bytes(b"no graph")
    described = json.loads(metadata_path(graphs / "fixed.onnx").read_text())
    described["sha256"] = hashlib.sha256(graph.read_bytes()).hexdigest()
    metadata_path(graph).write_text(json.dumps(described))
    with pytest.raises(InputError, match=r"x\.(mindir|onnx): (MindSpore|onnxruntime) cannot read it: ") as raised:
        Predictor.load(graph, "cpu")
    assert "\n" not in str(raised.value)


def test_input_shape_follows_from_the_recipe():
    evaluation = RECIPE.evaluation.model_copy(update={"size": 367})
    assert choose_input_shape(None, None, None, evaluation, dynamic=False) == InputShape(2, 368, 496)
    assert choose_input_shape(5, 64, 4096, evaluation, dynamic=False) == InputShape(5, 64, 4096)
    assert choose_input_shape(None, None, None, evaluation, dynamic=True) == InputShape(None, None, None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("air", "--dynamic"), "--format mindir or --format onnx"),
        (("air",), "on Ascend only"),
        (("onnx", "--height", 100), "--height 100: expected a multiple of 8"),
        (("onnx", "--width", 0), "--width 0: expected a multiple of 8 from 8 to 8192"),
        (("onnx", "--width", 9000), "--width 9000"),
        (("mindir", "--dynamic", "--batch", 3), "leave out --batch"),
        (("onnx", "--out", "x.mindir"), "ends in .onnx"),
        (("onnx", "--set", "evaluation.scales=[1, 2]"), "evaluation.scales=[1]"),
        (("onnx", "--set", "model.stages=1"), "only evaluation.… can be set"),
        (("onnx", "--out", "/dev/null/x.onnx"), "cannot be written"),
    ],
)
def test_errors_of_export_are_one_line(options, message, checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(checkpoint, "run")
    result = export("run", *options)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert result.stderr.strip().count("\n") == 0
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["checkpoints", "run", "step-0000009.ckpt"]


def test_export_writes_beside_the_checkpoint_by_default(checkpoint, tmp_path):
    run = shutil.copytree(checkpoint, tmp_path / "run")
    assert export(run, "onnx").exit_code == 0
    assert export(run, "onnx", "--batch", 3).exit_code == 0, "an earlier graph is replaced"
    assert GraphMetadata.load(run / "checkpoints" / "step-0000009.onnx").batch == 3
    assert Predictor.load(run, "cpu").source.suffix == ".ckpt"


def cached_graphs(run):
    return sorted(path.parent.name for path in (run / "checkpoints" / "onnx").glob("*/network.onnx"))


def test_checkpoint_runs_with_onnxruntime_on_cpu_and_its_graph_is_made_once(checkpoint, tmp_path):
    run = shutil.copytree(checkpoint, tmp_path / "run")
    expected = Predictor.load(run, "cpu", backend="mindspore")
    assert (expected.library, cached_graphs(run)) == ("MindSpore", [])
    found = Predictor.load(run, "cpu")
    assert (found.library, found.source, found.config) == ("onnxruntime", expected.source, expected.config)
    for one, other in zip(found.predict_maps(images()), expected.predict_maps(images()), strict=True):
        assert np.abs(one.heatmaps - other.heatmaps).max() < 1e-4
        assert np.abs(one.pafs - other.pafs).max() < 1e-4
    (name,) = cached_graphs(run)
    made = (run / "checkpoints" / "onnx" / name / "network.onnx").stat().st_mtime_ns
    assert Predictor.load(run, "cpu", ["evaluation.size=96"], "onnx").config.size == 96
    assert (run / "checkpoints" / "onnx" / name / "network.onnx").stat().st_mtime_ns == made


def test_graph_of_a_replaced_checkpoint_is_replaced(checkpoint, tmp_path):
    import mindspore as ms

    from training.checkpoint.checkpoint import TrainingPosition, save_checkpoint
    from training.network.openpose import OpenPose

    run = shutil.copytree(checkpoint, tmp_path / "run")
    first = Predictor.load(run, "cpu").predict_maps(images()[:1])[0]
    before = cached_graphs(run)
    ms.set_seed(7)
    save_checkpoint(run, OpenPose(RECIPE.model).get_parameters(), RECIPE, TrainingPosition(9, 1, "", 1), keep=1)
    second = Predictor.load(run, "cpu").predict_maps(images()[:1])[0]
    assert np.abs(first.heatmaps - second.heatmaps).max() > 1e-3
    assert len(cached_graphs(run)) == 1
    assert cached_graphs(run) != before
    assert not list((run / "checkpoints" / "onnx").glob(".*"))


def test_damaged_graph_in_the_cache_is_exported_again(checkpoint, tmp_path):
    run = shutil.copytree(checkpoint, tmp_path / "run")
    expected = Predictor.load(run, "cpu").predict_maps(images()[:1])[0]
    (graph,) = (run / "checkpoints" / "onnx").glob("*/network.onnx")
    graph.write_bytes(graph.read_bytes()[:-9])
    found = Predictor.load(run, "cpu").predict_maps(images()[:1])[0]
    assert np.array_equal(found.heatmaps, expected.heatmaps)


def test_folder_that_cannot_be_written_is_no_obstacle(checkpoint, tmp_path):
    run = shutil.copytree(checkpoint, tmp_path / "run")
    (run / "checkpoints" / "onnx").write_text("a file where the cache would be")
    assert Predictor.load(run, "cpu").library == "onnxruntime"


def test_backend_that_cannot_run_the_file_is_an_error(graphs):
    with pytest.raises(InputError, match=r"--backend mindspore: .*fixed.onnx runs with onnxruntime"):
        Predictor.load(graphs / "fixed.onnx", "cpu", backend="mindspore")
    with pytest.raises(InputError, match=r"--backend onnx: .*any.mindir runs with MindSpore"):
        Predictor.load(graphs / "any.mindir", "cpu", backend="onnx")


def test_benchmark_measures_every_back_end(checkpoint):
    from tests.benchmarks.backends import measure_backends

    measured = measure_backends(checkpoint, rounds=1, batches=1)
    assert (measured["batch"], measured["height"], measured["width"]) == (2, 64, 88)
    assert set(measured["images_per_s"]) == {"checkpoint", "mindir", "onnx"}
    assert min(measured["images_per_s"].values()) > 0
