"""Decode and check image files: formats, orientation, damage and limits."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import simplejpeg

from pipeline.errors import InputError
from pipeline.storage.images import check_image, decode_image
from tests.support.coco_folder import jpeg

SMOOTH = cv2.resize(np.random.default_rng(3).integers(0, 255, (6, 8, 3), dtype=np.uint8), (80, 60))
"""(60, 80, 3) BGR image without fine detail, so that JPEG compression changes it little."""


def _png(image: np.ndarray) -> bytes:
    return bytes(cv2.imencode(".png", image)[1])


def _cmyk() -> bytes:
    from PIL import Image

    ink = 255 - SMOOTH[..., ::-1]
    colours = [Image.fromarray(np.ascontiguousarray(ink[..., i])) for i in range(3)]
    image = Image.merge("CMYK", [*colours, Image.new("L", (80, 60))])
    file = io.BytesIO()
    image.save(file, "JPEG", quality=95)
    return file.getvalue()


def _with_orientation(data: bytes, orientation: int) -> bytes:
    tiff = b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    body = b"Exif\0\0" + tiff
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + data[2:]


def _colour() -> bytes:
    return bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(SMOOTH), quality=95, colorspace="BGR"))


def _grey() -> bytes:
    grey = cv2.cvtColor(SMOOTH, cv2.COLOR_BGR2GRAY)
    return bytes(simplejpeg.encode_jpeg(grey[..., None], quality=95, colorspace="GRAY"))


def test_colour_is_decoded_as_bgr() -> None:
    image = decode_image(_colour())
    assert image.shape == (60, 80, 3)
    assert image.dtype == np.uint8
    assert np.abs(image.astype(int) - SMOOTH).mean() < 4


def test_an_array_of_bytes_decodes_like_bytes() -> None:
    data = _colour()
    np.testing.assert_array_equal(decode_image(np.frombuffer(data, np.uint8)), decode_image(data))
    assert check_image(np.frombuffer(data, np.uint8)) == (60, 80)


def test_grey_gets_three_equal_channels() -> None:
    image = decode_image(_grey())
    assert image.shape == (60, 80, 3)
    assert (image[..., 0] == image[..., 1]).all()
    assert (image[..., 0] == image[..., 2]).all()


def test_cmyk_is_decoded_as_bgr() -> None:
    data = _cmyk()
    assert simplejpeg.decode_jpeg_header(data)[2] in ("CMYK", "YCCK")
    assert np.abs(decode_image(data).astype(int) - SMOOTH).mean() < 8
    assert check_image(data) == (60, 80)


def test_png_is_decoded() -> None:
    np.testing.assert_array_equal(decode_image(_png(SMOOTH)), SMOOTH)
    assert check_image(_png(SMOOTH)) == (60, 80)
    assert decode_image(_png(np.full((5, 7), 40000, np.uint16))).shape == (5, 7, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_not_applied(orientation: int) -> None:
    plain = _colour()
    turned = _with_orientation(plain, orientation)
    np.testing.assert_array_equal(decode_image(turned), decode_image(plain))
    assert check_image(turned) == (60, 80)
    if orientation > 4:
        assert cv2.imdecode(np.frombuffer(turned, np.uint8), cv2.IMREAD_COLOR).shape == (80, 60, 3)
        cmyk = _with_orientation(_cmyk(), orientation)
        assert decode_image(cmyk).shape == (60, 80, 3)


def test_one_pixel() -> None:
    assert check_image(jpeg(1, 1)) == (1, 1)
    assert decode_image(jpeg(1, 1)).shape == (1, 1, 3)


@pytest.mark.parametrize("make", [_colour, _grey, _cmyk, lambda: _png(SMOOTH)], ids=["colour", "grey", "cmyk", "png"])
@pytest.mark.parametrize("keep", [0.0, 0.01, 0.3, 0.9, 0.999])
def test_truncation_is_found(make: object, keep: float) -> None:
    data = make()  # type: ignore[operator]
    cut = data[: int(len(data) * keep)]
    with pytest.raises(InputError):
        check_image(cut)
    with pytest.raises(InputError):
        decode_image(cut, strict=True)


def test_truncated_jpeg_is_decoded_unless_strict() -> None:
    assert decode_image(_colour()[:-20]).shape == (60, 80, 3)


def test_check_image_finds_the_same_damage_as_strict_decoding() -> None:
    data, rng = bytearray(jpeg(160, 240, 5)), np.random.default_rng(0)
    found = 0
    for _ in range(150):
        at = int(rng.integers(len(data)))
        damaged = bytes(data[:at]) + bytes([data[at] ^ (1 << int(rng.integers(8)))]) + bytes(data[at + 1 :])
        outcomes = []
        for attempt in (check_image, lambda damaged: decode_image(damaged, strict=True)):
            try:
                attempt(damaged)
                outcomes.append(False)
            except InputError:
                outcomes.append(True)
        assert outcomes[0] == outcomes[1]
        found += outcomes[0]
    assert found > 10


def test_any_flipped_bit_of_a_png_is_found() -> None:
    data, rng = _png(SMOOTH), np.random.default_rng(1)
    for at in rng.integers(0, len(data), 60).tolist():
        with pytest.raises(InputError):
            check_image(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])


def _bomb_jpeg() -> bytes:
    data = bytearray(jpeg(16, 16))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", 30_000, 30_000)
    return bytes(data)


def _bomb_png() -> bytes:
    head = b"IHDR" + struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))


@pytest.mark.parametrize("make", [_bomb_jpeg, _bomb_png])
def test_decompression_bombs_are_rejected_by_their_header(make: object) -> None:
    for function in (check_image, decode_image):
        with pytest.raises(InputError, match="30000x30000 px, expected at most 100 million"):
            function(make())  # type: ignore[operator]


@pytest.mark.parametrize("data", [b"", b"\0", b"GIF89a" + b"\0" * 99, b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"BM" * 40])
def test_other_data_is_an_error(data: bytes) -> None:
    for function in (check_image, decode_image):
        with pytest.raises(InputError):
            function(data)


def test_real_pictures(coco_mini: Path) -> None:
    for path in sorted((coco_mini / "train2017").iterdir())[:5]:
        data = path.read_bytes()
        assert decode_image(data, strict=True).shape[:2] == check_image(data)
