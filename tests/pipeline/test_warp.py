from __future__ import annotations

import colorsys

import numpy as np
import pytest

from pipeline.loading.augment import Augmentation, AugmentConfig, affine_matrix, fit_whole_image, sample_augmentation
from pipeline.loading.warp import BORDER_GREY, augment_sample, jitter_colour, loss_mask, warp_image, warp_mask
from pipeline.maps import grid_to_pixel
from pipeline.sample import Sample

GEOMETRY = [
    Augmentation(scale=1.0, rotation=0.0, centre=(80.0, 60.0)),
    Augmentation(scale=1.0, rotation=0.0, centre=(80.3, 60.7), flip=True),
    Augmentation(scale=1.9, rotation=0.0, centre=(75.25, 61.5)),
    Augmentation(scale=0.55, rotation=0.0, centre=(81.0, 59.4)),
    Augmentation(scale=1.0, rotation=33.0, centre=(78.0, 66.0)),
    Augmentation(scale=1.37, rotation=-71.0, centre=(85.5, 63.2), flip=True),
    Augmentation(scale=0.7, rotation=150.0, centre=(70.9, 52.1), flip=True),
]


def blob(height: int, width: int, x: float, y: float, sigma: float = 2.5) -> np.ndarray:
    ys, xs = np.mgrid[:height, :width]
    bump = 250 * np.exp(-((xs - x) ** 2 + (ys - y) ** 2) / (2 * sigma**2))
    return np.repeat(bump.round().astype(np.uint8)[..., None], 3, axis=2)


def centroid(image: np.ndarray) -> tuple[float, float]:
    weight = image.sum(axis=2, dtype=np.float64)
    ys, xs = np.indices(weight.shape)
    return float((weight * xs).sum() / weight.sum()), float((weight * ys).sum() / weight.sum())


def one_keypoint(x: float, y: float) -> np.ndarray:
    keypoints = np.zeros((1, 18, 3), dtype=np.float32)
    keypoints[0, 0] = x, y, 2  # a flip does not change the index of the nose
    return keypoints


@pytest.mark.parametrize("augmentation", GEOMETRY)
@pytest.mark.parametrize("size", [(120, 160), (160, 96)])
@pytest.mark.parametrize("centre", [(82.0, 57.0), (76.4, 66.9)])
def test_a_painted_spot_moves_with_its_keypoint(augmentation, size, centre):
    image = blob(120, 160, *centre)
    ignore = np.zeros((120, 160), dtype=np.uint8)
    moved = augment_sample(Sample(1, image, one_keypoint(*centre), ignore), augmentation, size)
    background = augment_sample(Sample(1, np.zeros_like(image), one_keypoint(*centre), ignore), augmentation, size)
    x, y, visibility = moved.keypoints[0, 0]
    assert visibility == 2
    np.testing.assert_allclose(centroid(moved.image - background.image), (x, y), atol=0.06)


@pytest.mark.parametrize("augmentation", [each for each in GEOMETRY if each.scale >= 1])
@pytest.mark.parametrize("size", [(120, 160), (160, 96)])
def test_a_painted_pixel_moves_with_its_keypoint(augmentation, size):
    image = np.zeros((120, 160, 3), dtype=np.uint8)
    image[64, 79] = 255
    ignore = np.zeros((120, 160), dtype=np.uint8)
    ignore[64, 79] = 1
    moved = augment_sample(Sample(1, image, one_keypoint(79, 64), ignore), augmentation, size)
    background = augment_sample(Sample(1, image * 0, one_keypoint(79, 64), ignore), augmentation, size)
    x, y, _ = moved.keypoints[0, 0]
    np.testing.assert_allclose(centroid(moved.image - background.image), (x, y), atol=0.35)
    difference = moved.image[..., 0].astype(int) - background.image[..., 0]
    brightest = np.unravel_index(difference.argmax(), size)
    assert np.hypot(brightest[1] - x, brightest[0] - y) <= 0.75


def test_the_ignore_region_moves_with_the_image():
    rng = np.random.default_rng(0)
    ignore = np.zeros((120, 160), dtype=np.uint8)
    ignore[30:70, 50:120] = 1
    image = np.repeat(ignore[..., None] * np.uint8(200), 3, axis=2)
    no_people = np.zeros((0, 18, 3), dtype=np.float32)
    for augmentation in [
        *GEOMETRY,
        *(sample_augmentation(rng, no_people, (120, 160), AugmentConfig(colour=0)) for _ in range(10)),
    ]:
        moved = augment_sample(Sample(1, image, no_people, ignore), augmentation, (96, 128))
        assert moved.ignore.dtype == np.uint8
        assert set(np.unique(moved.ignore)) <= {0, 1}
        inside = moved.image[..., 0] > 170  # the grey border has value 128
        assert np.mean(inside != moved.ignore) < 0.02
        assert moved.keypoints.shape == (0, 18, 3)


def test_outside_of_the_image_is_grey_and_the_loss_counts():
    image = np.zeros((40, 60, 3), dtype=np.uint8)
    ignore = np.ones((40, 60), dtype=np.uint8)
    size = (64, 96)
    augmentation = Augmentation(scale=1.0, rotation=0.0, centre=(29.5, 19.5))
    moved = augment_sample(Sample(1, image, np.zeros((0, 18, 3), np.float32), ignore), augmentation, size)
    assert (moved.image[:11] == BORDER_GREY).all()
    assert (moved.image[13:50, 19:76] == 0).all()
    mask = loss_mask(ignore, affine_matrix(augmentation, size), size)
    assert mask.shape == (8, 12)
    assert mask[0].all()
    assert not mask[2:6, 3:9].any()


