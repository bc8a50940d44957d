"""Scaling, padding and the way back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.decoder.decode import DecodeConfig
from evaluation.decoder.person import Person
from evaluation.inference.letterbox import BLOCK, GREY, LONGEST, cut, fit_size, people_to_picture, place
from evaluation.inference.predictor import read_people
from pipeline.loading.targets import encode_maps
from pipeline.maps import NUM_HEATMAPS, NUM_PAFS, Maps
from tests.support.oracle import figure

SIDES = st.integers(1, 5000)


@settings(max_examples=200, deadline=None)
@given(height=SIDES, width=SIDES, size=st.integers(64, 800))
def test_the_scaled_picture_fits_its_canvas_and_the_limits(height, width, size):
    fit = fit_size((height, width), size)
    for side, scaled in zip(fit.canvas, fit.scaled, strict=True):
        assert side % BLOCK == 0
        assert scaled <= side < scaled + BLOCK
    assert min(fit.scaled) >= 1
    assert max(fit.scaled) <= LONGEST * size
    if max(height, width) <= LONGEST * min(height, width):
        assert min(fit.scaled) == size


@settings(max_examples=200, deadline=None)
@given(height=SIDES, width=SIDES, size=st.integers(64, 800), x=st.floats(-0.5, 0.5), y=st.floats(-0.5, 0.5))
def test_coordinates_come_back(height, width, size, x, y):
    points = np.array([[(x + 0.5) * width - 0.5, (y + 0.5) * height - 0.5]], np.float32)
    fit = fit_size((height, width), size)
    moved = fit.to_canvas(points)
    assert np.allclose(fit.to_picture(moved), points, atol=2e-6 * max(height, width) / min(fit.scale.min(), 1))
    assert (moved >= -0.501).all()
    assert (moved <= np.array(fit.scaled)[::-1] - 0.499).all()


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
    fit = fit_size(picture, 368)
    assert (fit.scaled, fit.canvas) == (scaled, canvas)


@pytest.mark.parametrize(
    ("picture", "scaled"), [((480, 640), (368, 491)), ((640, 480), (368, 276)), ((100, 900), (55, 496))]
)
def test_on_the_only_canvas_that_there_is_pictures_are_smaller_where_they_must(picture, scaled):
    canvas = (368, 496)
    fit = fit_size(picture, 368, canvas)
    assert (fit.scaled, fit.canvas) == (scaled, canvas)
    assert fit_size(picture, 64, canvas).scaled == fit_size(picture, 64).scaled


def test_ordinary_pictures_share_few_canvases():
    canvases = {fit_size((side, 640), 368).canvas for side in range(320, 641)}
    assert len(canvases) <= 7


def test_edges_go_to_edges():
    fit = fit_size((100, 250), 64)
    corners = np.array([[-0.5, -0.5], [249.5, 99.5]], np.float32)
    assert np.allclose(fit.to_canvas(corners), [[-0.5, -0.5], [fit.scaled[1] - 0.5, fit.scaled[0] - 0.5]])


@pytest.mark.parametrize("picture", [(97, 143), (143, 97), (600, 410), (300, 900)])
def test_pixels_move_with_their_coordinates(picture):
    """A soft dot at a fraction of a pixel is found where `to_canvas` says, grown or shrunk."""
    height, width = picture
    centre = np.array([0.613 * width, 0.377 * height], np.float32)
    spread = min(picture) / 25
    ys, xs = np.mgrid[:height, :width]
    dot = 255 * np.exp(-((xs - centre[0]) ** 2 + (ys - centre[1]) ** 2) / (2 * spread**2))
    fit = fit_size(picture, 192)
    placed = place(np.repeat(dot[..., None], 3, axis=2).round().astype(np.uint8), fit)
    seen = placed[: fit.scaled[0], : fit.scaled[1], 1].astype(float)
    ys, xs = np.mgrid[: fit.scaled[0], : fit.scaled[1]]
    found = np.array([(seen * xs).sum(), (seen * ys).sum()]) / seen.sum()
    assert np.abs(found - fit.to_canvas(centre)).max() < 0.03


def test_the_rest_of_the_canvas_is_grey():
    image = np.full((50, 110, 3), 7, np.uint8)
    fit = fit_size((50, 110), 100)
    placed = place(image, fit)
    inside = np.zeros(fit.canvas, bool)
    inside[: fit.scaled[0], : fit.scaled[1]] = True
    assert placed.shape == (*fit.canvas, 3)
    assert (placed[inside] == 7).all()
    assert (placed[~inside] == GREY).all()


def test_a_picture_of_the_right_size_is_not_changed():
    image = np.random.default_rng(0).integers(0, 256, (64, 100, 3), np.uint8)
    assert (place(image, fit_size((64, 100), 64))[:64, :100] == image).all()


def test_fine_patterns_are_averaged_when_shrunk():
    image = np.zeros((640, 640, 3), np.uint8)
    image[::2] = 200
    placed = place(image, fit_size((640, 640), 64))
    assert np.ptp(placed[:64, :64].astype(int)) <= 2
    assert abs(int(placed[30, 30, 0]) - 100) <= 1


def test_a_picture_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"shape \(10, 20, 3\), expected \(20, 10, 3\)"):
        place(np.zeros((10, 20, 3), np.uint8), fit_size((20, 10), 64))


def test_cut_keeps_every_cell_that_shows_some_of_the_picture():
    fit = fit_size((65, 130), 65)
    assert (fit.scaled, fit.canvas) == ((65, 130), (128, 192))
    maps = Maps(np.zeros((NUM_HEATMAPS, 16, 24), np.float32), np.ones((NUM_PAFS, 16, 24), np.float32))
    assert cut(maps, fit).grid == (9, 17)


def test_what_is_seen_in_the_padding_is_nobody():
    fit = fit_size((70, 128), 70)
    assert fit.canvas == (128, 128)
    canvas = encode_maps(figure(64, 112, 30)[None], fit.canvas)
    assert cut(canvas, fit).grid == (9, 16)
    assert read_people(cut(canvas, fit), fit, DecodeConfig()) == []


def test_keypoints_that_were_not_found_stay_nothing():
    keypoints = figure(100, 90, 80)
    keypoints[[3, 7]] = 0
    fit = fit_size((600, 900), 192)
    (moved,) = people_to_picture([Person(keypoints, 0.5)], fit)
    assert (moved.keypoints[[3, 7]] == 0).all()
    assert (moved.found == (keypoints[:, 2] > 0)).all()
    assert moved.score == 0.5
    assert np.allclose(moved.keypoints[0, :2], fit.to_picture(keypoints[0, :2]))


@pytest.mark.parametrize("picture", [(480, 640), (700, 500), (120, 90), (60, 200), (1500, 1000)])
def test_people_come_back_in_pixels_of_the_picture(picture):
    height, width = picture
    true = figure(0.45 * width, 0.5 * height, 0.85 * height)[None]
    fit = fit_size(picture, 368)
    moved = true.copy()
    moved[..., :2] = fit.to_canvas(true[..., :2])
    (person,) = read_people(cut(encode_maps(moved, fit.canvas), fit), fit, DecodeConfig())
    assert person.found.all()
    assert np.abs(person.keypoints[:, :2] - true[0, :, :2]).max() * fit.scale.max() < 0.5
