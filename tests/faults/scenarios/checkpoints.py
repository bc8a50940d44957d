"""Fuzzed and malicious checkpoints, published weights and metadata of exported graphs."""

from __future__ import annotations

import binascii
import io
import json
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.system.log_filters import silence_mindspore
from tests.faults.input_tester import InputTester
from tests.faults.mutate import Generator, json_variant, mutate_bytes, mutate_tree, to_mutated_json
from tests.faults.report import FaultReport
from tests.support import tiny

if TYPE_CHECKING:
    from training.config import ModelConfig

_CHECKSUM_MARK = b"crc_num"
_CHECKSUM_LENGTH = len(_CHECKSUM_MARK) + 10


def checkpoints(seed: int, cases: int, folder: Path) -> FaultReport:
    """Load fuzzed checkpoints into a network: with invalid or correct checksum, and with inconsistent entries."""
    silence_mindspore()
    from training.checkpoint.checkpoint import TrainingPosition, load_checkpoint, restore_cell, save_checkpoint
    from training.network.openpose import OpenPose

    tester = InputTester()
    network = OpenPose(tiny.recipe().model)
    position = TrainingPosition(step=3, records=48, shards="", processes=1)
    path = save_checkpoint(folder, network.get_parameters(), tiny.recipe(), position, keep=1)
    whole = path.read_bytes()

    def load() -> None:
        checkpoint = load_checkpoint(path)
        restore_cell(
            OpenPose(checkpoint.config.model) if checkpoint.config != tiny.recipe() else network,
            checkpoint.tensors,
            path,
        )

    for case in range(cases):
        rng = np.random.default_rng((seed, case))
        path.unlink()
        path.write_bytes(_mutate_checkpoint(whole, rng) if case else whole)
        tester.run(f"checkpoint (case {case})", load)
    return tester.result()


def _mutate_checkpoint(whole: bytes, rng: Generator) -> bytes:
    kind = int(rng.integers(4))
    if kind == 0:
        return mutate_bytes(whole, rng)
    body = (
        mutate_bytes(whole[:-_CHECKSUM_LENGTH], rng) if kind == 1 else _mutate_message(whole[:-_CHECKSUM_LENGTH], rng)
    )
    return body + _CHECKSUM_MARK + binascii.crc32(body).to_bytes(10, "big")


def _mutate_message(body: bytes, rng: Generator) -> bytes:
    """Return the protobuf message with one entry changed, or with changes in its training state."""
    from mindspore.train.checkpoint_pb2 import Checkpoint

    message: Any = Checkpoint()
    message.ParseFromString(body)
    if rng.random() < 1 / 2:
        entry = next(entry for entry in message.value if entry.tag == "openpose")
        state = mutate_tree(json.loads(entry.tensor.tensor_content.decode("utf-32-le")), rng)
        entry.tensor.tensor_content = to_mutated_json(state, rng).decode("latin-1").encode("utf-32-le")
        return bytes(message.SerializeToString())
    entry = message.value[int(rng.integers(len(message.value)))]
    kind = int(rng.integers(6))
    if kind == 0:
        entry.tensor.dims[:] = rng.choice([-1, 0, 1, 7, 2**31, 2**62], int(rng.integers(0, 12))).tolist()
    elif kind == 1:
        entry.tensor.tensor_content = mutate_bytes(entry.tensor.tensor_content, rng)
    elif kind == 2:
        entry.tensor.tensor_content *= 50
    elif kind == 3:
        entry.tensor.tensor_type = str(rng.choice(["Float64", "Int8", "str", "BFloat16", "", "x" * 1000]))
    elif kind == 4:
        entry.tag = str(rng.choice(["", "openpose", message.value[0].tag, "x" * 100_000]))
    else:
        message.value.remove(entry)
    return bytes(message.SerializeToString())


