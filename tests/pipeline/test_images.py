"""Decode and check image files: formats, orientation, damage and limits."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import simplejpeg

from pipeline.errors import InputError
from pipeline.images.decode import check_image, decode_image, decode_reduced, read_header
from pipeline.images.exif import choose_orientation, is_ambiguous, read_orientation, turn, turned_size
from tests.support.coco_folder import jpeg
from tests.support.image_kinds import READABLE, SMOOTH, UNREADABLE, encode, exif, with_orientation


def _png(image: np.ndarray) -> bytes:
    return bytes(cv2.imencode(".png", image)[1])


def _cmyk() -> bytes:
    return encode("JPEG", 255 - SMOOTH, mode="CMYK", quality=95)


def _colour() -> bytes:
    return bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(SMOOTH), quality=95, colorspace="BGR"))


def _grey() -> bytes:
    grey = cv2.cvtColor(SMOOTH, cv2.COLOR_BGR2GRAY)
    return bytes(simplejpeg.encode_jpeg(grey[..., None], quality=95, colorspace="GRAY"))


def _with_pillow(data: bytes) -> np.ndarray:
    """Decode and turn upright; BGR."""
    from PIL import Image, ImageFile, ImageOps

    ImageFile.LOAD_TRUNCATED_IMAGES = True  # Pillow calls a JPEG without its end marker truncated
    try:
        return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))[..., ::-1]
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = False


def test_colour_is_decoded_as_bgr() -> None:
    image = decode_image(_colour())
    assert image.shape == (60, 80, 3)
    assert image.dtype == np.uint8
    assert np.abs(image.astype(int) - SMOOTH).mean() < 4


def test_an_array_of_bytes_decodes_like_bytes() -> None:
    data = _colour()
    np.testing.assert_array_equal(decode_image(np.frombuffer(data, np.uint8)), decode_image(data))
    assert check_image(np.frombuffer(data, np.uint8)).size == (60, 80)


def test_grey_gets_three_equal_channels() -> None:
    image = decode_image(_grey())
    assert image.shape == (60, 80, 3)
    assert (image[..., 0] == image[..., 1]).all()
    assert (image[..., 0] == image[..., 2]).all()


@pytest.mark.parametrize("kind", READABLE)
def test_every_kind_is_decoded_as_pillow_does(kind: str) -> None:
    """No pixels are lost, so the image is accepted, whatever its bytes look like."""
    data = READABLE[kind]()
    assert check_image(data).size == (60, 80)
    image = decode_image(data, strict=True)
    assert np.abs(image.astype(int) - _with_pillow(data)).max() <= 2
    np.testing.assert_array_equal(decode_image(data), image)


@pytest.mark.parametrize("kind", UNREADABLE)
def test_other_kinds_are_errors_or_pictures(kind: str) -> None:
    data = UNREADABLE[kind]()
    for function in (check_image, decode_image, lambda data: decode_reduced(data, 8)):
        with contextlib.suppress(InputError):
            assert function(data) is not None


def test_content_decides_the_format() -> None:
    assert read_header(READABLE["WebP"]()).format == "WebP"
    for name, data in (
        ("AVIF", b"\0\0\0\x20ftypavif" + bytes(20)),
        ("GIF", encode("GIF")),
        ("JPEG 2000", encode("JPEG2000")),
    ):
        with pytest.raises(InputError, match=f"{name} is not supported; convert it to JPEG"):
            read_header(data)


@pytest.mark.parametrize("kind", ["JPEG", "JPEG progressive", "JPEG CMYK", "PNG", "WebP", "BMP", "TIFF"])
def test_large_images_are_decoded_smaller(kind: str) -> None:
    data = READABLE[kind]()
    small, size = decode_reduced(data, min_side=28)
    assert size == (60, 80)
    assert small.shape == (30, 40, 3)
    whole = cv2.resize(decode_image(data), (40, 30), interpolation=cv2.INTER_AREA)
    assert np.abs(small.astype(int) - whole).mean() < 6
    assert decode_reduced(data, min_side=31)[0].shape == (60, 80, 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_as_their_exif_orientation_says(orientation: int, kind: str) -> None:
    lossless = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95}}.get(kind, {})
    data = encode(kind, exif=b"Exif\0\0" + exif(orientation), **lossless)
    header = read_header(data)
    assert (header.size, header.orientation) == ((60, 80), orientation)
    image = decode_image(data, strict=True)
    np.testing.assert_array_equal(image, _with_pillow(data))
    stored = decode_image(data, exif="ignore")
    np.testing.assert_array_equal(turn(stored, orientation), image)
    assert stored.shape == (60, 80, 3)
    assert decode_reduced(data, 25)[1] == image.shape[:2] == header.turned_size


def test_orientation_is_read_from_both_byte_orders_and_damage_means_upright() -> None:
    assert [read_orientation(exif(value, order)) for value in (3, 6) for order in "<>"] == [3, 3, 6, 6]
    assert [read_orientation(exif(value)) for value in (0, 9, 65535)] == [1, 1, 1]
    whole = exif(6)
    assert {read_orientation(whole[:length]) for length in range(len(whole))} <= {1, 6}
    assert read_orientation(b"") == read_orientation(b"Exif\0\0II*\0" + b"\xff" * 50) == 1


def test_annotations_decide_between_the_turned_and_the_stored_picture() -> None:
    assert turned_size((60, 80), 6) == (80, 60)
    assert choose_orientation((60, 80), 6, (80, 60), "apply") == 6
    assert choose_orientation((60, 80), 6, (60, 80), "apply") == 1  # fits only the stored picture
    assert choose_orientation((60, 80), 6, (60, 80), "ignore") == 1
    assert choose_orientation((60, 80), 6, (80, 60), "ignore") is None
    assert choose_orientation((60, 80), 3, (60, 80), "apply") == 3
    assert choose_orientation((60, 60), 6, (60, 60), "apply") == 6
    assert [
        is_ambiguous(size, value) for size, value in (((60, 80), 3), ((60, 60), 6), ((60, 80), 6), ((9, 9), 1))
    ] == [
        True,
        True,
        False,
        False,
    ]
    data = with_orientation(_colour(), 6)
    assert decode_image(data, size=(80, 60)).shape == (80, 60, 3)
    assert decode_image(data, size=(60, 80)).shape == (60, 80, 3)
    with pytest.raises(InputError, match=r"is 80x60 px \(60x80 px as its EXIF orientation 6 shows it\), but 70x70 px"):
        decode_image(data, size=(70, 70))
    with pytest.raises(InputError, match="which --exif ignore leaves out"):
        decode_image(data, size=(80, 60), exif="ignore")


def test_png_is_decoded() -> None:
    np.testing.assert_array_equal(decode_image(_png(SMOOTH)), SMOOTH)
    assert check_image(_png(SMOOTH)).size == (60, 80)
    assert decode_image(_png(np.full((5, 7), 40000, np.uint16))).shape == (5, 7, 3)


def test_one_pixel() -> None:
    assert check_image(jpeg(1, 1)).size == (1, 1)
    assert decode_image(jpeg(1, 1)).shape == (1, 1, 3)


@pytest.mark.parametrize("make", [_colour, _grey, _cmyk, lambda: _png(SMOOTH)], ids=["colour", "grey", "cmyk", "png"])
@pytest.mark.parametrize("keep", [0.0, 0.01, 0.3, 0.9, 0.99])
def test_truncation_is_found(make: object, keep: float) -> None:
    data = make()  # type: ignore[operator]
    cut = data[: int(len(data) * keep)]
    with pytest.raises(InputError):
        check_image(cut)
    with pytest.raises(InputError):
        decode_image(cut, strict=True)


@pytest.mark.parametrize("kind", ["PNG", "WebP lossless", "BMP", "TIFF", "JPEG CMYK"])
@pytest.mark.parametrize("keep", [0.1, 0.6, 0.95])
def test_truncation_of_other_formats_is_found(kind: str, keep: float) -> None:
    data = READABLE[kind]()
    for function in (check_image, lambda data: decode_image(data, strict=True)):
        with pytest.raises(InputError):
            function(data[: int(len(data) * keep)])


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
    data[at + 5 : at + 9] = struct.pack(">HH", 60_000, 60_000)
    return bytes(data)


_IEND = struct.pack(">I", 0) + b"IEND" + struct.pack(">I", zlib.crc32(b"IEND"))


def _bomb_png() -> bytes:
    head = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head)) + _IEND


@pytest.mark.parametrize("make", [_bomb_jpeg, _bomb_png])
def test_decompression_bombs_are_rejected_by_their_header(make: object) -> None:
    for function in (check_image, decode_image):
        with pytest.raises(InputError, match="60000x60000 px, expected at most 300 million"):
            function(make())  # type: ignore[operator]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        b"GIF89a" + b"\0" * 99,
        b"RIFF\x20\0\0\0WEBPVP8L",
        b"II*\0\xff\xff\xff\xff",
        b"\xff\xd8",
        b"\x89PNG\r\n\x1a\n",
        b"BM" * 40,
    ],
)
def test_other_data_is_an_error(data: bytes) -> None:
    for function in (check_image, decode_image):
        with pytest.raises(InputError):
            function(data)


def test_real_pictures(coco_mini: Path) -> None:
    for path in sorted((coco_mini / "train2017").iterdir())[:5]:
        data = path.read_bytes()
        assert decode_image(data, strict=True).shape[:2] == check_image(data).size
