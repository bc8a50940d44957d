from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from pydantic import ValidationError

from pipeline.loading.augment import (
    Augmentation,
    AugmentConfig,
    affine_matrix,
    fit_whole_image,
    sample_augmentation,
    transform_keypoints,
)
from pipeline.skeleton import KEYPOINT_INDEX, KEYPOINTS, mirrored_name

NUM_SAMPLES = 4000
CONFIG = AugmentConfig()


def person(left: float, top: float, width: float, height: float) -> np.ndarray:
    """Return the keypoints of a person that fill a box, with two of them in its corners."""
    rng = np.random.default_rng(5)
    keypoints = np.zeros((len(KEYPOINTS), 3), dtype=np.float32)
    keypoints[:, 0] = left + width * rng.random(len(KEYPOINTS))
    keypoints[:, 1] = top + height * rng.random(len(KEYPOINTS))
    keypoints[:2, :2] = (left, top), (left + width, top + height)
    keypoints[:, 2] = 2
    return keypoints


def sample_many(keypoints: np.ndarray, image_size=(480, 640), config: AugmentConfig = CONFIG) -> list[Augmentation]:
    rng = np.random.default_rng(11)
    return [sample_augmentation(rng, keypoints, image_size, config) for _ in range(NUM_SAMPLES)]


def values_of(augmentations: list[Augmentation], name: str) -> np.ndarray:
    return np.array([getattr(augmentation, name) for augmentation in augmentations], dtype=np.float64)


@pytest.mark.parametrize(
    ("boxes", "expected"),
    [
        ([(119, 159)], (0.5, 2.0)),  # diagonal 200: 64 / 200 < 0.5, 512 / 200 > 2
        ([(59, 79)], (0.64, 2.0)),  # 100
        ([(239, 319)], (0.5, 1.28)),  # 400
        ([(59, 79), (239, 319)], (0.64, 1.28)),  # the smaller box limits shrinking, the larger one enlarging
        ([(29, 39)], (1.0, 2.0)),  # 50: never shrunk
        ([(419, 559)], (0.5, 1.0)),  # 700: never enlarged
    ],
)
def test_scale_is_uniform_in_the_range_that_boxes_allow(boxes, expected):
    keypoints = np.stack([person(30 + 7 * i, 20, width, height) for i, (width, height) in enumerate(boxes)])
    scales = values_of(sample_many(keypoints), "scale")
    low, high = expected
    assert low - 1e-6 <= scales.min() < low + 0.01
    assert high - 0.01 < scales.max() <= high + 1e-6
    np.testing.assert_allclose(
        np.quantile(scales, [0.25, 0.5, 0.75]), low + (high - low) * np.arange(1, 4) / 4, atol=0.05
    )


def test_rotation_is_normal():
    rotations = values_of(sample_many(person(100, 100, 80, 150)[None]), "rotation")
    assert abs(rotations.mean()) < 1
    assert rotations.std() == pytest.approx(40 / 3, rel=0.05)
    assert np.mean(np.abs(rotations) < 40 / 3) == pytest.approx(0.683, abs=0.03)


def test_crop_is_centred_on_random_people_and_jittered():
    keypoints = np.stack([person(100, 100, 80, 150), person(400, 200, 60, 100)])
    size = (368, 368)
    offsets, counts = [], [0, 0]
    for augmentation in sample_many(keypoints):
        points = (
            keypoints[..., :2] @ affine_matrix(augmentation, size)[:, :2].T + affine_matrix(augmentation, size)[:, 2]
        )
        centres = (points.min(axis=1) + points.max(axis=1)) / 2 - (
            size[1] - 1
        ) / 2  # of the boxes in the output, relative to its centre
        nearest = int(np.abs(centres).max(axis=1).argmin())
        counts[nearest] += 1
        offsets.append(centres[nearest])
    spread = np.array(offsets)
    assert np.abs(spread).max() <= 40.001
    np.testing.assert_allclose(spread.mean(axis=0), 0, atol=1.5)
    np.testing.assert_allclose(spread.std(axis=0), 40 / 3**0.5, rtol=0.05)
    assert counts[0] / NUM_SAMPLES == pytest.approx(0.5, abs=0.05)


