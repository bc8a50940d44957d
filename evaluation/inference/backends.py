"""Inference back ends: MindSpore for checkpoints and MindIR graphs, onnxruntime for ONNX graphs.

The back end is chosen by the type of the file; a checkpoint runs with either. All back ends provide the same function
from images to maps. With an ONNX graph, MindSpore is never imported.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from evaluation.inference.flip import Floats
from pipeline.errors import InputError
from pipeline.maps import InferenceFunction
from pipeline.sample import Size
from pipeline.system.cpu import usable_cores
from pipeline.system.log_filters import silence_mindspore

if TYPE_CHECKING:
    from training.checkpoint.checkpoint import Checkpoint
    from training.config import EvaluationConfig
    from training.graphs.metadata import GraphMetadata


BackendName = Literal["auto", "mindspore", "onnx"]
Library = Literal["MindSpore", "onnxruntime"]


@dataclass(frozen=True)
class Backend:
    """A network that is ready for inference, with its recipe.

    Attributes:
        network: function from images to maps.
        config: evaluation section of the recipe, overrides applied.
        source: file from which the network was loaded.
        library: "MindSpore" or "onnxruntime".
        fixed_canvas: (height, width) in px of the only canvas that the network accepts; None if it accepts all canvases
            of `evaluation.inference.letterbox`.
    """

    network: InferenceFunction
    config: EvaluationConfig
    source: Path
    library: Library
    fixed_canvas: Size | None = None


def load_backend(path: Path, device: str, overrides: Sequence[str] = (), backend: BackendName = "auto") -> Backend:
    """Load a network for inference. Call this before any MindSpore tensor is created.

    Args:
        path: a checkpoint; a run folder, whose newest checkpoint is used; or a .mindir or .onnx graph of
            `training.export`.
        device: "cpu", "ascend" or "auto" (Ascend if available, else CPU).
        overrides: `evaluation.field=value`, changes to the recipe that is stored with the network.
        backend: library that runs a checkpoint: "mindspore", "onnx" (onnxruntime on a CPU, with the graph of
            `training.graphs.graph_cache`), or "auto": onnxruntime on a CPU where it is installed, else MindSpore.

    Raises:
        InputError: the file is missing or damaged, an override is unknown or out of range, the device is not available,
            a library is not installed, or the back end cannot run the file on the device.
    """
    if path.suffix == ".air":
        raise InputError(
            f"{path}: AIR graphs run only in Ascend's own tools (ATC); use the checkpoint, a .mindir or an .onnx graph"
        )
    if path.suffix in _GRAPH_LOADERS and not path.is_dir():
        library = _GRAPH_LIBRARIES[path.suffix]
        if backend not in ("auto", _BACKEND_NAMES[library]):
            raise InputError(
                f"--backend {backend}: {path} runs with {library}; leave out --backend, or give a checkpoint"
            )
        return _load_graph(path, device, overrides)
    return _load_checkpoint(path, device, overrides, backend)


def _load_checkpoint(path: Path, device: str, overrides: Sequence[str], backend: BackendName) -> Backend:
    from training.checkpoint.run_folder import find_checkpoint

    _require_mindspore(path)
    from training.checkpoint.checkpoint import load_checkpoint
    from training.distributed.world import init_world
    from training.graphs.graph_cache import cached_graph
    from training.recipes import override_evaluation

    world = init_world(device)
    checkpoint_file = find_checkpoint(path)
    if _choose_library(backend, world.device) == "onnxruntime":
        graph = _load_graph(cached_graph(checkpoint_file), "cpu", overrides)
        return replace(graph, source=checkpoint_file)
    checkpoint = load_checkpoint(checkpoint_file)
    config = override_evaluation(checkpoint.config, overrides)
    return Backend(checkpoint_network(checkpoint), config, checkpoint.path, "MindSpore")


def _choose_library(backend: BackendName, device: str) -> Library:
    """Choose the library that runs a checkpoint on a device, `CPU` or `Ascend`."""
    from training.graphs.graph_cache import onnxruntime_is_installed

    if backend == "mindspore":
        return "MindSpore"
    if device == "CPU" and onnxruntime_is_installed():
        return "onnxruntime"
    if backend == "auto":
        return "MindSpore"
    if device != "CPU":
        raise InputError("--backend onnx: runs checkpoints on a CPU only; add --device cpu, or use --backend mindspore")
    raise InputError("--backend onnx: onnxruntime is not installed; run: pip install onnxruntime")


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
            "use the checkpoint, a graph exported with --dynamic, or --scales 1"
        )
    network = _GRAPH_LOADERS[path.suffix](path, device, metadata)
    return Backend(network, config, path, _GRAPH_LIBRARIES[path.suffix], metadata.canvas)


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

    from training.distributed.world import init_world

    init_world(device)
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
    options.intra_op_num_threads = usable_cores()
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

_GRAPH_LIBRARIES: dict[str, Library] = {".mindir": "MindSpore", ".onnx": "onnxruntime"}
_BACKEND_NAMES: dict[Library, BackendName] = {"MindSpore": "mindspore", "onnxruntime": "onnx"}


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
