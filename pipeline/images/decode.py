"""Decode image files of any format that shards, evaluation and prediction accept, and check that no pixels are missing.

The content decides the format, not the name. The usual kinds of JPEG are decoded by libjpeg-turbo (simplejpeg), which
reports missing data; OpenCV would fill the missing part with grey. OpenCV decodes the rest: JPEG with four components
or unusual sampling, PNG, WebP, BMP and TIFF. Its decoder of JPEG 2000 is not used: damaged files crash it. Every header
is read here first, because decoders trust what a header states: an unusual one could exhaust or corrupt memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.images import jpeg
from pipeline.images.containers import as_upright_tiff, check_complete, read_container
from pipeline.images.exif import UPRIGHT, ExifRule, choose_orientation, turn, turned_size
from pipeline.sample import Size
from pipeline.system.buffers import ThreadBuffers

MAX_PIXELS = 300_000_000
"""Maximum number of pixels. An image whose header states more is rejected before it is decoded. The largest sensors of
phones have 200 million."""

_ALWAYS_ACCEPTED_PIXELS = 16_000_000
_MAX_PIXELS_PER_BYTE = 500
"""A file with more pixels than `_ALWAYS_ACCEPTED_PIXELS` and more than these for each of its bytes is rejected: its
header is damaged, or meant to exhaust memory. A JPEG of one colour has less than 200."""

ImageBytes = bytes | NDArray[np.uint8]
Image = NDArray[np.uint8]

_LEFTOVER = "extraneous bytes before marker 0xd9"
"""libjpeg's message about bytes after the last pixel. It decodes until the first problem, so no pixel is missing."""

_REDUCTIONS = (8, 4, 2)


@dataclass(frozen=True)
class ImageHeader:
    """What the header of an image file states.

    Attributes:
        format: name of the format, such as "JPEG" or "lossless JPEG".
        size: (height, width) in px as stored.
        orientation: EXIF orientation, 1..8; 1 if there is none.
        usual_jpeg: True for the kinds of JPEG that simplejpeg decodes.
    """

    format: str
    size: Size
    orientation: int
    usual_jpeg: bool = False

    @property
    def turned_size(self) -> Size:
        """(height, width) in px of the picture that viewers show."""
        return turned_size(self.size, self.orientation)


def read_header(data: ImageBytes) -> ImageHeader:
    """Read the header of an image file.

    Raises:
        InputError: the file is empty or of no supported format, its header is damaged, or it states more than
            `MAX_PIXELS` pixels.
    """
    view = _view(data)
    container = None
    if view[:2] == jpeg.SIGNATURE:
        frame = jpeg.read_jpeg_header(view)
        header = ImageHeader(f"{frame.process}JPEG", frame.size, frame.orientation, frame.is_usual)
    else:
        container = read_container(view)
        if container is None:
            raise InputError(_describe_unknown(bytes(view[:16])))
        header = ImageHeader(container.format, container.size, container.orientation)
    height, width = header.size
    if height < 1 or width < 1 or height * width > MAX_PIXELS:
        limit = MAX_PIXELS // 1_000_000
        raise InputError(f"its header states {width}x{height} px, expected at most {limit} million pixels")
    if height * width > max(_ALWAYS_ACCEPTED_PIXELS, _MAX_PIXELS_PER_BYTE * len(data)):
        raise InputError(f"its header states {width}x{height} px, but the file has only {len(data)} bytes")
    return header


def _view(data: ImageBytes) -> memoryview:
    return data.data if isinstance(data, np.ndarray) else memoryview(data)