def test_flip_and_colour_have_the_configured_probability():
    augmentations = sample_many(person(100, 100, 80, 150)[None])
    assert values_of(augmentations, "flip").mean() == pytest.approx(0.5, abs=0.03)
    names, limits = ("hue", "saturation", "value"), (10, 40, 30)
    colours = np.stack([values_of(augmentations, name) for name in names], axis=1)
    coloured = colours[colours.any(axis=1)]
    assert len(coloured) / NUM_SAMPLES == pytest.approx(0.5, abs=0.03)
    for values, limit in zip(coloured.T, limits, strict=True):
        assert (values.min(), values.max()) == (-limit, limit)
        expected = ((2 * limit + 1) ** 2 - 1) / 12  # variance of a uniform integer
        assert values.var() == pytest.approx(expected, rel=0.1)
    never = sample_many(person(100, 100, 80, 150)[None], config=AugmentConfig(flip=0, colour=0))
    assert not values_of(never, "flip").any()
    assert not any(values_of(never, name).any() for name in names)
    always = sample_many(person(100, 100, 80, 150)[None], config=AugmentConfig(flip=1))
    assert values_of(always, "flip").all()


def test_without_people_the_crop_is_centred_on_the_image():
    no_people = np.zeros((0, 18, 3), dtype=np.float32)
    augmentations = sample_many(no_people, image_size=(480, 640))
    no_jitter = sample_augmentation(np.random.default_rng(0), no_people, (480, 640), AugmentConfig(jitter=0))
    np.testing.assert_allclose(no_jitter.centre, (319.5, 239.5))
    centres = [augmentation.centre for augmentation in augmentations]
    np.testing.assert_allclose(np.mean(centres, axis=0), (319.5, 239.5), atol=2)
    scales = values_of(augmentations, "scale")
    assert 0.5 <= scales.min() < 0.51
    assert 1.99 < scales.max() <= 2


def test_people_without_labels_are_ignored():
    labelled, unlabelled = person(100, 100, 80, 150), np.zeros((18, 3), dtype=np.float32)
    args = (480, 640), CONFIG
    with_unlabelled = sample_augmentation(np.random.default_rng(3), np.stack([unlabelled, labelled]), *args)
    assert with_unlabelled == sample_augmentation(np.random.default_rng(3), labelled[None], *args)
    assert sample_augmentation(np.random.default_rng(3), unlabelled[None], *args) == sample_augmentation(
        np.random.default_rng(3), labelled[None][:0], *args
    )


def test_unlabelled_keypoints_do_not_widen_the_box():
    full = person(100, 100, 80, 150)
    partly = full.copy()
    partly[5:] = 0
    alone = sample_augmentation(np.random.default_rng(3), partly[None], (480, 640), CONFIG)
    half = full.copy()
    half[5:, :2] = full[0, :2]  # inside the box of the others
    assert alone.scale == sample_augmentation(np.random.default_rng(3), half[None], (480, 640), CONFIG).scale
    assert alone.centre == pytest.approx(
        sample_augmentation(np.random.default_rng(3), half[None], (480, 640), CONFIG).centre
    )


@pytest.mark.parametrize("size", [(368, 368), (192, 256), (256, 192)])
@pytest.mark.parametrize("flip", [False, True])
def test_matrix_maps_the_centre_and_has_the_scale_and_rotation(size, flip):
    augmentation = Augmentation(scale=1.3, rotation=30.0, centre=(101.25, 57.5), flip=flip)
    matrix = affine_matrix(augmentation, size)
    assert matrix.dtype == np.float64
    np.testing.assert_allclose(matrix @ (101.25, 57.5, 1), ((size[1] - 1) / 2, (size[0] - 1) / 2))
    assert np.linalg.det(matrix[:, :2]) == pytest.approx(-(1.3**2) if flip else 1.3**2)
    right = matrix[:, :2] @ (1, 0)  # counter-clockwise as displayed: the image of the x axis points up
    assert np.degrees(np.arctan2(-right[1], -right[0] if flip else right[0])) == pytest.approx(30)


def test_flip_mirrors_about_the_output_width():
    straight = Augmentation(scale=0.8, rotation=12.0, centre=(40.0, 30.0))
    flipped = Augmentation(scale=0.8, rotation=12.0, centre=(40.0, 30.0), flip=True)
    point = np.array((13.7, 44.1, 1))
    x, y = affine_matrix(straight, (96, 160)) @ point
    np.testing.assert_allclose(affine_matrix(flipped, (96, 160)) @ point, (159 - x, y))


