"""Export the network of a checkpoint as a MindIR, ONNX or AIR graph, and compare the maps of graph and network."""

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

MAX_INPUT_SIDE = 8192
"""Largest height and width of the input of a graph in px."""

DEFAULT_ASPECT_RATIO = 4 / 3
"""Default ratio of width to height of the input: that of most cameras in landscape orientation."""

TOLERANCE = 1e-4
"""Largest accepted difference between the maps of a graph and of its checkpoint, for maps with values from -1 to 1."""


@dataclass(frozen=True)
class InputShape:
    """Shape of the input of a graph.

    Attributes:
        batch: batch size; None if any is accepted.
        height, width: size of the images in px; None if any multiple of the stride is accepted.
    """

    batch: int | None
    height: int | None
    width: int | None

    @property
    def example(self) -> tuple[int, int, int, int]:
        """A batch shape (B, H, W, 3) that the graph accepts."""
        return self.batch or 2, self.height or 8 * STRIDE, self.width or 12 * STRIDE, 3

    def __str__(self) -> str:
        if self.batch is None:
            return "images of any size, any batch size"
        return f"images of {self.width}x{self.height} px, batch size {self.batch}"


def choose_input_shape(
    batch: int | None, height: int | None, width: int | None, evaluation: EvaluationConfig, *, dynamic: bool
) -> InputShape:
    """Choose the input shape of a graph.

    Args:
        batch: batch size; None for that of the recipe.
        height: height in px; None for the evaluation size of the recipe.
        width: width in px; None for 4/3 of the evaluation size.
        evaluation: evaluation settings of the recipe.
        dynamic: True for a graph that accepts any batch size, height and width.

    Raises:
        InputError: a side is not a multiple of the stride or too large, `dynamic` is combined with a size, or a fixed
            shape is combined with several evaluation scales.
    """
    if dynamic:
        if (batch, height, width) != (None, None, None):
            raise InputError("--dynamic: accepts any size; leave out --batch, --height and --width")
        return InputShape(None, None, None)
    if evaluation.scales != (1.0,):
        raise InputError(
            f"evaluation.scales={list(evaluation.scales)}: a graph with a fixed input size supports one scale only; "
            'add --set "evaluation.scales=[1]", or export with --dynamic'
        )
    height = _round_up_to_stride(evaluation.size) if height is None else height
    width = _round_up_to_stride(evaluation.size * DEFAULT_ASPECT_RATIO) if width is None else width
    for name, side in (("height", height), ("width", width)):
        if side % STRIDE or not STRIDE <= side <= MAX_INPUT_SIDE:
            raise InputError(f"--{name} {side}: expected a multiple of {STRIDE} from {STRIDE} to {MAX_INPUT_SIDE}")
    return InputShape(batch or evaluation.batch_size, height, width)


