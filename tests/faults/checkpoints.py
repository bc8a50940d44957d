"""Input: checkpoints, published weights and descriptions of graphs that are damaged, or made to do damage."""

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
from tests.faults.report import Findings
from tests.faults.mutate import Chance, as_json, changed, damaged, json_variant
from tests.faults.input_tester import Trial
from tests.support import tiny

if TYPE_CHECKING:
    from training.config import ModelConfig

_MARK = b"crc_num"
_TAIL = len(_MARK) + 10


def checkpoints(seed: int, cases: int, folder: Path) -> Findings:
    """Checkpoints: damaged with and without the checksum made good, and with entries that lie; put into a network."""
    silence_mindspore()
    from training.checkpoint.checkpoint import TrainingPosition, load_checkpoint, restore_cell, save_checkpoint
    from training.network.openpose import OpenPose

    trial = Trial()
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
        chance = np.random.default_rng((seed, case))
        path.unlink()
        path.write_bytes(_forged(whole, chance) if case else whole)
        trial.run(f"checkpoint (case {case})", load)
    return trial.result()


def _forged(whole: bytes, chance: Chance) -> bytes:
    kind = int(chance.integers(4))
    if kind == 0:
        return damaged(whole, chance)
    body = damaged(whole[:-_TAIL], chance) if kind == 1 else _lying(whole[:-_TAIL], chance)
    return body + _MARK + binascii.crc32(body).to_bytes(10, "big")


def _lying(body: bytes, chance: Chance) -> bytes:
    """The message with one entry, or what it says of the run, changed."""
    from mindspore.train.checkpoint_pb2 import Checkpoint

    message: Any = Checkpoint()
    message.ParseFromString(body)
    if chance.random() < 1 / 2:
        entry = next(entry for entry in message.value if entry.tag == "openpose")
        state = changed(json.loads(entry.tensor.tensor_content.decode("utf-32-le")), chance)
        entry.tensor.tensor_content = as_json(state, chance).decode("latin-1").encode("utf-32-le")
        return bytes(message.SerializeToString())
    entry = message.value[int(chance.integers(len(message.value)))]
    kind = int(chance.integers(6))
    if kind == 0:
        entry.tensor.dims[:] = chance.choice([-1, 0, 1, 7, 2**31, 2**62], int(chance.integers(0, 12))).tolist()
    elif kind == 1:
        entry.tensor.tensor_content = damaged(entry.tensor.tensor_content, chance)
    elif kind == 2:
        entry.tensor.tensor_content *= 50
    elif kind == 3:
        entry.tensor.tensor_type = str(chance.choice(["Float64", "Int8", "str", "BFloat16", "", "x" * 1000]))
    elif kind == 4:
        entry.tag = str(chance.choice(["", "openpose", message.value[0].tag, "x" * 100_000]))
    else:
        message.value.remove(entry)
    return bytes(message.SerializeToString())


def descriptions(seed: int, cases: int, folder: Path) -> Findings:
    """What lies beside an exported graph."""
    from pipeline.system.files import file_sha256
    from training.config import EvaluationConfig
    from training.graphs.metadata import GraphMetadata, metadata_path

    trial = Trial()
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
        trial.run(f"description (case {case})", lambda: GraphMetadata.load(graph))
    return trial.result()


def _published() -> dict[str, NDArray[np.float32]]:
    """Tensors of a network with the names of torchvision's VGG19 with batch normalisation, and hardly any numbers."""
    from training.weights.published_names import PUBLISHED_NETWORKS

    layers = PUBLISHED_NETWORKS["torchvision-vgg19"].layers(["features.1.weight"])
    chance = np.random.default_rng(0)
    found = {}
    for layer in layers:
        found[f"{layer.source}.weight"] = chance.normal(size=(2, 3 if layer is layers[0] else 2, 1, 1))
        for name in (
            f"{layer.source}.bias",
            *(f"{layer.source_norm}.{each}" for each in ("weight", "bias", "running_mean")),
        ):
            found[name] = chance.normal(size=2)
        found[f"{layer.source_norm}.running_var"] = chance.uniform(0.5, 1, 2)
    return {name: array.astype("<f4") for name, array in found.items()}


def _files(folder: Path) -> list[bytes]:
    """That network in each of the formats in which weights are published."""
    import mindspore as ms
    from safetensors.numpy import save

    from tests.support.torch_files import FORMATS, write

    arrays = _published()
    found = [write(folder / "a.pth", arrays, kind).read_bytes() for kind in FORMATS]
    named = [{"name": name, "data": ms.Tensor(array)} for name, array in arrays.items()]
    for checksum in (False, True):
        path = folder / f"{checksum}.ckpt"
        ms.save_checkpoint(named, str(path), crc_check=checksum)
        found.append(path.read_bytes())
    return [*found, save(arrays)]


def weights(seed: int, cases: int, folder: Path) -> Findings:
    """Published weights: files of every format, damaged, and pickles that call what they should not; converted."""
    silence_mindspore()
    from training.convert import network_shapes
    from training.weights.conversion import convert_weights
    from training.weights.reader import open_weights

    trial = Trial()
    originals = _files(folder)
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
        except ValueError as error:  # as the command does
            raise InputError(str(error)) from error

    for case in range(cases):
        chance = np.random.default_rng((seed, case))
        whole = originals[case % len(originals)]
        path.write_bytes(_bad_weights(whole, chance) if case >= len(originals) else whole)
        trial.run(f"weights (case {case})", read)
    return trial.result()


_CALLS = (
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


def _bad_weights(data: bytes, chance: Chance) -> bytes:
    """The file, damaged anywhere or in what describes it, which is small beside its numbers; of a zip with sums."""
    if not data.startswith(b"PK") or chance.random() < 1 / 4:
        return damaged(data, chance, _CALLS)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    name = next(name for name in entries if name.endswith("data.pkl"))
    if chance.random() < 1 / 4:
        name = list(entries)[int(chance.integers(len(entries)))]
    entries[name] = damaged(entries[name], chance, _CALLS)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for entry, content in entries.items():
            archive.writestr(entry, content)
    return file.getvalue()
