"""Reader of TensorBoard event files that checks the checksums."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mindspore  # noqa: F401  # before protobuf, because it selects the Python implementation
from tensorboardX.crc32c import crc32c
from tensorboardX.proto.event_pb2 import Event, SessionLog


def read_events(path: Path) -> Iterator[Any]:
    """Yield the events of one file in TFRecord format: length, checksum, content, checksum."""
    data = path.read_bytes()
    at = 0
    while at < len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        assert struct.unpack_from("<I", data, at + 8)[0] == masked_crc(data[at : at + 8])
        content = data[at + 12 : at + 12 + length]
        assert struct.unpack_from("<I", data, at + 12 + length)[0] == masked_crc(content)
        yield Event.FromString(content)
        at += 16 + length


def masked_crc(data: bytes) -> int:
    """Return the masked CRC-32C of the TFRecord format."""
    crc = int(crc32c(data))
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def read_curves(run: Path) -> dict[str, list[tuple[int, Any]]]:
    """Return (step, value) pairs by tag; a session start at a step removes earlier values of this and later steps."""
    found: dict[str, list[tuple[int, Any]]] = {}
    for path in sorted((run / "tensorboard").iterdir()):
        header, *events = read_events(path)
        assert header.file_version == "brain.Event:2"
        for event in events:
            if event.session_log.status == SessionLog.START:
                found = {tag: [one for one in curve if one[0] < event.step] for tag, curve in found.items()}
            for value in event.summary.value:
                content = value.image if value.WhichOneof("value") == "image" else value.simple_value
                found.setdefault(value.tag, []).append((event.step, content))
    return found
