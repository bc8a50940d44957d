"""Opens a file of weights, whatever of four formats it is in. What it holds is data, never code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.errors import InputError
from training.weights.stored_tensor import Numbers, StoredTensor
from training.weights.torch_reader import read_legacy, read_zip

_ZIP = b"PK\x03\x04"
_PICKLE = b"\x80"
EXPECTED = "a PyTorch file (.pth, .pt), a .safetensors or a MindSpore checkpoint (.ckpt)"


def open_weights(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a file by name; their numbers are read when they are asked for.

    Raises:
        InputError: no such file, one that is damaged or of no known format, or one that holds anything but tensors.
    """
    try:
        with path.open("rb") as file:
            head = file.read(9)
        found = _reader(head)(path)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}; expected {EXPECTED}") from error
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error
    if not found:
        raise InputError(f"{path}: holds no tensors")
    return found


def _reader(head: bytes) -> Any:
    """The function that reads a file with these first bytes."""
    if head.startswith(_ZIP):
        return read_zip
    if head.startswith(_PICKLE):
        return read_legacy
    return _read_safetensors if head[8:] == b"{" else _read_checkpoint


def _read_safetensors(path: Path) -> dict[str, StoredTensor]:
    from safetensors import SafetensorError, safe_open

    try:
        file: Any = safe_open(path, framework="numpy")
        return {name: _slice(file, name) for name in file.keys()}  # noqa: SIM118 - not a dictionary
    except SafetensorError as error:
        raise ValueError(f"a damaged safetensors file: {error}") from error


def _slice(file: Any, name: str) -> StoredTensor:
    def read() -> Numbers:
        return file.get_tensor(name)

    return StoredTensor(tuple(file.get_slice(name).get_shape()), read)


def _read_checkpoint(path: Path) -> dict[str, StoredTensor]:
    from training.checkpoint.reader import read_arrays

    try:
        arrays = read_arrays(path, checksum=False)
    except ValueError as error:
        raise ValueError(f"damaged, or of no known format; expected {EXPECTED}") from error
    return {name: _held(array) for name, array in arrays.items() if not isinstance(array, str)}


def _held(array: Numbers) -> StoredTensor:
    return StoredTensor(array.shape, lambda: array)
