"""Image files of all kinds that tools and devices write, made from one picture, for tests and fuzzing."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

SMOOTH: NDArray[np.uint8] = np.asarray(
    cv2.resize(np.random.default_rng(3).integers(0, 255, (6, 8, 3), dtype=np.uint8), (80, 60)), np.uint8
)
"""(60, 80, 3) BGR image without fine detail, so that JPEG compression changes it little."""


def encode(kind: str, image: NDArray[np.uint8] = SMOOTH, mode: str = "RGB", **options: Any) -> bytes:
    """Encode an image with Pillow: kind "JPEG", "PNG" …, mode "L", "P", "RGBA", "CMYK" …; options as in Pillow."""
    from PIL import Image

    picture = Image.fromarray(np.ascontiguousarray(image[..., ::-1]))
    if mode == "I;16":
        grey = np.asarray(picture.convert("L")).astype(np.uint16)
        picture = Image.fromarray(grey * 257)
    elif mode != "RGB":
        picture = picture.convert(mode)
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def exif(orientation: int, order: str = "<") -> bytes:
    """An EXIF block with this orientation, little-endian ("<") or big-endian (">")."""
    signature = b"II*\0" if order == "<" else b"MM\0*"
    return signature + struct.pack(f"{order}IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)


def with_segment(jpeg: bytes, marker: int, content: bytes) -> bytes:
    """Insert a segment after the first marker of a JPEG."""
    return jpeg[:2] + bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content + jpeg[2:]


def with_orientation(jpeg: bytes, orientation: int, order: str = "<") -> bytes:
    """Add an EXIF orientation to a JPEG."""
    return with_segment(jpeg, 0xE1, b"Exif\0\0" + exif(orientation, order))


def with_sampling(jpeg: bytes, factors: tuple[int, ...]) -> bytes:
    """Change the sampling factors (0x22 for 2x2) in the frame header of a JPEG, without changing its data."""
    data = bytearray(jpeg)
    at = next(at for at in range(2, len(data)) if data[at] == 0xFF and data[at + 1] in (0xC0, 0xC1, 0xC2))
    for i, factor in enumerate(factors):
        data[at + 11 + 3 * i] = factor
    return bytes(data)


def with_frame(jpeg: bytes, marker: int, precision: int = 8) -> bytes:
    """Change the marker of the frame header: 0xC3 lossless, 0xC5 hierarchical, 0xC9 arithmetic …"""
    data = bytearray(jpeg)
    at = next(at for at in range(2, len(data)) if data[at] == 0xFF and data[at + 1] in (0xC0, 0xC1, 0xC2))
    data[at + 1], data[at + 4] = marker, precision
    return bytes(data)


def _with_wrong_scan(jpeg: bytes) -> bytes:
    """Write scan parameters as some phones do: without meaning in a sequential JPEG, and wrong."""
    at = jpeg.index(b"\xff\xda")
    end = at + 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
    return jpeg[: end - 3] + b"\x00\x00\x01" + jpeg[end:]


def _misplaced_profile(jpeg: bytes) -> bytes:
    """Add a damaged colour profile."""
    return with_segment(jpeg, 0xE2, b"ICC_PROFILE\0\x05\x02" + bytes(40))


def _two_pictures(jpeg: bytes) -> bytes:
    """Append a second picture, as in MPO files and for the gain map of HDR photographs."""
    return jpeg + encode("JPEG", SMOOTH[:20, :30])


def _jpeg() -> bytes:
    return encode("JPEG", quality=95)


READABLE: dict[str, Callable[[], bytes]] = {
    "JPEG": _jpeg,
    "JPEG 4:4:4": lambda: encode("JPEG", quality=95, subsampling=0),
    "JPEG 4:2:2": lambda: encode("JPEG", quality=95, subsampling=1),
    "JPEG progressive": lambda: encode("JPEG", quality=95, progressive=True),
    "JPEG grey": lambda: encode("JPEG", mode="L", quality=95),
    "JPEG CMYK": lambda: encode("JPEG", mode="CMYK", quality=95),
    "JPEG restart": lambda: encode("JPEG", quality=95, restart_marker_blocks=2),
    "JPEG wrong scan": lambda: _with_wrong_scan(_jpeg()),
    "JPEG bad profile": lambda: _misplaced_profile(_jpeg()),
    "JPEG two pictures": lambda: _two_pictures(_jpeg()),
    "JPEG trailing bytes": lambda: _jpeg() + bytes(1000),
    "JPEG bytes before the end": lambda: _jpeg()[:-2] + b"\x12\x34\x56\xff\xd9",
    "JPEG bytes between segments": lambda: _jpeg()[:20] + b"\x01\x02\x03" + _jpeg()[20:],
    "JPEG comment": lambda: with_segment(_jpeg(), 0xFE, b"odd"),
    "JPEG without end": lambda: _jpeg()[:-2],
    "PNG": lambda: encode("PNG"),
    "PNG palette": lambda: encode("PNG", mode="P"),
    "PNG alpha": lambda: encode("PNG", mode="RGBA"),
    "PNG grey and alpha": lambda: encode("PNG", mode="LA"),
    "WebP": lambda: encode("WEBP", quality=95),
    "WebP lossless": lambda: encode("WEBP", lossless=True),
    "WebP alpha": lambda: encode("WEBP", mode="RGBA", lossless=True),
    "BMP": lambda: encode("BMP"),
    "BMP grey": lambda: encode("BMP", mode="L"),
    "TIFF": lambda: encode("TIFF"),
    "TIFF LZW": lambda: encode("TIFF", compression="tiff_lzw"),
}
"""Files that OpenCV and Pillow read to the same pixels, by name."""

UNREADABLE: dict[str, Callable[[], bytes]] = {
    "lossless JPEG": lambda: with_frame(encode("JPEG", mode="L"), 0xC3),
    "hierarchical JPEG": lambda: with_frame(_jpeg(), 0xC5),
    "arithmetic JPEG": lambda: with_frame(_jpeg(), 0xC9),
    "12-bit JPEG": lambda: with_frame(_jpeg(), 0xC1, precision=12),
    "odd sampling": lambda: with_sampling(_jpeg(), (0x44, 0x33, 0x12)),
    "AVIF": lambda: b"\0\0\0\x20ftypavif" + bytes(99),
    "GIF": lambda: encode("GIF"),
    "JPEG 2000": lambda: encode("JPEG2000"),
    "text": lambda: b"not a picture",
    "empty": lambda: b"",
}
"""Files that must end in an error or a picture, but never in a crash, by name."""