def _round_up_to_stride(side: float) -> int:
    return -(-round(side) // STRIDE) * STRIDE


def export_checkpoint(
    checkpoint: Checkpoint,
    out: Path,
    file_format: str,
    shape: InputShape,
    evaluation: EvaluationConfig,
    *,
    all_stages: bool,
) -> float | None:
    """Write a graph and the json beside it, each atomically, after comparing its maps with those of the checkpoint.

    Args:
        checkpoint: checkpoint to export.
        out: file to write, with the suffix of the format.
        file_format: mindir, onnx or air.
        shape: shape of the input.
        evaluation: evaluation settings to store in the json.
        all_stages: True to output the maps of every stage, False for those of the last stage.

    Returns:
        Largest absolute difference between the maps of graph and checkpoint; None if the graph cannot be run here.

    Raises:
        InputError: the file cannot be written, or the maps of the graph differ from those of the checkpoint.
    """
    from pipeline.system.files import set_default_permissions
    from training.graphs.onnx_file import edit_onnx

    network = checkpoint_network(checkpoint, all_stages=all_stages)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise InputError(f"{out}: cannot be written: {error.strerror}") from error
    try:
        unfinished = folder / out.name
        write_graph(network, unfinished, file_format, shape)
        if file_format == "onnx":
            names = output_names(checkpoint.config.model, all_stages=all_stages)
            edit_onnx(unfinished, names, dynamic=shape.batch is None)
        difference = compare_outputs(network, unfinished, file_format, shape)
        set_default_permissions(unfinished)
        metadata = make_metadata(checkpoint, unfinished, shape, evaluation, all_stages=all_stages)
        unfinished.replace(out)
        metadata.save(out)
    except OSError as error:
        raise InputError(f"{out}: cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return difference


def checkpoint_network(checkpoint: Checkpoint, *, all_stages: bool) -> nn.Cell:
    """Return the network of a checkpoint, from (B, H, W, 3) uint8 BGR images to maps in the order of `output_names`."""
    from training.checkpoint.checkpoint import restore_for_inference
    from training.network.inference import FinalStage
    from training.network.openpose import OpenPose

    network = OpenPose(checkpoint.config.model)
    restore_for_inference(network, checkpoint)
    cell = network if all_stages else FinalStage(network)
    return cell.set_train(False)


def output_names(model: ModelConfig, *, all_stages: bool) -> tuple[str, ...]:
    """Return the names of a graph's outputs: pafs and heatmaps for the last stage, pafs_1 for the first."""
    names: list[str] = []
    map_kinds: tuple[MapKind, ...] = ("pafs", "heatmaps")
    for map_kind in map_kinds:
        earlier = range(1, model.num_stages(map_kind)) if all_stages else ()
        names.extend(f"{map_kind}_{i}" for i in earlier)
        names.append(map_kind)
    return tuple(names)


def write_graph(network: nn.Cell, path: Path, file_format: str, shape: InputShape) -> None:
    """Write the graph of a network with MindSpore. An ONNX graph always has a fixed shape, see `onnx_file`."""
    import mindspore as ms
    import numpy as np

    if shape.batch is None and file_format != "onnx":
        images = ms.Tensor(shape=(None, None, None, 3), dtype=ms.uint8)
    else:
        # not the shape of the comparison, which then shows that a dynamic graph accepts another one
        shown = shape.example if shape.batch else (1, 8 * STRIDE, 8 * STRIDE, 3)
        images = ms.Tensor(np.zeros(shown, dtype=np.uint8))
    ms.export(network, images, file_name=str(path), file_format=file_format.upper())


def make_metadata(
    checkpoint: Checkpoint, graph: Path, shape: InputShape, evaluation: EvaluationConfig, *, all_stages: bool
) -> GraphMetadata:
    """Return the metadata to store beside a graph."""
    from pipeline.system.files import file_sha256
    from training.graphs.metadata import GraphMetadata

    model = checkpoint.config.model
    batch_size = {} if shape.batch is None else {"batch_size": shape.batch}
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
        evaluation=evaluation.model_copy(update=batch_size),
    )


def compare_outputs(network: nn.Cell, graph: Path, file_format: str, shape: InputShape) -> float | None:
    """Return the largest absolute difference between the outputs of a network and of its graph on a batch of noise.

    The limit is TOLERANCE, multiplied by the largest absolute output if that is above 1.

    Returns:
        The difference; None if the graph cannot be run here (AIR, or ONNX without onnxruntime).

    Raises:
        InputError: the difference is above the limit or not a number.
    """
    import numpy as np

    images = np.random.default_rng(0).integers(0, 256, shape.example, dtype=np.uint8)
    outputs = _run_graph(graph, file_format, images)
    if outputs is None:
        return None
    expected = _run_cell(network, images)
    difference = max(float(np.abs(a - b).max()) for a, b in zip(outputs, expected, strict=True))
    limit = TOLERANCE * max(1.0, *(float(np.abs(output).max()) for output in expected))
    if not difference <= limit:
        raise InputError(
            f"--format {file_format}: the maps of the graph differ from those of the checkpoint by {difference:.2g}, "
            f"more than {limit:.2g}; choose another format"
        )
    return difference


def _run_graph(graph: Path, file_format: str, images: NDArray[np.uint8]) -> list[Any] | None:
    """Return all outputs of a graph; None if it cannot be run here."""
    import mindspore as ms

    if file_format == "mindir":
        return _run_cell(ms.nn.GraphCell(ms.load(str(graph))), images)
    if file_format == "onnx":
        try:
            import onnxruntime
        except ImportError:
            return None
        session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
        return list(session.run(None, {session.get_inputs()[0].name: images}))
    return None


def _run_cell(cell: nn.Cell, images: NDArray[np.uint8]) -> list[Any]:
    """Return all outputs of a cell as one list."""
    import mindspore as ms

    outputs: list[Any] = []
    for output in cell(ms.Tensor(images)):
        outputs.extend(output if isinstance(output, tuple) else [output])
    return [output.asnumpy() for output in outputs]
