"""Packing and unpacking records, directly and through a MindRecord file."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.annotations.coco import read_coco
from pipeline.errors import InputError
from pipeline.sample import Annotation
from pipeline.storage import records


def _annotation(people: int, mask: np.ndarray, name: str = "a/ü.jpg") -> Annotation:
    rng = np.random.default_rng(people)
    height, width = mask.shape
    keypoints = rng.normal(50, 30, (people, 18, 3)).astype(np.float32)
    truth = tuple({"id": i, "area": 0.1 * i, "bbox": [1, 2.5, 3, 4], "keypoints": [0] * 51} for i in range(people))
    return Annotation(2**40 + people, name, height, width, keypoints, records.mask_to_rle(mask), truth)


def _assert_equal(actual: Annotation, expected: Annotation) -> None:
    for item in dataclasses.fields(Annotation):
        a, b = getattr(actual, item.name), getattr(expected, item.name)
        if isinstance(a, np.ndarray):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)
        else:
            assert a == b, item.name


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 4), st.integers(1, 30), st.integers(1, 30), st.sampled_from([0.0, 0.3, 1.0]), st.binary(min_size=1)
)
def test_pack_and_unpack_are_inverse(people: int, height: int, width: int, fill: float, jpeg: bytes) -> None:
    mask = (np.random.default_rng(height).random((height, width)) < fill).astype(np.uint8)
    packed = records.pack(_annotation(people, mask), jpeg)
    assert set(packed) == set(records.SCHEMA)
    annotation, data = records.unpack(packed)
    _assert_equal(annotation, _annotation(people, mask))
    assert data.tobytes() == jpeg
    size, runs = records.unpack_ignore(packed["ignore"])
    assert size == (height, width)
    np.testing.assert_array_equal(records.decode_runs(runs, *size), mask)


def test_runs_replace_the_ignore_region_of_the_annotation() -> None:
    mask = np.eye(9, 12, dtype=np.uint8)
    with_runs = records.pack(_annotation(1, np.zeros_like(mask)), b"x", runs=records.encode_runs(mask))
    assert with_runs == records.pack(_annotation(1, mask), b"x")


def test_records_read_back_from_a_mindrecord_file(tmp_path: Path) -> None:
    from mindspore.dataset import MindDataset
    from mindspore.mindrecord import FileWriter

    masks = [np.zeros((40, 50), np.uint8), np.ones((40, 50), np.uint8), np.eye(40, 50, dtype=np.uint8)]
    annotations = [_annotation(people, mask) for people in (0, 1, 7) for mask in masks]
    pictures = [b"\0", b"jpeg\0\0\0", b"\0\0picture"] * 3
    path = str(tmp_path / "some.mindrecord")
    writer = FileWriter(path)
    writer.set_page_size(1 << 20)
    writer.add_schema(records.SCHEMA)
    for annotation, picture in zip(annotations, pictures, strict=True):
        writer.write_raw_data([records.pack(annotation, picture, source=3)])
    writer.commit()
    rows = list(MindDataset([path], shuffle=False).create_dict_iterator(num_epochs=1, output_numpy=True))
    assert len(rows) == len(annotations)
    for row, annotation, picture in zip(rows, annotations, pictures, strict=True):
        read, data = records.unpack(row)
        _assert_equal(read, annotation)
        assert data.tobytes() == picture
        assert int(row["source"]) == 3
    columns = list(records.TRAIN_COLUMNS)
    (row, *_) = MindDataset([path], columns, shuffle=False).create_dict_iterator(num_epochs=1, output_numpy=True)
    assert set(row) == set(columns)
    assert records.unpack_keypoints(row["keypoints"]).shape == (0, 18, 3)


def test_real_annotations(coco_mini: Path) -> None:
    for annotation in read_coco(coco_mini, "train2017"):
        again, _ = records.unpack(records.pack(annotation, b"x"))
        _assert_equal(again, annotation)


def test_damaged_values_are_an_error() -> None:
    for runs in ([1, 2, 3], [2**32 - 1, 21]):
        with pytest.raises(InputError, match="do not add up to 5x4 px"):
            records.decode_runs(np.array(runs, "<u4"), 4, 5)
    for raw in (b"", b"1234567", b"123456789"):
        with pytest.raises(InputError, match=f"{len(raw)} bytes, expected 8 and a multiple of 4"):
            records.unpack_ignore(raw)
    with pytest.raises(InputError, match="217 bytes, expected a multiple of 216"):
        records.unpack_keypoints(bytes(217))