def _describe_unknown(start: bytes) -> str:
    if not start:
        return "an empty file"
    brand = start[8:12] if start[4:8] == b"ftyp" else b""
    name = {b"avif": "AVIF", b"heic": "HEIC", b"heix": "HEIC", b"mif1": "HEIF"}.get(brand)
    name = "GIF" if start.startswith(b"GIF8") else name
    name = "JPEG 2000" if start.startswith((b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")) else name
    supported = "JPEG, PNG, WebP, BMP or TIFF"
    return f"{name} is not supported; convert it to {supported}" if name else f"not an image: expected {supported}"


def decode_image(
    data: ImageBytes,
    *,
    size: Size | None = None,
    exif: ExifRule = "apply",
    strict: bool = False,
    buffers: ThreadBuffers | None = None,
) -> Image:
    """Decode an image file.

    Args:
        data: content of the file.
        size: annotated (height, width) in px, which `exif.choose_orientation` compares; None without annotations.
        exif: whether the EXIF orientation is applied.
        strict: raise an error if pixels are missing. Otherwise the decoder fills them.
        buffers: reusable memory to decode into, for `pipeline.loading.warp`. The image is overwritten by the next call.

    Returns:
        (H, W, 3) uint8 BGR. A grey image has three equal channels. With `buffers`, the array may have a fourth channel
        with undefined values.

    Raises:
        InputError: the data is no supported image, is damaged, has more than `MAX_PIXELS` pixels, or not the annotated
            size.
    """
    header = read_header(data)
    orientation = _choose_orientation(header, size, exif)
    if header.usual_jpeg:
        buffer = buffers.array("picture", *header.size, 4) if buffers else None
        image = _decode_usual_jpeg(data, "BGRX" if buffers else "BGR", strict, buffer)
    else:
        if strict:
            _check_other(data, header)
        image = _decode_with_opencv(data, header)
    return turn(image, orientation)


def decode_reduced(data: ImageBytes, min_side: int) -> tuple[Image, Size]:
    """Decode an image file upright, at the smallest of 1, 1/2, 1/4 and 1/8 of its size that is large enough.

    Args:
        data: content of the file.
        min_side: minimum of the shorter side in px; smaller images are decoded whole.

    Returns:
        (H, W, 3) uint8 BGR, and the (height, width) in px of the whole image.

    Raises:
        InputError: as `decode_image`.
    """
    header = read_header(data)
    factor = next((factor for factor in _REDUCTIONS if min(header.size) >= factor * min_side), 1)
    if factor == 1:
        return decode_image(data), header.turned_size
    if header.usual_jpeg:
        height, width = (-(-side // factor) for side in header.size)
        image = _decode_usual_jpeg(data, "BGR", False, None, min_height=height, min_width=width, min_factor=factor)
    else:
        image = _decode_with_opencv(data, header, factor)
    return turn(image, header.orientation), header.turned_size


def check_image(data: ImageBytes) -> ImageHeader:
    """Check that no pixel of an image file is missing, and return its header.

    All coefficients of a JPEG are read, but the image is reconstructed at an eighth of its size only. This takes 1.57
    ms for an image of 160 KB, where a full decode takes 2.28 ms, and a test finds the same damage with both.

    Raises:
        InputError: the data is no supported image, is truncated, has damage that the format makes detectable, or has
            more than `MAX_PIXELS` pixels.
    """
    header = read_header(data)
    if header.usual_jpeg:
        _decode_usual_jpeg(data, "GRAY", True, None, min_height=1, min_width=1, min_factor=8)
    else:
        _check_other(data, header)
        _decode_with_opencv(data, header)
    return header


def _choose_orientation(header: ImageHeader, annotated: Size | None, exif: ExifRule) -> int:
    if annotated is None:
        return header.orientation if exif == "apply" else UPRIGHT
    orientation = choose_orientation(header.size, header.orientation, annotated, exif)
    if orientation is None:
        raise InputError(describe_size_difference(header, annotated, exif))
    return orientation


def describe_size_difference(header: ImageHeader, annotated: Size, exif: ExifRule) -> str:
    """Return a message about an image whose size differs from that in the annotations."""
    stored, turned = (f"{width}x{height}" for height, width in (header.size, header.turned_size))
    text = f"is {stored} px"
    if header.orientation != UPRIGHT:
        text += f" ({turned} px as its EXIF orientation {header.orientation} shows it"
        text += ", which --exif ignore leaves out)" if exif == "ignore" else ")"
    return f"{text}, but {annotated[1]}x{annotated[0]} px in the annotations"


def _decode_usual_jpeg(data: ImageBytes, space: str, strict: bool, buffer: Image | None, **scale: int) -> Image:
    """Decode a JPEG with simplejpeg. Flaws that lose no pixels are removed in a second attempt."""
    import simplejpeg

    def decode(content: ImageBytes) -> Image:
        image: Image = simplejpeg.decode_jpeg(content, space, strict=strict, buffer=buffer, **scale)
        return image

    try:
        return decode(data)
    except ValueError as error:
        if _LEFTOVER in str(error):
            return _decode_leniently(data, space, buffer, scale)
    cleaned = jpeg.without_harmless_flaws(_view(data))
    try:
        return decode(cleaned)
    except ValueError as error:
        if _LEFTOVER in str(error):
            return _decode_leniently(cleaned, space, buffer, scale)
        raise InputError(f"damaged JPEG: {error}") from None


def _decode_leniently(data: ImageBytes, space: str, buffer: Image | None, scale: dict[str, int]) -> Image:
    import simplejpeg

    image: Image = simplejpeg.decode_jpeg(data, space, strict=False, buffer=buffer, **scale)
    return image


def _check_other(data: ImageBytes, header: ImageHeader) -> None:
    """Check what OpenCV does not report: the end of a JPEG, the structure of other formats."""
    view = _view(data)
    if header.format.endswith("JPEG"):
        if not jpeg.is_complete(view):
            raise InputError("damaged JPEG: it ends too early")
        return
    container = read_container(view)
    assert container is not None
    check_complete(view, container)


def _decode_with_opencv(data: ImageBytes, header: ImageHeader, factor: int = 1) -> Image:
    """Decode as stored, at a fraction of the size. Raise InputError if OpenCV fails or finds another size."""
    import cv2

    if header.format == "TIFF" and header.orientation != UPRIGHT:
        data = as_upright_tiff(_view(data))
    flags = {
        1: cv2.IMREAD_COLOR,
        2: cv2.IMREAD_REDUCED_COLOR_2,
        4: cv2.IMREAD_REDUCED_COLOR_4,
        8: cv2.IMREAD_REDUCED_COLOR_8,
    }[factor]
    try:
        image = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), flags | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        image = None
    if image is None or (factor == 1 and image.shape[:2] != header.size):
        raise InputError(f"damaged, or a kind of {header.format} that OpenCV cannot decode")
    return np.asarray(image, dtype=np.uint8)
