"""What one record of a shard holds, and how an annotated picture becomes one and comes back.

The JPEG is stored as it was found. Keypoints are raw float32, because a MindRecord array of zero people would come
back as a scalar. The ignore region is stored as row-major run lengths: on 640x480 regions of one to four people they
decode in 0.03 ms, against 0.23 to 0.45 ms for pycocotools' column-major strings and 0.46 ms for a two-level PNG, and
NumPy checks their bounds. They take 3.5 KB where the others take 1.2 and 2.9 KB, beside a picture of 160 KB.

MindRecord turns an empty `bytes` value into one NUL; a person's keypoints are a multiple of four bytes, so one byte is
read as nobody. An ignore region begins with its frame, so that training reads four columns: each further one costs
0.02 ms a sample.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.sample import Annotation, Rle
from pipeline.skeleton import NUM_KEYPOINTS

VERSION = 2
"""Format of a record. A reader refuses any other; raise it whenever a record's meaning or bytes change."""

SCHEMA: dict[str, dict[str, str]] = {
    "image_id": {"type": "int64"},
    "source": {"type": "int32"},
    "file_name": {"type": "string"},
    "height": {"type": "int32"},
    "width": {"type": "int32"},
    "image": {"type": "bytes"},
    "keypoints": {"type": "bytes"},
    "ignore": {"type": "bytes"},
    "truth": {"type": "bytes"},
}
"""MindRecord columns. `source` is an index into the manifest's sources."""

TRAIN_COLUMNS: tuple[str, ...] = ("image_id", "image", "keypoints", "ignore")
"""The columns that training reads."""

EVAL_COLUMNS: tuple[str, ...] = (*TRAIN_COLUMNS, "file_name", "truth")
"""The columns that make an `Annotation` again."""

_RUN = np.dtype("<u4")
_FRAME_BYTES = 2 * _RUN.itemsize
_COORDINATE = np.dtype("<f4")
_PERSON_BYTES = NUM_KEYPOINTS * 3 * _COORDINATE.itemsize

BytesColumn = bytes | NDArray[Any]
"""A `bytes` column: bytes, an `S` array of shape (1,) as MindDataset gives it, or a uint8 array."""


def raw_bytes(raw: BytesColumn) -> NDArray[np.uint8]:
    """View a `bytes` column as (N,) uint8 without a copy, trailing NULs kept."""
    return np.frombuffer(raw, dtype=np.uint8)


def encode_runs(mask: NDArray[np.uint8]) -> bytes:
    """Row-major run lengths of a (H, W) uint8 mask: zeros first, then ones, in turn, as little-endian uint32.

    A mask without any set pixel gives no bytes at all.
    """
    flat = mask.ravel()
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    if not len(edges) and not (flat.size and flat[0]):
        return b""
    first = [0, 0] if flat[0] else [0]
    return np.diff(np.concatenate((first, edges, [flat.size]))).astype(_RUN).tobytes()


def decode_runs(runs: NDArray[np.uint32], height: int, width: int) -> NDArray[np.uint8]:
    """Inverse of `encode_runs`: (H, W) uint8 of 0 and 1. Raises InputError where the runs do not fill the frame."""
    if not runs.size:
        return np.zeros((height, width), dtype=np.uint8)
    if int(runs.sum(dtype=np.uint64)) != height * width:
        raise InputError(f"ignore region: {runs.size} runs do not fill a frame of {width}x{height} px")
    values = np.zeros(len(runs), dtype=np.uint8)
    values[1::2] = 1
    return np.repeat(values, runs).reshape(height, width)


def rle_to_mask(rle: Rle) -> NDArray[np.uint8]:
    """Decode pycocotools' compressed run lengths into a (H, W) uint8 mask."""
    from pycocotools import mask as coco_mask

    return np.ascontiguousarray(coco_mask.decode(rle))


def mask_to_rle(mask: NDArray[np.uint8]) -> Rle:
    """Encode a (H, W) uint8 mask as pycocotools' compressed run lengths."""
    from pycocotools import mask as coco_mask

    rle = coco_mask.encode(np.asfortranarray(mask))
    return {"size": [int(side) for side in rle["size"]], "counts": bytes(rle["counts"])}


def pack(annotation: Annotation, jpeg: bytes, *, source: int = 0, runs: bytes | None = None) -> dict[str, Any]:
    """Make one record, a value for every column of `SCHEMA`.

    Args:
        annotation: what is known of the picture.
        jpeg: the picture file's bytes, stored as they are.
        source: index of the picture's source in the manifest.
        runs: the ignore region as `encode_runs` gives it, where the caller has it; else `annotation.ignore` is used.
    """
    if runs is None:
        runs = encode_runs(rle_to_mask(annotation.ignore))
    return {
        "image_id": annotation.image_id,
        "source": source,
        "file_name": annotation.file_name,
        "height": annotation.height,
        "width": annotation.width,
        "image": jpeg,
        "keypoints": annotation.keypoints.astype(_COORDINATE, copy=False).tobytes(),
        "ignore": np.array((annotation.height, annotation.width), dtype=_RUN).tobytes() + runs,
        "truth": json.dumps(annotation.truth, separators=(",", ":")).encode(),
    }


def unpack(row: Mapping[str, Any]) -> tuple[Annotation, NDArray[np.uint8]]:
    """Take a record apart again.

    Args:
        row: the values of `EVAL_COLUMNS`, as `pack` or MindDataset (`output_numpy=True`) gives them.

    Returns:
        The annotation, equal to the packed one, and the picture file's bytes as (N,) uint8.
    """
    (height, width), runs = unpack_ignore(row["ignore"])
    annotation = Annotation(
        image_id=int(row["image_id"]),
        file_name=str(row["file_name"]),
        height=height,
        width=width,
        keypoints=unpack_keypoints(row["keypoints"]),
        ignore=mask_to_rle(decode_runs(runs, height, width)),
        truth=unpack_truth(row["truth"]),
    )
    return annotation, raw_bytes(row["image"])


def unpack_keypoints(raw: BytesColumn) -> NDArray[np.float32]:
    """(P, K, 3) float32 x, y in px and visibility, from the `keypoints` column; read-only.

    Raises InputError where the bytes are not those of whole people.
    """
    data = raw_bytes(raw)
    if data.size <= 1:
        return np.zeros((0, NUM_KEYPOINTS, 3), dtype=np.float32)
    if data.size % _PERSON_BYTES:
        raise InputError(f"keypoints: {data.size} bytes, expected a multiple of {_PERSON_BYTES}")
    return data.view(_COORDINATE).reshape(-1, NUM_KEYPOINTS, 3)


def unpack_ignore(raw: BytesColumn) -> tuple[tuple[int, int], NDArray[np.uint32]]:
    """The picture's (height, width) px and its ignore region's runs, none where nothing is ignored.

    Raises InputError where the bytes are not whole numbers of four, or the frame is missing.
    """
    data = raw_bytes(raw)
    if data.size < _FRAME_BYTES or data.size % _RUN.itemsize:
        raise InputError(f"ignore region: {data.size} bytes, expected {_FRAME_BYTES} and a multiple of {_RUN.itemsize}")
    height, width, *_ = data[:_FRAME_BYTES].view(_RUN).tolist()
    return (height, width), data[_FRAME_BYTES:].view(_RUN)


def unpack_truth(raw: BytesColumn) -> tuple[dict[str, Any], ...]:
    """The person annotations as COCO wrote them, without segmentation, from the `truth` column."""
    return tuple(json.loads(raw_bytes(raw).tobytes()))
