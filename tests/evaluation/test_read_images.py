"""Read image files for prediction: formats, orientation, damage and size."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from evaluation.decoder.person import Person
from evaluation.media import images
from evaluation.media.images import read_image, scale_people
from pipeline.errors import InputError
from tests.support.image_kinds import READABLE, SMOOTH, encode, with_orientation


@pytest.mark.parametrize("kind", READABLE)
def test_every_kind_is_read_whatever_its_name(kind, tmp_path):
    (tmp_path / "x.jpg").write_bytes(READABLE[kind]())
    image = read_image(tmp_path / "x.jpg", 64)
    assert (image.size, image.problem) == ((60, 80), None)
    assert np.abs(image.pixels.astype(int).mean(axis=(0, 1)) - SMOOTH.mean(axis=(0, 1))).max() < 40


def test_exif_orientation_is_applied(tmp_path):
    plain = np.full((40, 60, 3), 50, np.uint8)
    plain[:20] = 200
    # orientation 6: the top of the scene is at the right
    (tmp_path / "x.jpg").write_bytes(with_orientation(encode("JPEG", plain), 6))
    seen = read_image(tmp_path / "x.jpg", 64).pixels
    assert seen.shape == (60, 40, 3)
    assert seen[:, 25:].mean() > 190
    assert seen[:, :15].mean() < 60


def test_image_with_a_missing_end_is_used_as_far_as_it_goes(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    whole = encode("JPEG", noise, quality=95)
    (tmp_path / "whole.jpg").write_bytes(whole)
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    cut, full = read_image(tmp_path / "cut.jpg", 64), read_image(tmp_path / "whole.jpg", 64)
    assert "premature end" in cut.problem
    np.testing.assert_array_equal(cut.pixels[:8], full.pixels[:8])
    assert (cut.pixels[-8:] != full.pixels[-8:]).any()


def test_unreadable_files_are_errors(tmp_path):
    bitmap = encode("BMP")
    for data, message in (
        (b"not a picture", "not an image: expected JPEG, PNG"),
        (b"", "an empty file"),
        (bitmap[:20], "damaged"),
        (b"\0\0\0\x20ftypheic" + bytes(20), "HEIC is not supported; convert it"),
    ):
        (tmp_path / "x.jpg").write_bytes(data)
        with pytest.raises(InputError, match=message):
            read_image(tmp_path / "x.jpg", 64)
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_image(tmp_path / "none.jpg", 64)
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        read_image(tmp_path, 64)


@pytest.mark.parametrize("orientation", [1, 6])
def test_very_large_images_are_read_smaller_and_people_scaled_back(orientation, tmp_path, monkeypatch):
    monkeypatch.setattr(images, "LARGE_PIXELS", 600 * 800 - 1)
    pixels = np.zeros((600, 800, 3), np.uint8)
    pixels[100:121, 500:521] = 255
    (tmp_path / "x.jpg").write_bytes(with_orientation(encode("JPEG", pixels), orientation))
    image = read_image(tmp_path / "x.jpg", 140)
    whole = read_image(tmp_path / "x.jpg", 601)
    assert image.size == whole.size == whole.pixels.shape[:2]
    assert [4 * side for side in image.pixels.shape[:2]] == list(image.size)
    assert image.problem is None

    def spot(seen):
        rows, columns = np.nonzero(seen[..., 0] > 128)
        keypoints = np.zeros((18, 3), np.float32)
        keypoints[4] = columns.mean(), rows.mean(), 0.9
        return Person(keypoints, 0.5)

    (found,) = scale_people([spot(image.pixels)], image.pixels.shape[:2], image.size)
    assert found.keypoints == pytest.approx(spot(whole.pixels).keypoints, abs=1.5)
    assert not found.keypoints[:4].any()


def test_image_below_the_limit_is_read_whole(tmp_path):
    cv2.imwrite(str(tmp_path / "x.png"), np.zeros((600, 800, 3), np.uint8))
    assert read_image(tmp_path / "x.png", 8).pixels.shape == (600, 800, 3)
