"""Write MindRecord files without importing MindSpore into every worker process.

The public class `mindspore.mindrecord.FileWriter` is a thin layer over `mindspore._c_mindrecord`, a private extension
module. `mindspore.mindrecord` can only be imported together with the whole of MindSpore, which costs 1.5 s of CPU time
and 380 MB of memory in each worker process. The extension module alone costs 0.02 s and 15 MB. `ExtensionWriter`
therefore loads the extension module from its file and makes the same calls as FileWriter; for the pinned release of
MindSpore, a test compares the bytes of its files with those of FileWriter.

Another release may lack the private module or change it. `create_writer` then returns a `PublicWriter`, which uses
FileWriter and imports MindSpore.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from importlib.machinery import ExtensionFileLoader, ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from pipeline.system.log_filters import silence_mindspore

Schema = Mapping[str, Mapping[str, str]]
"""Type of every column by name, such as {"image": {"type": "bytes"}}."""

_SCHEMA_NAME = "OpenPose"
_EXTENSION = "mindspore._c_mindrecord"
_REQUIRED_ATTRIBUTES = {
    "Schema": ("build",),
    "ShardHeader": ("add_schema", "get_meta"),
    "ShardWriter": ("set_page_size", "set_header_size", "open", "set_shard_header", "write_raw_data", "commit"),
    "ShardIndexGenerator": ("build", "write_to_db"),
    "MSRStatus": ("SUCCESS",),
}
"""Classes of the extension module, and their attributes, that `ExtensionWriter` uses."""

_load_lock = threading.Lock()


class MindRecordWriter(Protocol):
    """Writer of one MindRecord file and, after `commit`, its index file beside it.

    All methods raise RuntimeError if MindRecord reports an error.
    """

    def write(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Append records with values of type int, str and bytes. Records that do not match the schema are dropped."""

    def commit(self) -> None:
        """Flush the file and write its index."""


def create_writer(path: Path, schema: Schema, *, page_size: int, header_size: int) -> MindRecordWriter:
    """Create a MindRecord file and return its writer.

    Args:
        path: path of the file. Its name is stored in the index, so the file cannot be renamed later.
        schema: type of every column.
        page_size: size of a page in bytes. A record must fit into a page.
        header_size: size of the header in bytes. The list of all pages must fit into the header.

    Raises:
        ImportError: MindSpore is not installed.
        RuntimeError: MindRecord reports an error.
    """
    try:
        load_extension()
    except ImportError:
        return PublicWriter(path, schema, page_size=page_size, header_size=header_size)
    return ExtensionWriter(path, schema, page_size=page_size, header_size=header_size)


def load_backend() -> None:
    """Import what `create_writer` needs. Raise ImportError if MindSpore is not installed."""
    try:
        load_extension()
    except ImportError:
        _import_mindrecord()


def load_extension() -> ModuleType:
    """Load MindSpore's private extension module; a later `import mindspore` reuses the loaded module.

    Raises:
        ImportError: MindSpore is not installed, the module cannot be loaded, or it lacks a required attribute.
    """
    with _load_lock:
        module = sys.modules.get(_EXTENSION) or _load_extension_file()
    missing = [
        f"{name}.{attribute}"
        for name, attributes in _REQUIRED_ATTRIBUTES.items()
        for attribute in attributes
        if not hasattr(getattr(module, name, None), attribute)
    ]
    if missing:
        raise ImportError(f"{_EXTENSION}: missing {', '.join(missing)}")
    return module


def _load_extension_file() -> ModuleType:
    silence_mindspore()
    package = importlib.util.find_spec("mindspore")
    if package is None or package.origin is None:
        raise ImportError("MindSpore is not installed: run make setup")
    paths = list(Path(package.origin).parent.glob("_c_mindrecord.*.so"))
    if len(paths) != 1:
        raise ImportError(f"{Path(package.origin).parent}: found {len(paths)} files _c_mindrecord.*.so, expected 1")
    loader = ExtensionFileLoader(_EXTENSION, str(paths[0]))
    module = importlib.util.module_from_spec(ModuleSpec(_EXTENSION, loader, origin=str(paths[0])))
    loader.exec_module(module)
    return sys.modules.setdefault(_EXTENSION, module)