def graph_metadata(seed: int, cases: int, folder: Path) -> FaultReport:
    """Load fuzzed metadata files of exported graphs."""
    from pipeline.system.files import file_sha256
    from training.config import EvaluationConfig
    from training.graphs.metadata import GraphMetadata, metadata_path

    tester = InputTester()
    graph = folder / "graph.onnx"
    graph.write_bytes(b"graph")
    sound = GraphMetadata(
        sha256=file_sha256(graph),
        checkpoint="step-0000003.ckpt",
        step=3,
        batch=4,
        height=None,
        width=None,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        outputs=("pafs", "heatmaps"),
        evaluation=EvaluationConfig(),
    )
    content = sound.model_dump(mode="json")
    for case in range(cases):
        metadata_path(graph).write_bytes(json_variant(content, case, seed))
        tester.run(f"graph metadata (case {case})", lambda: GraphMetadata.load(graph))
    return tester.result()


def _published_tensors() -> dict[str, NDArray[np.float32]]:
    """Return tiny tensors with the names of torchvision's VGG19 with batch normalisation."""
    from training.weights.published_names import PUBLISHED_NETWORKS

    layers = PUBLISHED_NETWORKS["torchvision-vgg19"].layers(["features.1.weight"])
    rng = np.random.default_rng(0)
    found = {}
    for layer in layers:
        found[f"{layer.source}.weight"] = rng.normal(size=(2, 3 if layer is layers[0] else 2, 1, 1))
        for name in (
            f"{layer.source}.bias",
            *(f"{layer.source_norm}.{each}" for each in ("weight", "bias", "running_mean")),
        ):
            found[name] = rng.normal(size=2)
        found[f"{layer.source_norm}.running_var"] = rng.uniform(0.5, 1, 2)
    return {name: array.astype("<f4") for name, array in found.items()}


def _weight_files(folder: Path) -> list[bytes]:
    """Return the tensors of `_published_tensors` as a file in each format of published weights."""
    import mindspore as ms
    from safetensors.numpy import save

    from tests.support.torch_files import FORMATS, write

    arrays = _published_tensors()
    found = [write(folder / "a.pth", arrays, kind).read_bytes() for kind in FORMATS]
    named = [{"name": name, "data": ms.Tensor(array)} for name, array in arrays.items()]
    for checksum in (False, True):
        path = folder / f"{checksum}.ckpt"
        ms.save_checkpoint(named, str(path), crc_check=checksum)
        found.append(path.read_bytes())
    return [*found, save(arrays)]


def weights(seed: int, cases: int, folder: Path) -> FaultReport:
    """Convert fuzzed published weights of every format, some of them with pickles that call functions."""
    silence_mindspore()
    from training.convert import network_shapes
    from training.weights.conversion import convert_weights
    from training.weights.reader import open_weights

    tester = InputTester()
    originals = _weight_files(folder)
    path = folder / "weights"

    def shapes(model: ModelConfig) -> dict[str, tuple[int, ...]]:
        real = network_shapes(model)
        first = "backbone.0.conv.weight"
        return {name: (2, 3 if name == first else 2, 1, 1)[: len(shape)] for name, shape in real.items()}

    def read() -> None:
        try:
            convert_weights(open_weights(path), shapes)
        except InputError:
            raise
        except ValueError as error:  # as the command training.convert does
            raise InputError(str(error)) from error

    for case in range(cases):
        rng = np.random.default_rng((seed, case))
        whole = originals[case % len(originals)]
        path.write_bytes(_mutate_weights(whole, rng) if case >= len(originals) else whole)
        tester.run(f"weights (case {case})", read)
    return tester.result()


_PICKLE_CALLS = (
    b"cposix\nsystem\n",
    b"(S'true'\ntR",
    b"\x93",
    b"R",
    b"Q",
    b"b",
    b"(iposix\nsystem\n",
    b"t.",
    b"q\x00",
    b"h\x00",
)


def _mutate_weights(data: bytes, rng: Generator) -> bytes:
    """Return a mutated file. For a ZIP file, usually mutate only its pickle, and write correct checksums."""
    if not data.startswith(b"PK") or rng.random() < 1 / 4:
        return mutate_bytes(data, rng, _PICKLE_CALLS)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    name = next(name for name in entries if name.endswith("data.pkl"))
    if rng.random() < 1 / 4:
        name = list(entries)[int(rng.integers(len(entries)))]
    entries[name] = mutate_bytes(entries[name], rng, _PICKLE_CALLS)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for entry, content in entries.items():
            archive.writestr(entry, content)
    return file.getvalue()
