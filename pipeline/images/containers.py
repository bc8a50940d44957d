"""Headers of the image formats other than JPEG: size, EXIF orientation, and whether pixels are missing.

Sources: PNG (W3C), WebP container (Google), BMP (Microsoft), TIFF 6.0 (Adobe).
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from pipeline.errors import InputError
from pipeline.images.exif import UPRIGHT, read_orientation
from pipeline.sample import Size

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MAX_TIFF_STRIPS = 1 << 20
_WIDTH, _HEIGHT, _ORIENTATION = 0x100, 0x101, 0x112
"""Tags of a TIFF."""


class _IncompleteHeaderError(Exception):
    """A header ends before all that it must state."""


@dataclass(frozen=True)
class Container:
    """What the header of a file states.

    Attributes:
        format: name of the format.
        size: (height, width) in px as stored.
        orientation: EXIF orientation, 1..8.
    """

    format: str
    size: Size
    orientation: int = UPRIGHT


def read_container(data: memoryview) -> Container | None:
    """Read the header of a file; None if it has no known format.

    Raises:
        InputError: the header is incomplete.
    """
    start = bytes(data[:16])
    for matches, read in _READERS:
        if matches(start):
            try:
                return read(data)
            except _IncompleteHeaderError:
                raise InputError("damaged image: its header is incomplete") from None
    return None


def check_complete(data: memoryview, container: Container) -> None:
    """Raise InputError if the file lacks pixels, as far as its structure shows; decoders may fill them silently."""
    checks: dict[str, Callable[[memoryview], None]] = {"PNG": _check_png, "BMP": _check_bmp, "TIFF": _check_tiff}
    if container.format in checks:
        try:
            checks[container.format](data)
        except _IncompleteHeaderError:
            raise InputError(f"damaged {container.format}: its header is incomplete") from None


def _number(data: memoryview, at: int, length: int, order: Literal["big", "little"] = "big") -> int:
    if at + length > len(data):
        raise _IncompleteHeaderError
    return int.from_bytes(data[at : at + length], order)


def _read_png(data: memoryview) -> Container:
    if bytes(data[12:16]) != b"IHDR":
        raise InputError("damaged PNG: no header")
    orientation, name = UPRIGHT, b""
    for name, start, end in _png_chunks(data):
        if name == b"eXIf" and orientation == UPRIGHT:
            orientation = read_orientation(bytes(data[start:end]))
        elif name == b"IEND":
            break
    if name != b"IEND":  # OpenCV would reserve memory for whatever length a chunk states
        raise InputError("damaged PNG: it ends too early")
    return Container("PNG", (_number(data, 20, 4), _number(data, 16, 4)), orientation)


def _png_chunks(data: memoryview) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, start and end of the content of each whole chunk."""
    at = len(PNG_SIGNATURE)
    while at + 12 <= len(data):
        end = at + 8 + _number(data, at, 4)
        if end + 4 > len(data):
            return
        yield bytes(data[at + 4 : at + 8]), at + 8, end
        at = end + 4


def _check_png(data: memoryview) -> None:
    """Verify that all pixels are there, and the checksums at which libpng would stop without an error."""
    stream, missing = zlib.decompressobj(), _png_bytes(data)
    for name, start, end in _png_chunks(data):
        if name in (b"IHDR", b"PLTE", b"IDAT") and zlib.crc32(data[start - 4 : end]) != _number(data, end, 4):
            raise InputError(f"damaged PNG: wrong checksum at byte {start - 8}")
        pending = bytes(data[start:end]) if name == b"IDAT" else b""
        while pending and not stream.eof and missing > 0:
            try:
                missing -= len(stream.decompress(pending, 1 << 20))
            except zlib.error:
                raise InputError("damaged PNG: its compressed data is invalid") from None
            pending = stream.unconsumed_tail
    if missing > 0:
        raise InputError("damaged PNG: it ends too early")