def _import_mindrecord() -> ModuleType:
    silence_mindspore()
    try:
        import mindspore.mindrecord
    except ModuleNotFoundError as error:
        raise ImportError(f"MindSpore is not installed ({error}): run make setup") from error
    module: ModuleType = mindspore.mindrecord
    return module


class ExtensionWriter:
    """A `MindRecordWriter` on MindSpore's private extension module; for the arguments see `create_writer`."""

    def __init__(self, path: Path, schema: Schema, *, page_size: int, header_size: int) -> None:
        self._extension = load_extension()
        self._path = path
        self._header = self._extension.ShardHeader()
        columns = {name: dict(column) for name, column in schema.items()}
        self._header.add_schema(self._extension.Schema.build(_SCHEMA_NAME, columns))
        (meta,) = self._header.get_meta()
        self._blob_names: list[str] = meta.get_schema_content()["blob_fields"]
        self._scalar_names = [name for name in schema if name not in self._blob_names]
        self._writer = self._extension.ShardWriter()
        self._check(self._writer.set_page_size(page_size), "set_page_size")
        self._check(self._writer.set_header_size(header_size), "set_header_size")
        self._check(self._writer.open([str(path)], False, False), "open")
        self._check(self._writer.set_shard_header(self._header), "set_shard_header")

    def write(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Append records; see `MindRecordWriter.write`."""
        scalars = [{name: record[name] for name in self._scalar_names} for record in records]
        blobs = [_join_blobs([record[name] for name in self._blob_names]) for record in records]
        self._check(self._writer.write_raw_data({0: scalars}, blobs, True, False), "write_raw_data")

    def commit(self) -> None:
        """Flush the file and write its index."""
        self._check(self._writer.commit(), "commit")
        generator = self._extension.ShardIndexGenerator(str(self._path.resolve()), False)
        self._check(generator.build(), "index build")
        self._check(generator.write_to_db(), "index write")

    def _check(self, status: Any, step: str) -> None:
        if status != self._extension.MSRStatus.SUCCESS:
            raise RuntimeError(f"MindRecord: {step} failed")


class PublicWriter:
    """A `MindRecordWriter` on `mindspore.mindrecord.FileWriter`; for the arguments see `create_writer`."""

    def __init__(self, path: Path, schema: Schema, *, page_size: int, header_size: int) -> None:
        module = _import_mindrecord()
        with _errors_as_runtime_errors():
            self._writer = module.FileWriter(str(path), shard_num=1)
            self._writer.set_page_size(page_size)
            self._writer.set_header_size(header_size)
            self._writer.add_schema({name: dict(column) for name, column in schema.items()}, _SCHEMA_NAME)

    def write(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Append records; see `MindRecordWriter.write`."""
        with _errors_as_runtime_errors():
            # the list is copied because FileWriter removes records that do not match the schema from it
            self._writer.write_raw_data([dict(record) for record in records])

    def commit(self) -> None:
        """Flush the file and write its index."""
        with _errors_as_runtime_errors():
            self._writer.commit()


@contextlib.contextmanager
def _errors_as_runtime_errors() -> Iterator[None]:
    """Raise the exceptions of FileWriter, which are derived from Exception, as RuntimeError."""
    try:
        yield
    except RuntimeError:
        raise
    except Exception as error:
        raise RuntimeError(f"MindRecord: {error}") from error


def _join_blobs(values: Sequence[bytes]) -> bytes:
    """Join the `bytes` columns of a record as MindRecord stores them: each after its length as 8 bytes, big-endian."""
    return b"".join(part for value in values for part in (len(value).to_bytes(8, "big"), value))
