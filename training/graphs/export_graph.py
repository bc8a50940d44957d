"""Export a checkpoint's network as a MindIR, ONNX or AIR graph, and compare the graph's maps with the network's."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import InputError
from pipeline.maps import STRIDE

if TYPE_CHECKING:
    import numpy as np
    from mindspore import nn
    from numpy.typing import NDArray

    from training.checkpoint.checkpoint import Checkpoint
    from training.config import EvaluationConfig, MapKind, ModelConfig
    from training.graphs.metadata import GraphMetadata

LARGEST = 8192
"""px; longest side of a graph's input."""

ASPECT = 4 / 3
"""Width by height of the input that is chosen for pictures of cameras, held sideways."""

TOLERANCE = 1e-4
"""Largest difference between maps of a graph and of its checkpoint, for maps within -1..1."""


@dataclass(frozen=True)
class InputShape:
    """Input of a graph: pictures in a batch, and their height and width in px; None stands for any."""

    batch: int | None
    height: int | None
    width: int | None

    @property
    def example(self) -> tuple[int, int, int, int]:
        """Shape of a batch that the graph takes."""
        return self.batch or 2, self.height or 8 * STRIDE, self.width or 12 * STRIDE, 3

    def __str__(self) -> str:
        if self.batch is None:
            return "pictures of any size, any number at a time"
        return f"pictures of {self.width}x{self.height} px, {self.batch} at a time"


def choose_input_shape(
    batch: int | None, height: int | None, width: int | None, evaluation: EvaluationConfig, *, dynamic: bool
) -> InputShape:
    """The shape asked for; what is left out follows from the recipe, for pictures of 4:3.

    Raises:
        InputError: a side that is no multiple of the stride, a dynamic shape with numbers, or a fixed one for a recipe
            that averages over scales.
    """
    if dynamic:
        if (batch, height, width) != (None, None, None):
            raise InputError("--dynamic: takes any size; leave out --batch, --height and --width")
        return InputShape(None, None, None)
    if evaluation.scales != (1.0,):
        raise InputError(
            f"evaluation.scales: {list(evaluation.scales)}, and a graph of one size serves one scale; "
            'add --set "evaluation.scales=[1]", or export with --format mindir --dynamic'
        )
    height = _cells(evaluation.size) if height is None else height
    width = _cells(evaluation.size * ASPECT) if width is None else width
    for name, side in (("height", height), ("width", width)):
        if side % STRIDE or not STRIDE <= side <= LARGEST:
            raise InputError(f"--{name} {side}: expected a multiple of {STRIDE} from {STRIDE} to {LARGEST}")
    return InputShape(batch or evaluation.batch_size, height, width)


