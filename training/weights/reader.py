"""Open a file of weights in any of four formats. Its content is read as data; no code in it is executed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.errors import InputError
from training.weights.stored_tensor import Array, StoredTensor
from training.weights.torch_reader import read_legacy, read_zip

_ZIP_SIGNATURE = b"PK\x03\x04"
_PICKLE_SIGNATURE = b"\x80"
EXPECTED_FORMATS = "a PyTorch file (.pth, .pt), a .safetensors or a MindSpore checkpoint (.ckpt)"


def open_weights(path: Path) -> dict[str, StoredTensor]:
    """Return the tensors of a file by name. Their values are read by `StoredTensor.read`.

    Raises:
        InputError: the file does not exist, is damaged, has an unknown format, or contains anything but tensors.
    """
    try:
        with path.open("rb") as file:
            head = file.read(9)
        tensors = _choose_reader(head)(path)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}; expected {EXPECTED_FORMATS}") from error
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error
    if not tensors:
        raise InputError(f"{path}: contains no tensors; expected the weights of a published network")
    return tensors


def _choose_reader(head: bytes) -> Callable[[Path], dict[str, StoredTensor]]:
    """Return the function that reads a file with these first 9 bytes."""
    if head.startswith(_ZIP_SIGNATURE):
        return read_zip
    if head.startswith(_PICKLE_SIGNATURE):
        return read_legacy
    return _read_safetensors if head[8:] == b"{" else _read_checkpoint


def _read_safetensors(path: Path) -> dict[str, StoredTensor]:
    from safetensors import SafetensorError, safe_open

    try:
        file: Any = safe_open(path, framework="numpy")
        return {name: _safetensors_entry(file, name) for name in file.keys()}  # noqa: SIM118 - not a dictionary
    except SafetensorError as error:
        raise ValueError(f"a damaged safetensors file: {error}") from error


def _safetensors_entry(file: Any, name: str) -> StoredTensor:
    def read() -> Array:
        return file.get_tensor(name)

    return StoredTensor(tuple(file.get_slice(name).get_shape()), read)


def _read_checkpoint(path: Path) -> dict[str, StoredTensor]:
    from training.checkpoint.reader import read_arrays

    try:
        arrays = read_arrays(path, require_checksum=False)
    except ValueError as error:
        raise ValueError(f"damaged, or not a known format; expected {EXPECTED_FORMATS}") from error
    return {name: _loaded_tensor(array) for name, array in arrays.items() if not isinstance(array, str)}


def _loaded_tensor(array: Array) -> StoredTensor:
    """Wrap an array that is in memory already."""
    return StoredTensor(array.shape, lambda: array)
