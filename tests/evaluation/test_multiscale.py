"""Tests of multi-scale averaging: keypoints keep their sub-pixel positions."""

from __future__ import annotations

import numpy as np
import pytest

from evaluation.inference.letterbox import choose_letterbox
from evaluation.inference.multiscale import average_scales, cubic_weights
from evaluation.inference.predictor import Predictor
from pipeline.errors import InputError
from pipeline.maps import NUM_HEATMAPS, NUM_PAFS, Maps
from tests.support.oracle import OracleNetwork, plain_image, standing_person
from training.config import Config, EvaluationConfig
from training.recipes import override_config

SIZE = 192
SCALES = [(1.0,), (0.5,), (2.0,), (0.5, 1.0), (1.0, 1.5), (1.0, 0.9), (2.0, 0.5, 1.0, 1.5)]
SHAPES = [(200, 300), (300, 200), (90, 120), (601, 907), (199, 200)]


@pytest.mark.parametrize("scales", SCALES, ids=str)
def test_people_are_found_with_subpixel_accuracy(scales):
    known = {
        10 + 12 * i: (size, standing_person(0.45 * size[1], 0.5 * size[0], 0.8 * size[0])[None])
        for i, size in enumerate(SHAPES)
    }
    oracle = OracleNetwork(known, SIZE, scales)
    predictor = Predictor(oracle, EvaluationConfig(size=SIZE, batch_size=2, scales=scales))
    found = predictor.predict_people([plain_image(colour, size) for colour, (size, _) in known.items()])
    shifts = []
    for (person,), (size, true) in zip(found, known.values(), strict=True):
        assert person.found.all()
        errors = (person.keypoints - true[0])[:, :2] * choose_letterbox(size, SIZE).scale
        assert np.abs(errors).max() < 0.5, "in px of the canvas at scale 1, where a cell has 8 px"
        shifts.append(errors.mean(axis=0))
    assert np.abs(np.mean(shifts, axis=0)).max() < 0.1, "systematic shift of all keypoints"


def test_each_scale_has_its_canvases_and_all_batches_are_full():
    known = {10 + 12 * i: (size, standing_person(50, 50, 60)[None][:0]) for i, size in enumerate(SHAPES)}
    oracle = OracleNetwork(known, SIZE, (0.5, 1.0))
    predictor = Predictor(oracle, EvaluationConfig(size=SIZE, batch_size=3, scales=(0.5, 1.0)))
    assert len(
        predictor.predict_people([plain_image(colour, size) for colour, (size, _) in known.items()] * 2)
    ) == 2 * len(SHAPES)
    assert predictor.canvases == {
        choose_letterbox(size, SIZE * scale).canvas for size in SHAPES for scale in (0.5, 1.0)
    }
    assert {shape[0] for shape in oracle.batches} == {3}


def constant(letterbox, value):
    height, width = (side // 8 for side in letterbox.canvas)
    return Maps(
        np.full((NUM_HEATMAPS, height, width), value, np.float32),
        np.full((NUM_PAFS, height, width), -value, np.float32),
    )


def test_scales_have_equal_weights_on_the_grid_of_the_largest():
    letterboxes = [choose_letterbox((150, 260), SIZE * scale) for scale in (1.0, 0.5, 1.7)]
    maps, letterbox = average_scales(
        [constant(letterbox, value) for letterbox, value in zip(letterboxes, (0.3, 0.6, 0.0), strict=True)], letterboxes
    )
    assert letterbox == letterboxes[2]
    assert maps.grid == tuple(-(-side // 8) for side in letterbox.scaled_size)
    assert np.allclose(maps.heatmaps, 0.3)
    assert np.allclose(maps.pafs, -0.3)


def test_averaging_does_not_modify_its_inputs():
    letterboxes = [choose_letterbox((150, 260), SIZE * scale) for scale in (1.0, 0.5)]
    given = [constant(letterbox, 0.5) for letterbox in letterboxes]
    average_scales(given, letterboxes)
    assert all((one.heatmaps == 0.5).all() and (one.pafs == -0.5).all() for one in given)


@pytest.mark.parametrize(("source", "target", "ratio"), [(20, 40, 0.5), (20, 33, 0.6), (9, 9, 1.0), (30, 20, 1.4)])
def test_interpolation_is_exact_for_parabolas_and_weights_sum_to_one(source, target, ratio):
    weights = cubic_weights(source, target, ratio)
    assert (weights.shape, weights.dtype) == ((target, source), np.float32)
    assert np.allclose(weights.sum(axis=1), 1, atol=1e-6)
    centres = ratio * (np.arange(target) + 0.5) - 0.5
    inside = (centres >= 1) & (centres <= source - 2)
    assert inside.sum() > target / 2
    parabola = [0.3 * x * x - 2 * x + 1 for x in (np.arange(source), centres)]
    assert np.abs((weights @ parabola[0] - parabola[1])[inside]).max() < 1e-3
    if ratio == 1:
        assert (weights == np.eye(source)).all()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("[0.05]", "different factors from 0.1 to 4.0"),
        ("[1, 5]", "different factors"),
        ("[1, 1]", "different factors"),
        ("[]", "at least 1 item"),
        ("[1, x]", "evaluation.scales.1: 'x'"),
        ("1", "valid tuple"),
        ("[.nan]", "finite"),
    ],
)
def test_invalid_scales_are_an_error(value, message):
    with pytest.raises(InputError, match=message):
        override_config(Config(), [f"evaluation.scales={value}"])


def test_scales_are_read_from_the_command_line():
    assert override_config(Config(), ["evaluation.scales=[0.5, 1, 1.5,2]"]).evaluation.scales == (0.5, 1.0, 1.5, 2.0)
