"""What a network runs on: MindSpore from a checkpoint or a MindIR graph, or onnxruntime from an ONNX graph.

Each gives the same function from pictures to maps. The file's kind decides; with ONNX, MindSpore is never imported.
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
    """A network that can run, and the recipe for it.

    Attributes:
        network: pictures to maps.
        config: the recipe, with its overrides.
        source: the file it was read from.
        canvas: (height, width) px of the only input that the network takes; None if it takes any whole blocks.
    """

    network: InferenceFunction
    config: EvaluationConfig
    source: Path
    canvas: Size | None = None


def load_backend(path: Path, device: str, overrides: Sequence[str] = ()) -> Backend:
    """Make the network of a file ready to run; comes before anything else makes a tensor.

    Args:
        path: a checkpoint; a run folder, of which the newest is taken; or a graph of `training.export`, .mindir or
            .onnx.
        device: auto (Ascend where it is found, else CPU), cpu or ascend.
        overrides: `evaluation.field=value`, on the recipe that comes with the network.

    Raises:
        InputError: no such file, a damaged one, an unknown or impossible override, no such device, or a library that
            is not installed.
    """
    if path.suffix == ".air":
        raise InputError(f"{path}: AIR is for Ascend's own tools (ATC); evaluate the checkpoint, or a .mindir or .onnx")
    if path.suffix in _GRAPHS and not path.is_dir():
        return _load_graph(path, device, overrides)
    return _load_checkpoint(path, device, overrides)


def _load_checkpoint(path: Path, device: str, overrides: Sequence[str]) -> Backend:
    _need_mindspore(path)
    from training.checkpoint.checkpoint import load_checkpoint
    from training.checkpoint.run_folder import find_checkpoint
    from training.config import override_evaluation
    from training.distributed.world import make_debug_folder, start

    start(device, debug_folder=make_debug_folder())
    checkpoint = load_checkpoint(find_checkpoint(path))
    config = override_evaluation(checkpoint.config, overrides)
    return Backend(checkpoint_network(checkpoint), config, checkpoint.path)


def _load_graph(path: Path, device: str, overrides: Sequence[str]) -> Backend:
    from training.config import Config, override_evaluation
    from training.graphs.metadata import GraphMetadata

    exported = GraphMetadata.load(path)
    config = override_evaluation(Config(evaluation=exported.evaluation), overrides)
    if exported.batch not in (None, config.batch_size):
        raise InputError(
            f"{path}: takes {exported.batch} pictures at a time, not evaluation.batch_size={config.batch_size}"
        )
    if exported.canvas and config.scales != (1.0,):
        raise InputError(
            f"{path}: takes pictures of one size, so it cannot be asked for evaluation.scales={list(config.scales)}; "
            "evaluate the checkpoint or a dynamic .mindir, or take --scales 1"
        )
    return Backend(_GRAPHS[path.suffix](path, device, exported), config, path, exported.canvas)


def checkpoint_network(checkpoint: Checkpoint) -> InferenceFunction:
    """The checkpoint's network on MindSpore's device; a new canvas or batch size compiles a graph, once."""
    from training.checkpoint.checkpoint import restore_for_inference
    from training.network.inference import inference_function
    from training.network.openpose import OpenPose

    network = OpenPose(checkpoint.config.model)
    restore_for_inference(network, checkpoint)
    return inference_function(network)


def mindir_network(path: Path, device: str, exported: GraphMetadata) -> InferenceFunction:
    """A MindIR graph on MindSpore's device; InputError if MindSpore cannot read it."""
    _need_mindspore(path)
    import mindspore as ms

    from training.distributed.world import make_debug_folder, start

    start(device, debug_folder=make_debug_folder())
    try:
        graph = ms.nn.GraphCell(ms.load(str(path)))
    except (RuntimeError, ValueError, TypeError) as error:
        raise InputError(f"{path}: MindSpore cannot read it: {_first_line(error)}") from error
    graph.set_train(False)

    def run(images: NDArray[np.uint8]) -> tuple[Floats, Floats]:
        return _pafs_and_heatmaps([output.asnumpy() for output in graph(ms.Tensor(images))], exported)

    return run


def onnx_network(path: Path, device: str, exported: GraphMetadata) -> InferenceFunction:
    """An ONNX graph through onnxruntime; InputError if that is not installed or cannot read it."""
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError(f"{path}: needs onnxruntime: pip install onnxruntime") from error
    providers = {"cpu": ["CPUExecutionProvider"], "ascend": ["CANNExecutionProvider"]}
    wanted = providers.get(device, ["CANNExecutionProvider", "CPUExecutionProvider"])
    there = [provider for provider in wanted if provider in onnxruntime.get_available_providers()]
    if not there:
        raise InputError("--device ascend: this onnxruntime has no CANN provider; install onnxruntime-cann")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=there)
    except Exception as error:  # onnxruntime's exceptions share no other base
        raise InputError(f"{path}: onnxruntime cannot read it: {_first_line(error)}") from error
    (image,) = session.get_inputs()

    def run(images: NDArray[np.uint8]) -> tuple[Floats, Floats]:
        return _pafs_and_heatmaps(session.run(None, {image.name: images}), exported)

    return run


_GRAPHS: dict[str, Callable[[Path, str, GraphMetadata], InferenceFunction]] = {
    ".mindir": mindir_network,
    ".onnx": onnx_network,
}
"""What reads a graph, by the ending of its name."""


def _pafs_and_heatmaps(outputs: Sequence[Any], exported: GraphMetadata) -> tuple[Floats, Floats]:
    return outputs[exported.outputs.index("pafs")], outputs[exported.outputs.index("heatmaps")]


def _need_mindspore(path: Path) -> None:
    silence_mindspore()
    try:
        import mindspore  # noqa: F401
    except ImportError as error:
        raise InputError(f"{path}: needs MindSpore, which is not installed here; export it as ONNX") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