@pytest.mark.parametrize("augmentation", GEOMETRY)
@pytest.mark.parametrize("size", [(120, 160), (160, 96)])
def test_the_loss_mask_is_the_ignore_region_at_the_cell_centres(augmentation, size):
    ys, xs = np.mgrid[:120, :160]
    ignore = (np.hypot(xs - 80, ys - 60) < 37).astype(np.uint8)
    mask = loss_mask(ignore, affine_matrix(augmentation, size), size)
    assert mask.dtype == np.uint8
    assert mask.shape == (size[0] // 8, size[1] // 8)
    matrix = np.vstack([affine_matrix(augmentation, size), (0, 0, 1)])
    cell_ys, cell_xs = np.mgrid[: mask.shape[0], : mask.shape[1]].astype(float)
    points = np.stack([grid_to_pixel(cell_xs, 8), grid_to_pixel(cell_ys, 8), np.ones_like(cell_xs)], axis=-1)
    source = points @ np.linalg.inv(matrix).T
    radius = np.hypot(source[..., 0] - 80, source[..., 1] - 60)
    assert not mask[radius < 35.5].any()
    assert mask[radius > 38.5].all()


def test_without_ignore_region_the_loss_counts_everywhere():
    matrix = affine_matrix(fit_whole_image((50, 70), (64, 80)), (64, 80))
    mask = loss_mask(None, matrix, (64, 80))
    assert mask.all()
    np.testing.assert_array_equal(mask, loss_mask(np.zeros((50, 70), np.uint8), matrix, (64, 80)))


def test_masks_are_thresholded_at_one_half():
    wide = np.zeros((10, 20), dtype=np.uint8)
    wide[:, 10:] = 1
    for shift, first in ((0.4, 10), (0.6, 11)):
        moved = warp_mask(wide, np.array([[1, 0, shift], [0, 1, 0]], dtype=np.float64), (10, 20))
        assert moved[5].argmax() == first


def test_warping_into_a_given_array():
    image = np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8)
    matrix = affine_matrix(fit_whole_image((50, 70), (64, 80)), (64, 80))
    batch = np.zeros((3, 64, 80, 3), dtype=np.uint8)
    warp_image(image, matrix, (64, 80), out=batch[1])
    np.testing.assert_array_equal(batch[1], warp_image(image, matrix, (64, 80)))
    assert not batch[[0, 2]].any()


def _patch(hue: float, saturation: float, value: float) -> np.ndarray:
    red, green, blue = colorsys.hsv_to_rgb(hue / 180, saturation / 255, value / 255)
    return np.full((8, 8, 3), np.round(np.array([blue, green, red]) * 255), dtype=np.uint8)


def _hsv(image: np.ndarray) -> tuple[float, float, float]:
    blue, green, red = image[0, 0] / 255
    hue, saturation, value = colorsys.rgb_to_hsv(red, green, blue)
    return hue * 180, saturation * 255, value * 255


def _recolour(image: np.ndarray, hue: int, saturation: int, value: int) -> np.ndarray:
    changed = image.copy()
    jitter_colour(changed, Augmentation(1.0, 0.0, (0.0, 0.0), hue=hue, saturation=saturation, value=value))
    return changed


@pytest.mark.parametrize("start", [2, 60, 120, 178])
@pytest.mark.parametrize("change", [-75, -10, -3, 0, 3, 10, 75])
def test_hue_wraps_around(start, change):
    hue, saturation, value = _hsv(_recolour(_patch(start, 200, 200), change, 0, 1))
    difference = (hue - start - change + 90) % 180 - 90
    assert abs(difference) < 1.6
    assert saturation == pytest.approx(200, abs=4)
    assert value == pytest.approx(201, abs=2)


@pytest.mark.parametrize(
    ("before", "change", "after"), [(200, 40, 240), (230, 40, 255), (200, -40, 160), (20, -40, 0), (255, 255, 255)]
)
def test_saturation_and_value_are_clipped(before, change, after):
    assert _hsv(_recolour(_patch(90, before, 200), 0, change, 0))[1] == pytest.approx(after, abs=4)
    assert _hsv(_recolour(_patch(90, 200, before), 0, 0, change))[2] == pytest.approx(after, abs=2)


def test_zero_changes_of_colour_keep_every_byte():
    image = np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8)
    np.testing.assert_array_equal(_recolour(image, 0, 0, 0), image)


def test_colour_is_changed_in_place_in_a_batch():
    batch = np.random.default_rng(0).integers(0, 255, (3, 16, 24, 3), dtype=np.uint8)
    before = batch.copy()
    jitter_colour(batch[1], Augmentation(1.0, 0.0, (0.0, 0.0), hue=5, saturation=-20, value=9))
    np.testing.assert_array_equal(batch[[0, 2]], before[[0, 2]])
    assert (batch[1] != before[1]).any()
    np.testing.assert_array_equal(batch[1], _recolour(before[1], 5, -20, 9))


def test_augment_sample_does_not_modify_its_input():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (50, 70, 3), dtype=np.uint8)
    sample = Sample(7, image, one_keypoint(30, 20), np.zeros((50, 70), np.uint8))
    for array in (sample.image, sample.keypoints, sample.ignore):
        array.flags.writeable = False
    moved = augment_sample(
        sample, Augmentation(1.1, 5.0, (35.0, 25.0), flip=True, hue=4, saturation=30, value=-20), (64, 64)
    )
    assert moved.image_id == 7
    assert moved.image.shape == (64, 64, 3)
