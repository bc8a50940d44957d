"""Writing MindRecord files with the private extension module of MindSpore and with the public FileWriter."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from pipeline.build.build_set import build
from pipeline.build.plan import BuildOptions
from pipeline.storage import mindrecord_writer
from pipeline.storage.mindrecord_writer import ExtensionWriter, PublicWriter, create_writer, load_backend
from pipeline.storage.records import SCHEMA
from tests.support.coco_folder import ROOT, mixed, write

LAYOUT = {"page_size": 1 << 20, "header_size": 1 << 16}
WRITERS = [ExtensionWriter, PublicWriter]


def _record(number: int) -> dict[str, Any]:
    scalars = {"image_id": 2**40 + number, "source": 1, "height": 48, "width": 64}
    blobs = {"image": bytes([number]) * 5000 * number, "keypoints": b"", "ignore": b"\0\1\0\0", "truth": b"[]"}
    return {**scalars, "file_name": f"{number}.jpg", **blobs}


def _records(first: int, last: int) -> list[dict[str, Any]]:
    return [_record(number) for number in range(first, last)]


def _write_file(writer_class: Any, path: Path) -> Path:
    path.parent.mkdir()
    writer = writer_class(path, SCHEMA, **LAYOUT)
    for start, end in ((0, 8), (8, 16), (16, 21)):
        writer.write(_records(start, end))
    writer.commit()
    return path


def _assert_same_bytes(a: Path, b: Path) -> None:
    for name in ("a.mindrecord", "a.mindrecord.db"):
        assert (a / name).read_bytes() == (b / name).read_bytes()


def _without_extension(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> ModuleType:
        raise ImportError("no such module")

    monkeypatch.setattr(mindrecord_writer, "load_extension", fail)


def test_extension_writes_the_same_bytes_as_file_writer(tmp_path: Path) -> None:
    from mindspore.mindrecord import FileWriter

    (tmp_path / "public").mkdir()
    public = FileWriter(str(tmp_path / "public" / "a.mindrecord"), shard_num=1)
    public.set_page_size(LAYOUT["page_size"])
    public.set_header_size(LAYOUT["header_size"])
    public.add_schema(SCHEMA, "OpenPose")
    for start, end in ((0, 8), (8, 16), (16, 21)):
        public.write_raw_data(_records(start, end))
    public.commit()
    _write_file(ExtensionWriter, tmp_path / "extension" / "a.mindrecord")
    _assert_same_bytes(tmp_path / "extension", tmp_path / "public")


def test_fallback_writes_the_same_bytes_as_the_extension(tmp_path: Path) -> None:
    for writer_class in WRITERS:
        _write_file(writer_class, tmp_path / writer_class.__name__ / "a.mindrecord")
    _assert_same_bytes(tmp_path / "ExtensionWriter", tmp_path / "PublicWriter")


@pytest.mark.parametrize("writer_class", WRITERS)
def test_records_read_back_equal(writer_class: Any, tmp_path: Path) -> None:
    from mindspore.dataset import MindDataset

    path = _write_file(writer_class, tmp_path / "set" / "a.mindrecord")
    rows = list(MindDataset(str(path), shuffle=False).create_dict_iterator(num_epochs=1, output_numpy=True))
    assert len(rows) == 21
    for row, record in zip(rows, _records(0, 21), strict=True):
        assert set(row) == set(record)
        for name, value in record.items():
            if isinstance(value, bytes):
                assert row[name].tobytes() == (value or b"\0"), name  # MindRecord stores no bytes as one NUL
            else:
                assert row[name] == value, name


@pytest.mark.parametrize("writer_class", WRITERS)
def test_records_are_not_modified(writer_class: Any, tmp_path: Path) -> None:
    writer = writer_class(tmp_path / "a.mindrecord", SCHEMA, **LAYOUT)
    records = _records(0, 3)
    writer.write(records)
    writer.commit()
    assert records == _records(0, 3)


def test_the_extension_is_used_if_it_fits(tmp_path: Path) -> None:
    assert isinstance(create_writer(tmp_path / "a.mindrecord", SCHEMA, **LAYOUT), ExtensionWriter)


def test_fallback_if_the_extension_cannot_be_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _without_extension(monkeypatch)
    load_backend()
    assert isinstance(create_writer(tmp_path / "a.mindrecord", SCHEMA, **LAYOUT), PublicWriter)


def test_fallback_if_the_extension_has_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mindspore.mindrecord  # noqa: F401 (FileWriter must be loaded before the extension is hidden)

    monkeypatch.delitem(sys.modules, "mindspore._c_mindrecord")
    monkeypatch.setattr(Path, "glob", lambda *_: iter(()))
    with pytest.raises(ImportError, match=r"found 0 files _c_mindrecord\.\*\.so, expected 1"):
        mindrecord_writer.load_extension()
    assert isinstance(create_writer(tmp_path / "a.mindrecord", SCHEMA, **LAYOUT), PublicWriter)


@pytest.mark.parametrize("missing", [*mindrecord_writer._REQUIRED_ATTRIBUTES, "ShardWriter.commit"])
def test_fallback_if_the_extension_lacks_an_attribute(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mindspore.mindrecord  # noqa: F401 (FileWriter must be loaded before the extension is replaced)

    other = ModuleType("mindspore._c_mindrecord")
    for name, attributes in mindrecord_writer._REQUIRED_ATTRIBUTES.items():
        kept = {attribute: None for attribute in attributes if f"{name}.{attribute}" != missing}
        if name != missing:
            setattr(other, name, type(name, (), kept))
    monkeypatch.setitem(sys.modules, "mindspore._c_mindrecord", other)
    with pytest.raises(ImportError, match=f"_c_mindrecord: missing {missing}"):
        mindrecord_writer.load_extension()
    assert isinstance(create_writer(tmp_path / "a.mindrecord", SCHEMA, **LAYOUT), PublicWriter)


def test_a_set_built_with_the_fallback_has_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    coco = write(tmp_path / "coco", mixed(24))
    options = BuildOptions(records_per_shard=4)
    build([(coco, "train")], tmp_path / "extension", options, workers=1)
    _without_extension(monkeypatch)
    build([(coco, "train")], tmp_path / "public", options, workers=1)
    names = {path.name for path in (tmp_path / "extension").iterdir()}
    assert {path.name for path in (tmp_path / "public").iterdir()} == names
    for name in names:
        assert (tmp_path / "public" / name).read_bytes() == (tmp_path / "extension" / name).read_bytes(), name


def test_a_worker_loads_no_other_module_of_mindspore_and_can_do_so_later(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from pipeline.storage.mindrecord_writer import create_writer
from pipeline.storage.records import SCHEMA
path = Path(sys.argv[1]) / "a.mindrecord"
writer = create_writer(path, SCHEMA, page_size=1 << 20, header_size=1 << 16)
blobs = {"image": b"x", "keypoints": b"", "ignore": b"", "truth": b"[]"}
scalars = {"source": 1, "height": 48, "width": 64, "file_name": "x.jpg"}
writer.write([{"image_id": number, **scalars, **blobs} for number in range(5)])
writer.commit()
assert [name for name in sys.modules if name.startswith("mindspore")] == ["mindspore._c_mindrecord"]
from mindspore.dataset import MindDataset
rows = MindDataset(str(path), shuffle=False).create_dict_iterator(num_epochs=1, output_numpy=True)
print([int(row["image_id"]) for row in rows])
"""
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "[0, 1, 2, 3, 4]\n", "")


@pytest.mark.parametrize("writer_class", WRITERS)
def test_errors_of_mindrecord_are_runtime_errors(writer_class: Any, tmp_path: Path) -> None:
    _write_file(writer_class, tmp_path / "set" / "a.mindrecord")
    with pytest.raises(RuntimeError, match=r"already|exist"):
        writer_class(tmp_path / "set" / "a.mindrecord", SCHEMA, **LAYOUT).write(_records(0, 1))
    with pytest.raises(RuntimeError):
        writer_class(tmp_path / "b.mindrecord", SCHEMA, page_size=17, header_size=1 << 16)