def _cells(side: float) -> int:
    return -(-round(side) // STRIDE) * STRIDE


def export_checkpoint(
    checkpoint: Checkpoint, out: Path, kind: str, shape: InputShape, evaluation: EvaluationConfig, *, all_stages: bool
) -> float | None:
    """Write a graph and the json beside it, each in one step, after comparing its maps with the checkpoint's.

    Args:
        checkpoint: network to export.
        out: the graph's file; its ending is the format's.
        kind: mindir, onnx or air.
        shape: of the input.
        evaluation: recipe to send along.
        all_stages: give every stage's maps out, instead of the last one's.

    Returns:
        The largest difference between maps of graph and checkpoint; None if nothing here can run the graph.

    Raises:
        InputError: the graph cannot be written here, or answers otherwise than the checkpoint.
    """
    from pipeline.system.files import set_default_permissions
    from training.graphs.onnx_names import name_outputs

    network = checkpoint_network(checkpoint, all_stages=all_stages)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise InputError(f"{out}: cannot be written: {error.strerror}") from error
    try:
        unfinished = folder / out.name
        write_graph(network, unfinished, kind, shape)
        if kind == "onnx":
            name_outputs(unfinished, output_names(checkpoint.config.model, all_stages=all_stages))
        difference = compare(network, unfinished, kind, shape)
        set_default_permissions(unfinished)
        exported = describe(checkpoint, unfinished, shape, evaluation, all_stages=all_stages)
        unfinished.replace(out)
        exported.save(out)
    except OSError as error:
        raise InputError(f"{out}: cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return difference


def checkpoint_network(checkpoint: Checkpoint, *, all_stages: bool) -> nn.Cell:
    """The checkpoint's network, (B, H, W, 3) uint8 BGR to maps in the order of `output_names`."""
    from training.checkpoint.checkpoint import restore_for_inference
    from training.network.inference import FinalStage
    from training.network.openpose import OpenPose

    network = OpenPose(checkpoint.config.model)
    restore_for_inference(network, checkpoint)
    cell = network if all_stages else FinalStage(network)
    return cell.set_train(False)


def output_names(model: ModelConfig, *, all_stages: bool) -> tuple[str, ...]:
    """What a graph gives: pafs and heatmaps are the last stage's, pafs_1 those of the first."""
    names: list[str] = []
    kinds: tuple[MapKind, ...] = ("pafs", "heatmaps")
    for kind in kinds:
        earlier = range(1, model.num_stages(kind)) if all_stages else ()
        names.extend(f"{kind}_{i}" for i in earlier)
        names.append(kind)
    return tuple(names)


def write_graph(network: nn.Cell, path: Path, kind: str, shape: InputShape) -> None:
    """Let MindSpore write the graph's file."""
    import mindspore as ms
    import numpy as np

    if shape.batch is None:
        images = ms.Tensor(shape=(None, None, None, 3), dtype=ms.uint8)
    else:
        images = ms.Tensor(np.zeros(shape.example, dtype=np.uint8))
    ms.export(network, images, file_name=str(path), file_format=kind.upper())


def describe(
    checkpoint: Checkpoint, graph: Path, shape: InputShape, evaluation: EvaluationConfig, *, all_stages: bool
) -> GraphMetadata:
    """What goes into the json beside a graph."""
    from pipeline.system.files import file_sha256
    from training.graphs.metadata import GraphMetadata

    model = checkpoint.config.model
    batch = {} if shape.batch is None else {"batch_size": shape.batch}
    return GraphMetadata(
        sha256=file_sha256(graph),
        checkpoint=str(checkpoint.path),
        step=checkpoint.step,
        averaged=checkpoint.has_weight_average,
        batch=shape.batch,
        height=shape.height,
        width=shape.width,
        mean=model.mean,
        std=model.std,
        outputs=output_names(model, all_stages=all_stages),
        evaluation=evaluation.model_copy(update=batch),
    )


def compare(network: nn.Cell, graph: Path, kind: str, shape: InputShape) -> float | None:
    """Largest difference between the outputs of a network and of its graph on a batch of noise.

    None if nothing here can run the graph. InputError if it is above TOLERANCE, or above that part of the largest
    output where outputs are larger than 1.
    """
    import numpy as np

    images = np.random.default_rng(0).integers(0, 256, shape.example, dtype=np.uint8)
    answers = _run_graph(graph, kind, images)
    if answers is None:
        return None
    truth = _run_cell(network, images)
    difference = max(float(np.abs(a - b).max()) for a, b in zip(answers, truth, strict=True))
    limit = TOLERANCE * max(1.0, *(float(np.abs(one).max()) for one in truth))
    if not difference <= limit:
        raise InputError(f"--format {kind}: the graph's maps differ from the checkpoint's by {difference:.2g}")
    return difference


def _run_graph(graph: Path, kind: str, images: NDArray[np.uint8]) -> list[Any] | None:
    import mindspore as ms

    if kind == "mindir":
        return _run_cell(ms.nn.GraphCell(ms.load(str(graph))), images)
    if kind == "onnx":
        try:
            import onnxruntime
        except ImportError:
            return None
        session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
        return list(session.run(None, {session.get_inputs()[0].name: images}))
    return None


def _run_cell(cell: nn.Cell, images: NDArray[np.uint8]) -> list[Any]:
    """All outputs of a cell, one after the other."""
    import mindspore as ms

    outputs: list[Any] = []
    for output in cell(ms.Tensor(images)):
        outputs.extend(output if isinstance(output, tuple) else [output])
    return [output.asnumpy() for output in outputs]
