"""Write MindRecord files with MindSpore's own C++ writer, and without the rest of MindSpore.

`mindspore.mindrecord.FileWriter` is a thin layer over the extension module `_c_mindrecord`, but to import it is to
import all of MindSpore: 1.5 s of CPU and 380 MB in every worker, where the extension alone takes 0.02 s and 15 MB. So
the extension is loaded by its path. MindSpore is pinned to one release, and a test compares the bytes with those of
FileWriter.
"""

from __future__ import annotations

import importlib.util
import sys
import threading
from collections.abc import Mapping, Sequence
from importlib.machinery import ExtensionFileLoader, ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from pipeline.system.log_filters import silence_mindspore

_EXTENSION = "mindspore._c_mindrecord"
_lock = threading.Lock()


def load_extension() -> ModuleType:
    """MindSpore's extension module, which `import mindspore` finds and uses later on."""
    with _lock:
        loaded = sys.modules.get(_EXTENSION)
        if loaded:
            return loaded
        silence_mindspore()
        package = importlib.util.find_spec("mindspore")
        if package is None or package.origin is None:
            raise ImportError("MindSpore is not installed: run make setup")
        (path,) = Path(package.origin).parent.glob("_c_mindrecord.*.so")
        loader = ExtensionFileLoader(_EXTENSION, str(path))
        module = importlib.util.module_from_spec(ModuleSpec(_EXTENSION, loader, origin=str(path)))
        loader.exec_module(module)
        return sys.modules.setdefault(_EXTENSION, module)


class MindRecordWriter:
    """One MindRecord file and, after `commit`, its index beside it.

    Args:
        path: the file; its base name is stored in the index.
        schema: type of every column; a column of type `bytes` holds bytes.
        page_size: bytes of a page; a record has to fit.
        header_size: bytes of the header; the pages' list has to fit.

    Raises:
        RuntimeError: MindRecord refuses; so do all methods.
    """

    def __init__(
        self, path: Path, schema: Mapping[str, Mapping[str, str]], *, page_size: int, header_size: int
    ) -> None:
        self._c = load_extension()
        self._path = path
        self._header = self._c.ShardHeader()
        self._header.add_schema(self._c.Schema.build("OpenPose", {name: dict(kind) for name, kind in schema.items()}))
        (meta,) = self._header.get_meta()
        self._blobs: list[str] = meta.get_schema_content()["blob_fields"]
        self._scalars = [name for name in schema if name not in self._blobs]
        self._writer = self._c.ShardWriter()
        self._check(self._writer.set_page_size(page_size), "page size")
        self._check(self._writer.set_header_size(header_size), "header size")
        self._check(self._writer.open([str(path)], False, False), "open")
        self._check(self._writer.set_shard_header(self._header), "header")

    def write(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Append records: ints and str as Python has them, bytes; records that do not fit the schema are dropped."""
        scalars = [{name: record[name] for name in self._scalars} for record in records]
        blobs = [_merged([record[name] for name in self._blobs]) for record in records]
        self._check(self._writer.write_raw_data({0: scalars}, blobs, True, False), "write")

    def commit(self) -> None:
        """Flush the file and write its index."""
        self._check(self._writer.commit(), "commit")
        generator = self._c.ShardIndexGenerator(str(self._path.resolve()), False)
        self._check(generator.build(), "index")
        self._check(generator.write_to_db(), "index")

    def _check(self, status: Any, step: str) -> None:
        if status != self._c.MSRStatus.SUCCESS:
            raise RuntimeError(f"MindRecord: {step} failed")


def _merged(values: Sequence[bytes]) -> bytes:
    """The `bytes` columns of a record, each after its length in 8 bytes, as MindRecord stores more than one."""
    return b"".join(part for value in values for part in (len(value).to_bytes(8, "big"), value))
