"""Tests of scaling, padding and coordinate conversion."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.decoder.decode import DecodeConfig
from evaluation.decoder.person import Person
from evaluation.inference.letterbox import (
    CANVAS_MULTIPLE,
    DEFAULT_MAX_ASPECT,
    PADDING_GREY,
    apply_letterbox,
    choose_letterbox,
    crop_maps,
    people_to_image,
)
from evaluation.inference.predictor import decode_people
from pipeline.loading.targets import encode_maps
from pipeline.maps import NUM_HEATMAPS, NUM_PAFS, Maps
from tests.support.oracle import standing_person
from training.config import EvaluationConfig

SIDES = st.integers(1, 5000)


@settings(max_examples=200, deadline=None)
@given(height=SIDES, width=SIDES, size=st.integers(64, 800))
def test_scaled_image_fits_its_canvas_and_the_limits(height, width, size):
    letterbox = choose_letterbox((height, width), size)
    for side, scaled in zip(letterbox.canvas, letterbox.scaled_size, strict=True):
        assert side % CANVAS_MULTIPLE == 0
        assert scaled <= side < scaled + CANVAS_MULTIPLE
    assert min(letterbox.scaled_size) >= 1
    assert max(letterbox.scaled_size) <= DEFAULT_MAX_ASPECT * size
    if max(height, width) <= DEFAULT_MAX_ASPECT * min(height, width):
        assert min(letterbox.scaled_size) == size


def test_longer_shapes_keep_their_scale_with_a_larger_aspect():
    assert choose_letterbox((100, 1000), 368).scaled_size == (74, 736)
    assert choose_letterbox((100, 1000), 368, max_aspect=10).scaled_size == (368, 3680)
    assert choose_letterbox((1000, 100), 368, max_aspect=5).scaled_size == (1840, 184)
    assert EvaluationConfig().max_aspect == DEFAULT_MAX_ASPECT


@settings(max_examples=200, deadline=None)
@given(height=SIDES, width=SIDES, size=st.integers(64, 800), x=st.floats(-0.5, 0.5), y=st.floats(-0.5, 0.5))
def test_coordinate_round_trip(height, width, size, x, y):
    points = np.array([[(x + 0.5) * width - 0.5, (y + 0.5) * height - 0.5]], np.float32)
    letterbox = choose_letterbox((height, width), size)
    moved = letterbox.to_canvas(points)
    assert np.allclose(
        letterbox.to_image(moved), points, atol=2e-6 * max(height, width) / min(letterbox.scale.min(), 1)
    )
    assert (moved >= -0.501).all()
    assert (moved <= np.array(letterbox.scaled_size)[::-1] - 0.499).all()


@pytest.mark.parametrize(
    ("picture", "scaled", "canvas"),
    [
        ((480, 640), (368, 491), (384, 512)),
        ((640, 480), (491, 368), (512, 384)),
        ((192, 192), (368, 368), (384, 384)),
        ((300, 1200), (184, 736), (192, 768)),
        ((368, 736), (368, 736), (384, 768)),
        ((1, 4000), (1, 736), (64, 768)),
    ],
)
def test_sizes_of_the_reference(picture, scaled, canvas):
    letterbox = choose_letterbox(picture, 368)
    assert (letterbox.scaled_size, letterbox.canvas) == (scaled, canvas)


@pytest.mark.parametrize(
    ("picture", "scaled"), [((480, 640), (368, 491)), ((640, 480), (368, 276)), ((100, 900), (55, 496))]
)
def test_images_are_shrunk_to_fit_a_fixed_canvas(picture, scaled):
    canvas = (368, 496)
    letterbox = choose_letterbox(picture, 368, canvas)
    assert (letterbox.scaled_size, letterbox.canvas) == (scaled, canvas)
    assert choose_letterbox(picture, 64, canvas).scaled_size == choose_letterbox(picture, 64).scaled_size


def test_common_image_sizes_share_few_canvases():
    canvases = {choose_letterbox((side, 640), 368).canvas for side in range(320, 641)}
    assert len(canvases) <= 7


def test_image_edges_map_to_edges_of_the_scaled_image():
    letterbox = choose_letterbox((100, 250), 64)
    corners = np.array([[-0.5, -0.5], [249.5, 99.5]], np.float32)
    assert np.allclose(
        letterbox.to_canvas(corners), [[-0.5, -0.5], [letterbox.scaled_size[1] - 0.5, letterbox.scaled_size[0] - 0.5]]
    )


@pytest.mark.parametrize("picture", [(97, 143), (143, 97), (600, 410), (300, 900)])
def test_pixels_move_with_their_coordinates(picture):
    """A blurred dot at a sub-pixel position is scaled to the position that `to_canvas` returns."""
    height, width = picture
    centre = np.array([0.613 * width, 0.377 * height], np.float32)
    spread = min(picture) / 25
    ys, xs = np.mgrid[:height, :width]
    dot = 255 * np.exp(-((xs - centre[0]) ** 2 + (ys - centre[1]) ** 2) / (2 * spread**2))
    letterbox = choose_letterbox(picture, 192)
    placed = apply_letterbox(np.repeat(dot[..., None], 3, axis=2).round().astype(np.uint8), letterbox)
    seen = placed[: letterbox.scaled_size[0], : letterbox.scaled_size[1], 1].astype(float)
    ys, xs = np.mgrid[: letterbox.scaled_size[0], : letterbox.scaled_size[1]]
    found = np.array([(seen * xs).sum(), (seen * ys).sum()]) / seen.sum()
    assert np.abs(found - letterbox.to_canvas(centre)).max() < 0.03


def test_padding_is_grey():
    image = np.full((50, 110, 3), 7, np.uint8)
    letterbox = choose_letterbox((50, 110), 100)
    placed = apply_letterbox(image, letterbox)
    inside = np.zeros(letterbox.canvas, bool)
    inside[: letterbox.scaled_size[0], : letterbox.scaled_size[1]] = True
    assert placed.shape == (*letterbox.canvas, 3)
    assert (placed[inside] == 7).all()
    assert (placed[~inside] == PADDING_GREY).all()


def test_image_of_the_target_size_is_not_resampled():
    image = np.random.default_rng(0).integers(0, 256, (64, 100, 3), np.uint8)
    assert (apply_letterbox(image, choose_letterbox((64, 100), 64))[:64, :100] == image).all()


def test_shrinking_averages_fine_patterns():
    image = np.zeros((640, 640, 3), np.uint8)
    image[::2] = 200
    placed = apply_letterbox(image, choose_letterbox((640, 640), 64))
    assert np.ptp(placed[:64, :64].astype(int)) <= 2
    assert abs(int(placed[30, 30, 0]) - 100) <= 1


def test_image_of_another_size_is_an_error():
    with pytest.raises(ValueError, match=r"shape \(10, 20, 3\), expected \(20, 10, 3\)"):
        apply_letterbox(np.zeros((10, 20, 3), np.uint8), choose_letterbox((20, 10), 64))


def test_crop_keeps_all_cells_that_overlap_the_image():
    letterbox = choose_letterbox((65, 130), 65)
    assert (letterbox.scaled_size, letterbox.canvas) == ((65, 130), (128, 192))
    maps = Maps(np.zeros((NUM_HEATMAPS, 16, 24), np.float32), np.ones((NUM_PAFS, 16, 24), np.float32))
    assert crop_maps(maps, letterbox).grid == (9, 17)


def test_people_in_the_padding_are_not_detected():
    letterbox = choose_letterbox((70, 128), 70)
    assert letterbox.canvas == (128, 128)
    canvas = encode_maps(standing_person(64, 112, 30)[None], letterbox.canvas)
    assert crop_maps(canvas, letterbox).grid == (9, 16)
    assert decode_people(crop_maps(canvas, letterbox), letterbox, DecodeConfig()) == []


def test_keypoints_that_were_not_found_stay_zero():
    keypoints = standing_person(100, 90, 80)
    keypoints[[3, 7]] = 0
    letterbox = choose_letterbox((600, 900), 192)
    (moved,) = people_to_image([Person(keypoints, 0.5)], letterbox)
    assert (moved.keypoints[[3, 7]] == 0).all()
    assert (moved.found == (keypoints[:, 2] > 0)).all()
    assert moved.score == 0.5
    assert np.allclose(moved.keypoints[0, :2], letterbox.to_image(keypoints[0, :2]))


@pytest.mark.parametrize("picture", [(480, 640), (700, 500), (120, 90), (60, 200), (1500, 1000)])
def test_people_are_returned_in_pixels_of_the_image(picture):
    height, width = picture
    true = standing_person(0.45 * width, 0.5 * height, 0.85 * height)[None]
    letterbox = choose_letterbox(picture, 368)
    moved = true.copy()
    moved[..., :2] = letterbox.to_canvas(true[..., :2])
    (person,) = decode_people(crop_maps(encode_maps(moved, letterbox.canvas), letterbox), letterbox, DecodeConfig())
    assert person.found.all()
    assert np.abs(person.keypoints[:, :2] - true[0, :, :2]).max() * letterbox.scale.max() < 0.5
