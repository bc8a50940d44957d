"""Time stamps and frame size in the index of an MP4 file that OpenCV wrote.

OpenCV writes one constant frame rate and even sides only. Both are numbers in the file's index, so the exact values
are put there after the file is complete, and no frame is encoded again, repeated or left out. The boxes are those of
ISO/IEC 14496-12 (`moov`, `stts` …), the frame size within the stream is that of ISO/IEC 14496-2, 6.2.3 (`vol`).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

TIMESCALE = 30_000
"""Ticks per second of the time stamps; 1,000 for videos whose duration would not fit in 32 bits, over 39 hours."""

_CONTAINERS = frozenset({b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts"})

_VOL_START = b"\x00\x00\x01\x20"
"""Start code of a video object layer in the decoder's configuration."""


def rewrite_index(path: Path, times: Sequence[float] | None, end: float, size: tuple[int, int] | None) -> None:
    """Put exact time stamps and the frame size into a file written by `cv2.VideoWriter` with MPEG-4 Part 2.

    Args:
        path: the file; it has one video track whose frames are stored in the order of display.
        times: time in s of each frame from the start, ascending, starting at 0; None keeps the constant rate.
        end: time in s at which the last frame ends; used together with `times`.
        size: (height, width) in px, at most 1 px less than the sides of the stream; None keeps the stream's.

    Raises:
        ValueError: the file does not have the expected structure. It is then unchanged.
    """
    with path.open("r+b") as file:
        start = _find_last_box(file)
        file.seek(start)
        data = file.read()
        if times is not None:
            data = _set_times(data, times, end)
        if size is not None:
            data = _set_size(data, *size)
        file.seek(start)
        file.write(data)
        file.truncate()


def _find_last_box(file: BinaryIO) -> int:
    """Return the position of `moov`, which has to be the last box: a longer one then moves no frame."""
    kind, start, length = b"", 0, 0
    while len(header := file.read(16)) >= 8:
        kind, start = header[4:8], start + length
        length = int.from_bytes(header[8:16] if header[:4] == b"\0\0\0\1" else header[:4], "big")
        if length < 8:
            raise ValueError(f"box {kind!r}: wrong length {length}")
        file.seek(start + length)
    if kind != b"moov":
        raise ValueError(f"the last box is {kind!r}, expected moov")
    return start


def _boxes(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield the kind of each box, and the positions of its content and of its end."""
    while start + 8 <= end:
        length, kind = struct.unpack_from(">I4s", data, start)
        if length < 8 or start + length > end:
            raise ValueError(f"box {kind!r}: wrong length {length}")
        yield kind, start + 8, start + length
        start += length


def _edit(data: bytes, edits: dict[bytes, Callable[[bytes], bytes]]) -> bytes:
    """Return boxes with the content of the named kinds replaced, and the lengths of all boxes around them corrected."""
    parts = []
    for kind, content, end in _boxes(data, 0, len(data)):
        inner = data[content:end]
        inner = _edit(inner, edits) if kind in _CONTAINERS else edits.get(kind, bytes)(inner)
        parts.append(struct.pack(">I4s", len(inner) + 8, kind) + inner)
    return b"".join(parts)


def _find(data: bytes, wanted: bytes) -> bytes:
    """Return the content of the only box of a kind."""
    found: list[bytes] = []

    def keep(content: bytes) -> bytes:
        found.append(content)
        return content

    _edit(data, {wanted: keep})
    if len(found) != 1:
        raise ValueError(f"{len(found)} boxes {wanted!r}, expected 1")
    return found[0]


def _set_times(moov: bytes, times: Sequence[float], end: float) -> bytes:
    scale = TIMESCALE if end * TIMESCALE < 2**32 else 1_000
    ticks = np.rint(np.array([*times, end]) * scale).astype(np.int64)
    durations = np.maximum(np.diff(ticks), 1)
    samples = struct.unpack_from(">I", _find(moov, b"stsz"), 8)[0]
    if samples != len(times) or _find(moov, b"mvhd")[0] != 0 or _find(moov, b"mdhd")[0] != 0:
        raise ValueError(f"{samples} samples, expected {len(times)}, in boxes of version 0")
    movie_scale = struct.unpack_from(">I", _find(moov, b"mvhd"), 12)[0]
    total = int(durations.sum())
    movie_total = round(total / scale * movie_scale)
    runs = np.flatnonzero(np.diff(durations, prepend=-1))
    lengths = np.diff(runs, append=len(durations))
    table = np.stack([lengths, durations[runs]], axis=1).astype(">u4").tobytes()

    def patch(position: int, *numbers: int) -> Callable[[bytes], bytes]:
        new = struct.pack(f">{len(numbers)}I", *numbers)
        return lambda content: content[:position] + new + content[position + len(new) :]

    return _edit(
        moov,
        {
            b"mvhd": patch(16, movie_total),
            b"tkhd": patch(20, movie_total),
            b"elst": patch(8, movie_total),
            b"mdhd": patch(12, scale, total),
            b"stts": lambda _: struct.pack(">II", 0, len(runs)) + table,
        },
    )


def _set_size(moov: bytes, height: int, width: int) -> bytes:
    def set_track(content: bytes) -> bytes:
        return content[:-8] + struct.pack(">II", width << 16, height << 16)

    def set_description(content: bytes) -> bytes:
        # 8 bytes before the entry, whose width and height are at 32
        content = content[:40] + struct.pack(">HH", width, height) + content[44:]
        start = content.find(_VOL_START)
        if start < 0:
            raise ValueError("no video object layer")
        return content[: start + 4] + _set_layer_size(content[start + 4 :], height, width)

    return _edit(moov, {b"tkhd": set_track, b"stsd": set_description})


def _set_layer_size(layer: bytes, height: int, width: int) -> bytes:
    """Set width and height of a video object layer: 13 bits each, with a 1 before, between and after them.

    The frames are coded in blocks of 16 px, so they are the same for a side that is 1 px less.
    """
    bits = "".join(f"{byte:08b}" for byte in layer)
    old = f"1{width + width % 2:013b}1{height + height % 2:013b}1"
    if bits.count(old) != 1:
        raise ValueError("no frame size in the video object layer")
    bits = bits.replace(old, f"1{width:013b}1{height:013b}1")
    return int(bits, 2).to_bytes(len(layer), "big")
