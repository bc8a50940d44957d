"""The markers of a JPEG file: what a decoder must know before it decodes, and a copy without harmless flaws.

Source: ITU-T T.81 (markers, frame and scan headers); Adobe TN 5116 (APP14).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.errors import InputError
from pipeline.images.exif import UPRIGHT, read_orientation
from pipeline.sample import Size

SIGNATURE = b"\xff\xd8"
_EOI = b"\xff\xd9"
_SOS, _APP0, _APP1, _APP14, _COM = 0xDA, 0xE0, 0xE1, 0xEE, 0xFE
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_BASELINE, _EXTENDED, _PROGRESSIVE = 0xC0, 0xC1, 0xC2
_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD8)}
_END_OF_SCAN = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")
_LUMA_SAMPLING = {(1, 1), (2, 1), (2, 2), (1, 2), (4, 1)}
_MAX_GAPS = 1000
"""Maximum number of places with bytes between two segments: a limit for the time that a random file takes."""


@dataclass(frozen=True)
class JpegHeader:
    """The frame header of a JPEG.

    Attributes:
        size: (height, width) in px as stored.
        frame: marker of the frame, which names the process: 0xC0 baseline, 0xC1 extended, 0xC2 progressive, others are
            lossless, hierarchical or arithmetic.
        precision: bits per sample.
        sampling: horizontal and vertical sampling factor of each component.
        orientation: EXIF orientation, 1..8.
    """

    size: Size
    frame: int
    precision: int
    sampling: tuple[tuple[int, int], ...]
    orientation: int

    @property
    def process(self) -> str:
        """Name of the process if it is none that all decoders know, else an empty string."""
        names = {0xC3: "lossless ", 0xC9: "arithmetic-coded ", 0xCA: "arithmetic-coded "}
        if self.frame in (_BASELINE, _EXTENDED, _PROGRESSIVE):
            return "" if self.precision == 8 else f"{self.precision}-bit "
        return names.get(self.frame, "hierarchical or arithmetic-coded ")

    @property
    def is_usual(self) -> bool:
        """True for the kinds that libjpeg-turbo's TurboJPEG interface decodes at any scale.

        Its scaled decoder corrupts memory with lossless files, and it does not know unusual sampling factors.
        """
        if self.frame not in (_BASELINE, _EXTENDED, _PROGRESSIVE) or self.precision != 8:
            return False
        if len(self.sampling) == 1:
            return True
        return len(self.sampling) == 3 and self.sampling[0] in _LUMA_SAMPLING and set(self.sampling[1:]) == {(1, 1)}


@dataclass(frozen=True)
class _Segment:
    """A marker with its content: the file's bytes from `start`, the marker, to `end`."""

    marker: int
    start: int
    end: int


def read_jpeg_header(data: memoryview) -> JpegHeader:
    """Read the markers before the first scan. Raise InputError if there is no complete frame header."""
    header: tuple[Size, int, int, tuple[tuple[int, int], ...]] | None = None
    orientation = UPRIGHT
    for segment in _segments(data):
        if segment.marker in _FRAMES and header is None:
            header = _read_frame(data[segment.start : segment.end], segment.marker)
        elif segment.marker == _APP1 and orientation == UPRIGHT:
            content = bytes(data[segment.start + 4 : segment.end])
            orientation = read_orientation(content) if content.startswith(b"Exif\0\0") else UPRIGHT
        elif segment.marker == _SOS:
            break
    if header is None:
        raise InputError("damaged JPEG: its header is incomplete")
    return JpegHeader(*header, orientation)


def _segments(data: memoryview) -> Iterator[_Segment]:
    """Yield the segments of a file; the entropy-coded data after a scan header is skipped like other bytes between."""
    at, gaps = len(SIGNATURE), 0
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            gaps += 1
            at = _next_marker(data, at)
            if at < 0 or gaps > _MAX_GAPS:
                return
            continue
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
        elif marker == 0x00 or marker in _WITHOUT_LENGTH:
            at += 2
        elif marker == 0xD9:
            return
        else:
            end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
            yield _Segment(marker, at, min(end, len(data)))
            at = max(end, at + 4)
            if marker == _SOS:
                at = _next_marker(data, at)
                if at < 0:
                    return


def _next_marker(data: memoryview, at: int) -> int:
    """Return the position of the next marker that is not part of entropy-coded data; -1 if there is none."""
    match = _END_OF_SCAN.search(data, at)
    return match.end() - 2 if match else -1


def _read_frame(segment: memoryview, marker: int) -> tuple[Size, int, int, tuple[tuple[int, int], ...]] | None:
    components = segment[9] if len(segment) > 9 else 0
    if not components or len(segment) < 10 + 3 * components:
        return None
    height, width = int.from_bytes(segment[5:7], "big"), int.from_bytes(segment[7:9], "big")
    factors = (segment[11 + 3 * i] for i in range(components))
    return (height, width), marker, segment[4], tuple((factor >> 4, factor & 15) for factor in factors)


def is_complete(data: memoryview) -> bool:
    """Return whether the last scan of the file is followed by the end marker."""
    scans = [segment.end for segment in _segments(data) if segment.marker == _SOS]
    at = _next_marker(data, scans[-1]) if scans else -1
    return at >= 0 and data[at + 1] == 0xD9


def without_harmless_flaws(data: memoryview) -> bytes:
    """Return a copy of the file that has the same pixels, and none of the flaws about which decoders complain in vain.

    Removed are comments and application data, with their own damage (ICC profiles, thumbnails), bytes between segments,
    and bytes after the end. Parameters of scans that have no meaning in sequential files are corrected, as some phones
    write them wrongly, and a missing end marker is added.
    """
    parts = [SIGNATURE]
    sequential = True
    for segment in _segments(data):
        content = bytes(data[segment.start : segment.end])
        if segment.marker in _FRAMES:
            sequential = segment.marker in (_BASELINE, _EXTENDED)
        if segment.marker == _SOS:
            if sequential and len(content) > 7:
                content = content[:-3] + b"\x00\x3f\x00"
            at = _next_marker(data, segment.end)
            content += bytes(data[segment.end : at if at >= 0 else len(data)])
        if not (_APP0 <= segment.marker <= 0xEF or segment.marker == _COM) or segment.marker == _APP14:
            parts.append(content)
    return b"".join([*parts, _EOI])
