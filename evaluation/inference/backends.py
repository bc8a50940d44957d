"""Inference back ends: MindSpore for checkpoints and MindIR graphs, onnxruntime for ONNX graphs.

The back end is chosen by the type of the file. All back ends provide the same function from images to maps. With ONNX,
MindSpore is never imported.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from evaluation.inference.flip import Floats
from pipeline.errors import InputError
from pipeline.maps import InferenceFunction
from pipeline.sample import Size
from pipeline.system.log_filters import silence_mindspore

if TYPE_CHECKING:
    from training.checkpoint.checkpoint import Checkpoint
    from training.config import EvaluationConfig
    from training.graphs.metadata import GraphMetadata


@dataclass(frozen=True)
class Backend:
    """A network that is ready for inference, with its recipe.

    Attributes:
        network: function from images to maps.
        config: evaluation section of the recipe, overrides applied.
        source: file from which the network was loaded.
        fixed_canvas: (height, width) in px of the only canvas that the network accepts; None if it accepts all canvases
            of `evaluation.inference.letterbox`.
    """

    network: InferenceFunction
    config: EvaluationConfig
    source: Path
    fixed_canvas: Size | None = None


def load_backend(path: Path, device: str, overrides: Sequence[str] = ()) -> Backend:
    """Load a network for inference. Call this before any MindSpore tensor is created.

    Args:
        path: a checkpoint; a run folder, whose newest checkpoint is used; or a .mindir or .onnx graph of
            `training.export`.
        device: "cpu", "ascend" or "auto" (Ascend if available, else CPU).
        overrides: `evaluation.field=value`, changes to the recipe that is stored with the network.

    Raises:
        InputError: the file is missing or damaged, an override is unknown or out of range, the device is not available,
            or a library is not installed.
    """
    if path.suffix == ".air":
        raise InputError(
            f"{path}: AIR graphs run only in Ascend's own tools (ATC); use the checkpoint, a .mindir or an .onnx graph"
        )
    if path.suffix in _GRAPH_LOADERS and not path.is_dir():
        return _load_graph(path, device, overrides)
    return _load_checkpoint(path, device, overrides)


def _load_checkpoint(path: Path, device: str, overrides: Sequence[str]) -> Backend:
    _require_mindspore(path)
    from training.checkpoint.checkpoint import load_checkpoint
    from training.checkpoint.run_folder import find_checkpoint
    from training.distributed.world import init_world, make_debug_folder
    from training.recipes import override_evaluation

    init_world(device, debug_folder=make_debug_folder())
    checkpoint = load_checkpoint(find_checkpoint(path))
    config = override_evaluation(checkpoint.config, overrides)
    return Backend(checkpoint_network(checkpoint), config, checkpoint.path)


def _load_graph(path: Path, device: str, overrides: Sequence[str]) -> Backend:
    from training.config import Config
    from training.graphs.metadata import GraphMetadata
    from training.recipes import override_evaluation

    metadata = GraphMetadata.load(path)
    config = override_evaluation(Config(evaluation=metadata.evaluation), overrides)
    if metadata.batch not in (None, config.batch_size):
        raise InputError(
            f"{path}: was exported for a batch of {metadata.batch}, but evaluation.batch_size={config.batch_size}; "
            f"use --set evaluation.batch_size={metadata.batch} or export the graph again"
        )
    if metadata.canvas and config.scales != (1.0,):
        raise InputError(
            f"{path}: accepts one input size, so evaluation.scales={list(config.scales)} is not possible; "
            "use the checkpoint, a dynamic .mindir, or --scales 1"
        )
    return Backend(_GRAPH_LOADERS[path.suffix](path, device, metadata), config, path, metadata.canvas)


def checkpoint_network(checkpoint: Checkpoint) -> InferenceFunction:
    """Load the checkpoint's network. MindSpore compiles one graph for each canvas size and batch size."""
    from training.checkpoint.checkpoint import restore_for_inference
    from training.network.inference import inference_function
    from training.network.openpose import OpenPose

    network = OpenPose(checkpoint.config.model)
    restore_for_inference(network, checkpoint)
    return inference_function(network)


def mindir_network(path: Path, device: str, metadata: GraphMetadata) -> InferenceFunction:
    """Load a MindIR graph with MindSpore. Raise InputError if MindSpore cannot read it."""
    _require_mindspore(path)
    import mindspore as ms

    from training.distributed.world import init_world, make_debug_folder

    init_world(device, debug_folder=make_debug_folder())
    try:
        graph = ms.nn.GraphCell(ms.load(str(path)))
    except (RuntimeError, ValueError, TypeError) as error:
        raise InputError(f"{path}: MindSpore cannot read it: {_first_line(error)}") from error
    graph.set_train(False)

    def run(images: NDArray[np.uint8]) -> tuple[Floats, Floats]:
        return _pafs_and_heatmaps([output.asnumpy() for output in graph(ms.Tensor(images))], metadata)

    return run


def onnx_network(path: Path, device: str, metadata: GraphMetadata) -> InferenceFunction:
    """Load an ONNX graph with onnxruntime. Raise InputError if it is not installed or cannot read the file."""
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError(f"{path}: needs onnxruntime, which is not installed; run: pip install onnxruntime") from error
    choices = {"cpu": ["CPUExecutionProvider"], "ascend": ["CANNExecutionProvider"]}
    wanted = choices.get(device, ["CANNExecutionProvider", "CPUExecutionProvider"])
    providers = [provider for provider in wanted if provider in onnxruntime.get_available_providers()]
    if not providers:
        raise InputError("--device ascend: the installed onnxruntime has no CANN provider; install onnxruntime-cann")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # onnxruntime's exceptions have no common base class but Exception
        raise InputError(f"{path}: onnxruntime cannot read it: {_first_line(error)}") from error
    (image,) = session.get_inputs()

    def run(images: NDArray[np.uint8]) -> tuple[Floats, Floats]:
        return _pafs_and_heatmaps(session.run(None, {image.name: images}), metadata)

    return run


_GRAPH_LOADERS: dict[str, Callable[[Path, str, GraphMetadata], InferenceFunction]] = {
    ".mindir": mindir_network,
    ".onnx": onnx_network,
}
"""Functions that load a graph, by file name extension."""


def _pafs_and_heatmaps(outputs: Sequence[Any], metadata: GraphMetadata) -> tuple[Floats, Floats]:
    return outputs[metadata.outputs.index("pafs")], outputs[metadata.outputs.index("heatmaps")]


def _require_mindspore(path: Path) -> None:
    silence_mindspore()
    try:
        import mindspore  # noqa: F401
    except ImportError as error:
        raise InputError(f"{path}: needs MindSpore, which is not installed; install it or use an ONNX graph") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
