"""Targets rendered in NumPy, compared with the formulas evaluated cell by cell."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pipeline.loading.targets import TargetConfig, cell_centres, encode_maps
from pipeline.skeleton import KEYPOINT_INDEX, LIMB_INDICES, LIMBS, NUM_KEYPOINTS
from tests.support.people import random_people

SIZE = (40, 64)


def direct_heatmap(keypoints, channel, x, y, sigma):
    points = [person[channel] for person in keypoints if person[channel][2] > 0]
    return max((math.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * sigma**2)) for px, py, _ in points), default=0.0)


def direct_paf(keypoints, limb, x, y, width):
    """Return the mean of the unit vectors of all people whose limb covers the point."""
    vectors = []
    for person in keypoints:
        (ax, ay, av), (bx, by, bv) = (person[i].tolist() for i in LIMB_INDICES[limb])
        length = math.hypot(bx - ax, by - ay)
        if not (av > 0 and bv > 0 and length > 0):
            continue
        ux, uy = (bx - ax) / length, (by - ay) / length
        in_box = min(ax, bx) - width <= x <= max(ax, bx) + width and min(ay, by) - width <= y <= max(ay, by) + width
        if in_box and abs(ux * (y - ay) - uy * (x - ax)) <= width:
            vectors.append((ux, uy))
    return np.mean(vectors, axis=0) if vectors else np.zeros(2)


@pytest.mark.parametrize("count", [0, 1, 4])
@pytest.mark.parametrize("config", [TargetConfig(), TargetConfig(sigma=3, limb_width=5)])
def test_every_cell_agrees_with_the_formula(count, config):
    keypoints = random_people(count, SIZE, seed=count)
    maps = encode_maps(keypoints, SIZE, config)
    assert maps.heatmaps.dtype == maps.pafs.dtype == np.float32
    assert maps.grid == (5, 8)
    for row, column in np.ndindex(*maps.grid):
        x, y = 8 * column + 3.5, 8 * row + 3.5
        heat = [direct_heatmap(keypoints, channel, x, y, config.sigma) for channel in range(NUM_KEYPOINTS)]
        assert maps.heatmaps[:-1, row, column] == pytest.approx(heat, abs=1e-5)
        assert maps.heatmaps[-1, row, column] == pytest.approx(1 - max(heat), abs=1e-5)
        for limb in range(len(LIMBS)):
            expected = direct_paf(keypoints, limb, x, y, config.limb_width)
            assert maps.pafs[2 * limb : 2 * limb + 2, row, column] == pytest.approx(expected, abs=1e-5)


def test_zero_people_give_background_only():
    maps = encode_maps(random_people(0, SIZE), SIZE)
    assert (maps.heatmaps[-1] == 1).all()
    assert not maps.heatmaps[:-1].any()
    assert not maps.pafs.any()


def crossing_people():
    """Return two people whose neck-nose limbs cross at a right angle."""
    keypoints = np.zeros((2, NUM_KEYPOINTS, 3), np.float32)
    keypoints[0, [KEYPOINT_INDEX["neck"], KEYPOINT_INDEX["nose"]]] = [(3.5, 19.5, 2), (51.5, 19.5, 2)]
    keypoints[1, [KEYPOINT_INDEX["neck"], KEYPOINT_INDEX["nose"]]] = [(27.5, 3.5, 2), (27.5, 35.5, 1)]
    return keypoints


def test_limbs_are_averaged_only_where_they_overlap():
    limb = LIMBS.index(("neck", "nose"))
    pafs = encode_maps(crossing_people(), SIZE).pafs
    assert pafs[2 * limb : 2 * limb + 2, 2, 3].tolist() == [0.5, 0.5]
    assert pafs[2 * limb : 2 * limb + 2, 2, 0].tolist() == [1, 0]
    assert pafs[2 * limb : 2 * limb + 2, 0, 3].tolist() == [0, 1]
    others = np.delete(pafs, [2 * limb, 2 * limb + 1], axis=0)
    assert not others.any()


def test_limbs_of_zero_length_or_with_one_labelled_end_are_skipped():
    keypoints = crossing_people()
    keypoints[0, KEYPOINT_INDEX["nose"]] = keypoints[0, KEYPOINT_INDEX["neck"]]
    keypoints[1, KEYPOINT_INDEX["nose"], 2] = 0
    maps = encode_maps(keypoints, SIZE)
    assert not maps.pafs.any()
    assert np.isfinite(maps.heatmaps).all()


def test_a_keypoint_at_a_cell_centre_gives_one():
    keypoints = np.zeros((1, NUM_KEYPOINTS, 3), np.float32)
    keypoints[0, KEYPOINT_INDEX["nose"]] = (8 * 5 + 3.5, 8 * 2 + 3.5, 1)
    heatmaps = encode_maps(keypoints, SIZE).heatmaps
    assert heatmaps[KEYPOINT_INDEX["nose"], 2, 5] == 1
    assert heatmaps[-1, 2, 5] == 0


@pytest.mark.parametrize("size", [(41, 64), (40, 60)])
def test_sizes_that_are_no_multiples_of_the_stride_are_rejected(size):
    with pytest.raises(ValueError, match="expected multiples of the stride, 8 px"):
        encode_maps(random_people(1, SIZE), size)


@pytest.mark.parametrize("shape", [(18, 3), (2, 17, 3), (2, 18, 2)])
def test_keypoints_of_another_shape_are_rejected(shape):
    with pytest.raises(ValueError, match=r"expected \(P, 18, 3\)"):
        encode_maps(np.zeros(shape, np.float32), SIZE)


def test_cell_centres():
    assert cell_centres(24).tolist() == [3.5, 11.5, 19.5]
