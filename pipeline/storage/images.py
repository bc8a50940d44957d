"""Decode image files and check them for damage.

JPEG files are decoded by libjpeg-turbo (simplejpeg), which can reject damaged data; OpenCV would fill the missing part
with grey. CMYK files, which libjpeg cannot convert to BGR, and PNG files are decoded by OpenCV. EXIF orientation is
never applied, because COCO annotations refer to the image as stored.
"""

from __future__ import annotations

import zlib

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.system.buffers import ThreadBuffers

MAX_PIXELS = 100_000_000
"""Maximum number of pixels. An image whose header states more is rejected before it is decoded."""

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_JPEG_SIGNATURE = b"\xff\xd8"

ImageBytes = bytes | NDArray[np.uint8]


def decode_image(data: ImageBytes, *, strict: bool = False, buffers: ThreadBuffers | None = None) -> NDArray[np.uint8]:
    """Decode a JPEG or PNG.

    Args:
        data: content of the file.
        strict: also reject damage that libjpeg could conceal.
        buffers: reusable memory to decode into, for `pipeline.loading.warp`. The image is overwritten by the next call.

    Returns:
        (H, W, 3) uint8 BGR as stored, without EXIF rotation. A grey image has three equal channels. With `buffers`, the
        array may have a fourth channel with undefined values.

    Raises:
        InputError: the data is not a JPEG or PNG, is damaged, or has more than `MAX_PIXELS` pixels.
    """
    import simplejpeg

    size, colour = _read_header(data)
    if colour in ("PNG", "CMYK", "YCCK"):
        if strict:
            check_image(data)
        return _decode_with_opencv(data, size)
    space, buffer = ("BGRX", buffers.array("picture", *size, 4)) if buffers else ("BGR", None)
    try:
        image: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, space, strict=strict, buffer=buffer)
    except ValueError as error:
        raise InputError(f"damaged JPEG: {error}") from None
    return image


def check_image(data: ImageBytes) -> tuple[int, int]:
    """Check all data of a JPEG or PNG and return its (height, width) in px.

    All coefficients of a JPEG are read, but the image is reconstructed at an eighth of its size only. This takes 1.57
    ms for an image of 160 KB, where a full decode takes 2.28 ms, and a test finds the same damage with both.

    Raises:
        InputError: the data is not a JPEG or PNG, is truncated, has damage that the format makes detectable, or has
            more than `MAX_PIXELS` pixels.
    """
    import simplejpeg

    size, colour = _read_header(data)
    if colour == "PNG":
        _check_png_chunks(bytes(data))
        _decode_with_opencv(data, size)
        return size
    space = "CMYK" if colour in ("CMYK", "YCCK") else "GRAY"
    try:
        simplejpeg.decode_jpeg(data, space, min_height=1, min_width=1, min_factor=8, strict=True)
    except ValueError as error:
        raise InputError(f"damaged JPEG: {error}") from None
    return size


def _read_header(data: ImageBytes) -> tuple[tuple[int, int], str]:
    """Return (height, width) and the colour space, "PNG" for any PNG, after checking the size limits."""
    import simplejpeg

    start = bytes(data[:32])
    if start.startswith(_PNG_SIGNATURE):
        if len(start) < 32 or start[12:16] != b"IHDR":
            raise InputError("damaged PNG: no header")
        height, width, colour = int.from_bytes(start[20:24], "big"), int.from_bytes(start[16:20], "big"), "PNG"
    elif start.startswith(_JPEG_SIGNATURE):
        try:
            height, width, colour, _ = simplejpeg.decode_jpeg_header(data, strict=False)
        except ValueError as error:
            raise InputError(f"damaged JPEG: {error}") from None
        except KeyError:
            # simplejpeg raises KeyError for a colour space or subsampling that it does not know
            raise InputError("damaged JPEG: its header is incomplete") from None
    else:
        raise InputError("neither a JPEG nor a PNG" if start else "an empty file")
    if height < 1 or width < 1 or height * width > MAX_PIXELS:
        limit = MAX_PIXELS // 1_000_000
        raise InputError(f"its header states {width}x{height} px, expected at most {limit} million pixels")
    return (height, width), colour


def _decode_with_opencv(data: ImageBytes, size: tuple[int, int]) -> NDArray[np.uint8]:
    import cv2

    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), flags)
    except cv2.error:
        image = None
    if image is None or image.shape[:2] != size:
        raise InputError("damaged image: OpenCV cannot decode it")
    return np.asarray(image, dtype=np.uint8)


def _check_png_chunks(data: bytes) -> None:
    """Verify the checksum of every chunk, because libpng stops at the first wrong checksum without an error."""
    at = len(_PNG_SIGNATURE)
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        if end + 4 > len(data):
            break
        if zlib.crc32(data[at + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            raise InputError(f"damaged PNG: wrong checksum at byte {at}")
        if data[at + 4 : at + 8] == b"IEND":
            return
        at = end + 4
    raise InputError("damaged PNG: it ends too early")