def test_flip_swaps_sides_by_name():
    keypoints = person(20, 20, 60, 60)[None]
    plain = Augmentation(scale=1.0, rotation=0.0, centre=(63.5, 47.5))
    mirrored = Augmentation(scale=1.0, rotation=0.0, centre=(63.5, 47.5), flip=True)
    size = (96, 128)
    before = transform_keypoints(keypoints, plain, affine_matrix(plain, size), size)[0]
    after = transform_keypoints(keypoints, mirrored, affine_matrix(mirrored, size), size)[0]
    np.testing.assert_allclose(before, keypoints[0], atol=1e-4)
    for name in KEYPOINTS:
        x, y, visibility = before[KEYPOINT_INDEX[name]]
        np.testing.assert_allclose(after[KEYPOINT_INDEX[mirrored_name(name)]], (127 - x, y, visibility), atol=1e-4)


def test_keypoints_outside_become_unlabelled_and_unlabelled_people_are_dropped():
    size = (80, 120)
    identity = fit_whole_image(size, size)
    inside, outside, partly = person(10, 10, 50, 50), person(130, 10, 30, 30), person(100, 60, 60, 60)
    partly[3, :2] = (119.5, 79.5)  # outer corner of the last pixel
    partly[4, :2] = (119.6, 70)
    partly[5, :2] = (-0.5, -0.5)
    partly[6, :2] = (50, -0.6)
    partly[7] = (50, 50, 0)
    moved = transform_keypoints(np.stack([inside, outside, partly]), identity, affine_matrix(identity, size), size)
    assert moved.shape == (2, 18, 3)
    assert moved.dtype == np.float32
    np.testing.assert_allclose(moved[0], inside, atol=1e-4)
    kept = moved[1][:, 2] > 0
    assert kept[[3, 5]].all()
    assert not kept[[4, 6, 7]].any()
    assert not moved[1][~kept].any()


def test_transforming_zero_people():
    identity = fit_whole_image((80, 120), (80, 120))
    no_people = np.zeros((0, 18, 3), dtype=np.float32)
    assert transform_keypoints(no_people, identity, affine_matrix(identity, (80, 120)), (80, 120)).shape == (0, 18, 3)


def test_the_given_keypoints_are_not_modified():
    keypoints = person(10, 10, 300, 300)[None]
    keypoints.flags.writeable = False
    flipped = Augmentation(scale=1.0, rotation=10.0, centre=(50.0, 50.0), flip=True)
    transform_keypoints(keypoints, flipped, affine_matrix(flipped, (80, 80)), (80, 80))


@pytest.mark.parametrize(
    ("image_size", "size"), [((480, 640), (368, 368)), ((640, 480), (192, 256)), ((31, 17), (64, 64))]
)
def test_fit_whole_image_maps_all_corners_inside(image_size, size):
    matrix = affine_matrix(fit_whole_image(image_size, size), size)
    height, width = image_size
    corners = np.array(
        [(-0.5, -0.5, 1), (width - 0.5, -0.5, 1), (-0.5, height - 0.5, 1), (width - 0.5, height - 0.5, 1)]
    )
    x, y = (corners @ matrix.T).T
    assert min(x.min(), y.min()) >= -0.5 - 1e-9
    assert x.max() <= size[1] - 0.5 + 1e-9
    assert y.max() <= size[0] - 0.5 + 1e-9
    assert np.isclose([x.max() - x.min(), y.max() - y.min()], size[::-1]).any()  # one side is filled


def test_for_size_scales_the_distribution_to_the_input():
    keypoints = person(100, 100, 80, 150)[None]
    half = AugmentConfig.for_size(184)
    for seed in range(20):
        full = sample_augmentation(np.random.default_rng(seed), keypoints, (480, 640), CONFIG)
        small = sample_augmentation(np.random.default_rng(seed), keypoints, (480, 640), half)
        np.testing.assert_allclose(small.centre, full.centre)
        assert small.scale == pytest.approx(full.scale / 2)


@pytest.mark.parametrize(
    "fields",
    [
        {"min_scale": 1.5},
        {"max_scale": 0.9},
        {"min_box": 600},
        {"flip": 1.5},
        {"hue": 100},
        {"rotation": -1},
        {"jitter": float("nan")},
        {"jitters": 3},
    ],
)
def test_config_rejects_invalid_values(fields):
    with pytest.raises(ValidationError):
        AugmentConfig(**fields)


def test_importing_augment_does_not_import_opencv():
    code = "import sys, pipeline.loading.augment; sys.exit('cv2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
