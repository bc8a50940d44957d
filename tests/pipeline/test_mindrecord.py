"""The lean way to MindSpore's writer: the same bytes as FileWriter's, and nothing else of MindSpore loaded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.storage.mindrecord_writer import MindRecordWriter
from pipeline.storage.records import SCHEMA
from tests.support.coco_folder import ROOT

LAYOUT = {"page_size": 1 << 20, "header_size": 1 << 16}


def _record(number: int) -> dict[str, Any]:
    scalars = {"image_id": 2**40 + number, "source": 1, "height": 48, "width": 64}
    blobs = {"image": bytes([number]) * 5000 * number, "keypoints": b"", "ignore": b"\0\1\0\0", "truth": b"[]"}
    return {**scalars, "file_name": f"{number}.jpg", **blobs}


def _lines(first: int, last: int) -> list[dict[str, Any]]:
    return [_record(number) for number in range(first, last)]


def test_bytes_are_those_of_mindspores_own_writer(tmp_path: Path) -> None:
    from mindspore.mindrecord import FileWriter

    for name in ("theirs", "ours"):
        (tmp_path / name).mkdir()
    theirs = FileWriter(str(tmp_path / "theirs" / "a.mindrecord"), shard_num=1)
    theirs.set_page_size(LAYOUT["page_size"])
    theirs.set_header_size(LAYOUT["header_size"])
    theirs.add_schema(SCHEMA, "OpenPose")
    ours = MindRecordWriter(tmp_path / "ours" / "a.mindrecord", SCHEMA, **LAYOUT)
    for cut in ((0, 8), (8, 16), (16, 21)):
        theirs.write_raw_data(_lines(*cut))
        ours.write(_lines(*cut))
    theirs.commit()
    ours.commit()
    for name in ("a.mindrecord", "a.mindrecord.db"):
        assert (tmp_path / "ours" / name).read_bytes() == (tmp_path / "theirs" / name).read_bytes()


def test_a_worker_loads_nothing_else_of_mindspore_and_can_do_so_later(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from pipeline.storage.mindrecord_writer import MindRecordWriter
from pipeline.storage.records import SCHEMA
from tests.pipeline.test_mindrecord import LAYOUT, _lines
path = Path(sys.argv[1]) / "a.mindrecord"
writer = MindRecordWriter(path, SCHEMA, **LAYOUT)
writer.write(_lines(0, 5))
writer.commit()
assert [name for name in sys.modules if name.startswith("mindspore")] == ["mindspore._c_mindrecord"]
from mindspore.dataset import MindDataset
rows = MindDataset(str(path), shuffle=False).create_dict_iterator(num_epochs=1, output_numpy=True)
print([int(row["image_id"]) - 2**40 for row in rows])
"""
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "[0, 1, 2, 3, 4]\n", "")


def test_what_mindrecord_refuses_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.mindrecord"
    writer = MindRecordWriter(path, SCHEMA, **LAYOUT)
    writer.write(_lines(1, 2))
    writer.commit()
    with pytest.raises(RuntimeError, match=r"already|exist"):
        MindRecordWriter(path, SCHEMA, **LAYOUT)
    with pytest.raises(RuntimeError):
        MindRecordWriter(tmp_path / "b.mindrecord", SCHEMA, page_size=17, header_size=1 << 16)
