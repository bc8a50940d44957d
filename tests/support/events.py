"""Reads TensorBoard's event files as TensorBoard does, checksums included, without it."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mindspore  # noqa: F401  # before protobuf, of which it wants the implementation in Python
from tensorboardX.crc32c import crc32c
from tensorboardX.proto.event_pb2 import Event, SessionLog


def records(path: Path) -> Iterator[Any]:
    """The events of one file: length, its checksum, content, its checksum, as in TensorFlow's records."""
    data = path.read_bytes()
    at = 0
    while at < len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        assert struct.unpack_from("<I", data, at + 8)[0] == masked(data[at : at + 8])
        content = data[at + 12 : at + 12 + length]
        assert struct.unpack_from("<I", data, at + 12 + length)[0] == masked(content)
        yield Event.FromString(content)
        at += 16 + length


def masked(data: bytes) -> int:
    """CRC-32C, rotated and shifted as TensorFlow's records have it."""
    crc = int(crc32c(data))
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def curves(run: Path) -> dict[str, list[tuple[int, Any]]]:
    """By tag, (step, value) in the order written; a new start takes back what was written for its step and later."""
    found: dict[str, list[tuple[int, Any]]] = {}
    for path in sorted((run / "tensorboard").iterdir()):
        first, *events = records(path)
        assert first.file_version == "brain.Event:2"
        for event in events:
            if event.session_log.status == SessionLog.START:
                found = {tag: [one for one in curve if one[0] < event.step] for tag, curve in found.items()}
            for value in event.summary.value:
                content = value.image if value.WhichOneof("value") == "image" else value.simple_value
                found.setdefault(value.tag, []).append((event.step, content))
    return found