def _png_bytes(data: memoryview) -> int:
    """Return the minimum number of bytes of all rows: an interlaced picture has a few more."""
    (height, width), depth, colour = (_number(data, 20, 4), _number(data, 16, 4)), data[24], data[25]
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(colour, 1)
    return height * ((width * channels * depth + 7) // 8 + 1)


def _read_webp(data: memoryview) -> Container:
    if _number(data, 4, 4, "little") + 8 > len(data) + 1:  # some writers count the padding byte
        raise InputError("damaged WebP: it ends too early")
    size, orientation, at = None, UPRIGHT, 12
    while at + 8 <= len(data):
        name, length, content = bytes(data[at : at + 4]), _number(data, at + 4, 4, "little"), at + 8
        if name == b"VP8X":
            size = 1 + _number(data, content + 7, 3, "little"), 1 + _number(data, content + 4, 3, "little")
        elif name == b"VP8L" and size is None:
            bits = _number(data, content + 1, 4, "little")
            size = 1 + (bits >> 14 & 0x3FFF), 1 + (bits & 0x3FFF)
        elif name == b"VP8 " and size is None:
            size = _number(data, content + 8, 2, "little") & 0x3FFF, _number(data, content + 6, 2, "little") & 0x3FFF
        elif name == b"EXIF":
            orientation = read_orientation(bytes(data[content : content + length]))
        at = content + length + length % 2
    if size is None:
        raise _IncompleteHeaderError
    return Container("WebP", size, orientation)


def _read_bmp(data: memoryview) -> Container:
    if _number(data, 14, 4, "little") == 12:  # header of OS/2
        return Container("BMP", (_number(data, 20, 2, "little"), _number(data, 18, 2, "little")))
    height = int.from_bytes(data[22:26], "little", signed=True)  # negative: rows from top to bottom
    return Container("BMP", (abs(height), _number(data, 18, 4, "little")))


def _check_bmp(data: memoryview) -> None:
    if _number(data, 14, 4, "little") == 12 or _number(data, 30, 4, "little") not in (0, 3):
        return  # compressed: the size is not known
    height, width = _read_bmp(data).size
    row_bytes = (width * _number(data, 28, 2, "little") + 31) // 32 * 4
    if _number(data, 10, 4, "little") + height * row_bytes > len(data):
        raise InputError("damaged BMP: it ends too early")


def _tiff_entries(data: memoryview) -> tuple[dict[int, list[int]], dict[int, int]]:
    """Return the integer values of the first directory by tag, and the position of the first value by tag."""
    order = _byte_order(data)
    at = _number(data, 4, 4, order)
    values, positions = {}, {}
    for start in range(at + 2, at + 2 + 12 * _number(data, at, 2, order), 12):
        length = {3: 2, 4: 4}.get(_number(data, start + 2, 2, order))
        count = _number(data, start + 4, 4, order)
        if length is None or not 0 < count <= _MAX_TIFF_STRIPS:
            continue
        tag = _number(data, start, 2, order)
        positions[tag] = start + 8 if length * count <= 4 else _number(data, start + 8, 4, order)
        numbers = (_number(data, positions[tag] + length * i, length, order) for i in range(count))
        values[tag] = list(numbers)
    return values, positions


def _byte_order(data: memoryview) -> Literal["little", "big"]:
    return "little" if bytes(data[:2]) == b"II" else "big"


def _read_tiff(data: memoryview) -> Container:
    entries, _ = _tiff_entries(data)
    if _WIDTH not in entries or _HEIGHT not in entries:
        raise _IncompleteHeaderError
    orientation = entries.get(_ORIENTATION, [UPRIGHT])[0]
    size = entries[_HEIGHT][0], entries[_WIDTH][0]
    return Container("TIFF", size, orientation if UPRIGHT <= orientation <= 8 else UPRIGHT)


def as_upright_tiff(data: memoryview) -> bytes:
    """Return a copy of a TIFF whose orientation is upright: OpenCV would turn the picture in any case."""
    _, positions = _tiff_entries(data)
    at = positions[_ORIENTATION]
    return bytes(data[:at]) + UPRIGHT.to_bytes(2, _byte_order(data)) + bytes(data[at + 2 :])


def _check_tiff(data: memoryview) -> None:
    entries, _ = _tiff_entries(data)
    for offsets, counts in ((0x111, 0x117), (0x144, 0x145)):  # strips, tiles
        pairs = itertools.zip_longest(entries.get(offsets, []), entries.get(counts, []), fillvalue=0)
        if any(offset + count > len(data) for offset, count in pairs):
            raise InputError("damaged TIFF: it ends too early")


_READERS: tuple[tuple[Callable[[bytes], bool], Callable[[memoryview], Container]], ...] = (
    (lambda start: start.startswith(PNG_SIGNATURE), _read_png),
    (lambda start: start[:4] == b"RIFF" and start[8:12] == b"WEBP", _read_webp),
    (lambda start: start.startswith(b"BM"), _read_bmp),
    (lambda start: start[:4] in (b"II*\0", b"MM\0*"), _read_tiff),
)
"""For each format, whether the first 16 bytes of a file are of this format, and the reader of its header."""
