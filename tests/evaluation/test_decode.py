from __future__ import annotations

import gc
from typing import Any

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.decoder.decode import DecodeConfig, decode, person_scores
from pipeline.errors import InputError
from pipeline.loading.targets import TargetConfig, encode_maps
from pipeline.maps import NUM_HEATMAPS, NUM_PAFS, STRIDE, Maps
from pipeline.skeleton import FLIP_KEYPOINTS, KEYPOINT_INDEX, NUM_KEYPOINTS
from tests.benchmarks.decoding import crowd_maps, measure_decoding
from tests.support.people import (
    NO_JITTER,
    SIZE,
    Floats,
    assert_same_people,
    empty_maps,
    flip_maps,
    people_in_columns,
    stack_people,
    standing_person,
)

KEEP_ALL = DecodeConfig(min_keypoints=1, min_score=0)


@settings(max_examples=30, deadline=None)
@given(people_in_columns())
def test_decoding_encoded_people_restores_them(people: Floats) -> None:
    found = decode(encode_maps(people, SIZE))
    assert_same_people(found, people, within=0.05)
    # the interpolated height is that of the Gaussian, 1
    np.testing.assert_allclose(stack_people(found)[..., 2], 1, atol=0.01)
    assert [person.score for person in found] == pytest.approx([1.0] * len(people), abs=0.02)
    assert all(person.keypoints.dtype == np.float32 for person in found)


@settings(max_examples=15, deadline=None)
@given(people_in_columns(), st.randoms(use_true_random=False))
def test_order_of_the_people_does_not_matter(people: Floats, random: Any) -> None:
    order = list(range(len(people)))
    random.shuffle(order)
    original, shuffled = (stack_people(decode(encode_maps(each, SIZE))) for each in (people, people[order]))
    np.testing.assert_allclose(original, shuffled, atol=1e-3)


@settings(max_examples=15, deadline=None)
@given(people_in_columns())
def test_flipping_the_maps_flips_the_people(people: Floats) -> None:
    maps = encode_maps(people, SIZE)
    mirrored = stack_people(decode(flip_maps(maps)))[:, FLIP_KEYPOINTS]
    mirrored[..., 0] = SIZE[1] - 1 - mirrored[..., 0]
    original = stack_people(decode(maps))
    np.testing.assert_allclose(mirrored[::-1], original, atol=1e-3)


@settings(max_examples=15, deadline=None)
@given(people_in_columns(most=2), st.integers(-2, 2), st.integers(-1, 2))
def test_shifting_the_maps_by_cells_shifts_the_people_by_strides(people: Floats, right: int, down: int) -> None:
    exact = encode_maps(people, SIZE)
    # empty cells around them, so that nothing is moved from one edge to the other
    maps = Maps(*(np.pad(a, ((0, 0), (2, 2), (2, 2))) for a in (exact.heatmaps, exact.pafs)))
    moved = Maps(
        np.roll(maps.heatmaps, (down, right), axis=(1, 2)), np.roll(maps.pafs, (down, right), axis=(1, 2)), STRIDE
    )
    expected = stack_people(decode(maps))
    expected[..., :2] += np.float32([right * STRIDE, down * STRIDE])
    np.testing.assert_allclose(stack_people(decode(moved)), expected, atol=1e-3)


@settings(max_examples=15, deadline=None)
@given(people_in_columns(), st.integers(0, 1000), st.floats(0.0, 0.02))
def test_noise_below_the_threshold_adds_no_people(people: Floats, seed: int, noise: float) -> None:
    rng = np.random.default_rng(seed)
    maps = encode_maps(people, SIZE)
    noisy = Maps(
        maps.heatmaps + rng.uniform(-noise, noise, maps.heatmaps.shape).astype(np.float32),
        maps.pafs + rng.uniform(-noise, noise, maps.pafs.shape).astype(np.float32),
    )
    assert_same_people(decode(noisy), people, within=2.0)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 2**32 - 1), st.sampled_from([1e-30, 0.3, 5.0, 1e20, 3e38]), st.integers(0, 12), st.integers(0, 12)
)
def test_finite_maps_never_raise(seed: int, size: float, height: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    # few distinct values cause many plateaus and ties
    heatmaps, pafs = (
        (rng.integers(-2, 3, (channels, height, width)) * (size / 2)).astype(np.float32)
        for channels in (NUM_HEATMAPS, NUM_PAFS)
    )
    for person in decode(Maps(heatmaps, pafs), DecodeConfig(min_score=0, max_peaks=20)):
        assert np.isfinite(person.keypoints[:, :2]).all()
        assert (person.keypoints[:, :2] >= -0.5).all()
        assert (person.keypoints[:, 0] <= width * STRIDE).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["heatmaps", "pafs"])
def test_error_for_nonfinite_maps_has_their_name_and_number(name: str, value: float) -> None:
    maps = empty_maps()
    getattr(maps, name)[3, 4:6, 7] = value
    with pytest.raises(ValueError, match=rf"Maps\.{name}: 2 of \d+ values are NaN or infinite"):
        decode(maps)


@pytest.mark.parametrize("grid", [(46, 57), (1, 1), (0, 0)])
def test_empty_maps_contain_no_people(grid: tuple[int, int]) -> None:
    assert decode(empty_maps(*grid), KEEP_ALL) == []


def test_a_plateau_is_one_peak() -> None:
    maps = empty_maps()
    maps.heatmaps[KEYPOINT_INDEX["nose"], 5:8, 10:14] = 0.5
    (person,) = decode(maps, KEEP_ALL)
    assert person.found.nonzero()[0].tolist() == [KEYPOINT_INDEX["nose"]]
    assert 10 <= (person.keypoints[KEYPOINT_INDEX["nose"], 0] - 3.5) / STRIDE <= 14


@pytest.mark.parametrize("name", ["left_ankle", "neck"])
@pytest.mark.parametrize("height", [1.0, 0.25])
def test_single_keypoint_is_a_person_only_with_a_high_score_or_low_thresholds(name: str, height: float) -> None:
    people = np.zeros((1, NUM_KEYPOINTS, 3), dtype=np.float32)
    people[0, KEYPOINT_INDEX[name]] = (101.3, 57.9, 1)
    maps = encode_maps(people, SIZE)
    maps.heatmaps[:-1] *= height
    assert len(decode(maps)) == (height == 1)
    assert decode(maps, DecodeConfig(min_keypoints=2)) == []
    (person,) = decode(maps, KEEP_ALL)
    expected = people[0] * np.float32([1, 1, height])
    np.testing.assert_allclose(person.keypoints, expected, atol=0.01)
    # a mean of 2 + 10 numbers, of which 10 are 0; the factor gives a complete person a score of 1
    assert person.score == pytest.approx(height / 12 * 46 / 37, abs=1e-3)


@pytest.mark.parametrize("sigma", [7.0, 10.0])
@pytest.mark.parametrize("x", [0.0, 2.2, 3.5, 396.1, 399.0])
@pytest.mark.parametrize("y", [0.0, 120.7, 255.0])
def test_peaks_at_edges_are_exact_and_in_corners_approximate(x: float, y: float, sigma: float) -> None:
    people = np.zeros((1, NUM_KEYPOINTS, 3), dtype=np.float32)
    people[0, KEYPOINT_INDEX["nose"]] = (x, y, 2)
    (person,) = decode(encode_maps(people, SIZE, TargetConfig(sigma=sigma)), KEEP_ALL)
    in_corner = y != 120.7
    # in a corner cell the width cannot be measured and is assumed to be that of sigma 7: else up to half a cell off
    within = 0.05 if not in_corner or sigma == 7 else 4.0
    np.testing.assert_allclose(person.keypoints[KEYPOINT_INDEX["nose"], :2], (x, y), atol=within)


def test_people_below_the_minimum_score_are_left_out() -> None:
    people = np.zeros((2, NUM_KEYPOINTS, 3), dtype=np.float32)
    people[0] = standing_person(100, 30, 180, NO_JITTER)
    people[1, [KEYPOINT_INDEX[name] for name in ("left_hip", "left_knee", "left_ankle")]] = [
        (300, 60, 2),
        (303, 120, 2),
        (301, 180, 2),
    ]
    maps = encode_maps(people, SIZE)
    # the leg has 3 keypoints and 2 limbs, whose scores are added and divided by 6 + 10 instead of 36 + 10
    assert [person.score for person in decode(maps)] == pytest.approx([1, 5 / 16 * 46 / 37], abs=0.02)
    assert [person.score for person in decode(maps, DecodeConfig(min_score=0.5))] == pytest.approx([1], abs=0.02)


def low_broad_maps(people: Floats, height: float) -> Maps:
    """Return maps like those of a network that is not sure: peaks of 1.4 times the width and low fields."""
    exact = encode_maps(people, SIZE, TargetConfig(sigma=10))
    heatmaps = exact.heatmaps * np.float32(height)
    heatmaps[-1] = 1 - heatmaps[:-1].max(axis=0)
    return Maps(heatmaps, exact.pafs * np.float32(0.2))


def test_low_peaks_are_found_where_limbs_connect_them_to_a_higher_one() -> None:
    person = standing_person(200, 30, 180, NO_JITTER)[None]
    maps = low_broad_maps(person, 0.03)
    assert decode(maps, KEEP_ALL) == []
    maps.heatmaps[KEYPOINT_INDEX["neck"]] *= 3
    (found,) = decode(maps, KEEP_ALL)
    np.testing.assert_allclose(found.keypoints[:, :2], person[0, :, :2], atol=1.5)
    (alone,) = decode(Maps(maps.heatmaps, np.zeros_like(maps.pafs)), KEEP_ALL)
    assert np.flatnonzero(alone.found).tolist() == [KEYPOINT_INDEX["neck"]]
    (without,) = decode(maps, DecodeConfig(min_score=0, weak_peak_threshold=1))
    assert np.flatnonzero(without.found).tolist() == [KEYPOINT_INDEX["neck"]]


def test_a_low_peak_in_the_background_does_not_become_a_person() -> None:
    people = np.stack([standing_person(100, 30, 180, NO_JITTER), standing_person(300, 30, 180, NO_JITTER)])
    sure, unsure = (encode_maps(people[i : i + 1], SIZE) for i in range(2))
    maps = Maps(np.maximum(sure.heatmaps, 0.04 * unsure.heatmaps), sure.pafs + 0.2 * unsure.pafs)
    assert_same_people(decode(maps, KEEP_ALL), people[:1], within=0.1)


def scored_person(number: int, height: float) -> tuple[Floats, float]:
    """Return keypoints (18, 3) of one height and the sum of the scores of their limbs, as many less one."""
    keypoints = np.zeros((NUM_KEYPOINTS, 3), dtype=np.float32)
    keypoints[:number] = (1, 1, height)
    return keypoints, height * (number - 1)


def test_the_score_ranks_people_by_their_mean_and_fragments_low() -> None:
    people = {"fragment": (2, 0.6), "cut off": (8, 0.5), "uncertain": (18, 0.3)}
    keypoints, limb_sums = zip(*(scored_person(*person) for person in people.values()), strict=True)

    def ranking(prior: float) -> list[str]:
        scores = person_scores(np.stack(keypoints), np.float32(limb_sums), prior)
        return [list(people)[i] for i in np.argsort(-scores)]

    assert ranking(0) == ["cut off", "fragment", "uncertain"]
    assert ranking(DecodeConfig().score_prior) == ["cut off", "uncertain", "fragment"]
    assert ranking(1e6) == ["uncertain", "cut off", "fragment"]


def test_a_large_prior_gives_the_score_of_the_openpose_library() -> None:
    keypoints, limb_sum = scored_person(5, 0.4)
    (score,) = person_scores(keypoints[None], np.float32([limb_sum]), 1e6)
    assert score == pytest.approx((5 * 0.4 + 4 * 0.4) / (18 + 19), rel=1e-4)


def test_identical_people_are_decoded_as_one() -> None:
    person = standing_person(200, 30, 180, NO_JITTER)[None]
    assert_same_people(decode(encode_maps(np.concatenate([person, person]), SIZE)), person, within=0.05)


def test_only_the_highest_peaks_of_each_kind_are_candidates() -> None:
    maps = empty_maps()
    for x, height in ((3, 0.3), (9, 0.9), (15, 0.5), (21, 0.7)):
        maps.heatmaps[KEYPOINT_INDEX["nose"], 10, x] = height
        maps.heatmaps[KEYPOINT_INDEX["neck"], 4, x] = height / 2
    people = decode(maps, DecodeConfig(min_score=0, max_peaks=2))
    cells = [(np.flatnonzero(p.found)[0], round((p.keypoints[p.found][0, 0] - 3.5) / STRIDE)) for p in people]
    assert cells == [
        (KEYPOINT_INDEX["nose"], 9),
        (KEYPOINT_INDEX["nose"], 21),
        (KEYPOINT_INDEX["neck"], 9),
        (KEYPOINT_INDEX["neck"], 21),
    ]


def test_smoothing_reduces_errors_in_strong_noise() -> None:
    rng = np.random.default_rng(3)
    people = standing_person(200, 30, 180, NO_JITTER)[None]
    maps = encode_maps(people, SIZE)
    errors: dict[float, list[float]] = {0.0: [], 0.7: []}
    counts = dict.fromkeys(errors, 0)
    for _ in range(10):
        noisy = Maps(
            0.4 * maps.heatmaps + rng.normal(0, 0.05, maps.heatmaps.shape).astype(np.float32),
            0.4 * maps.pafs + rng.normal(0, 0.05, maps.pafs.shape).astype(np.float32),
        )
        for sigma in errors:
            found = decode(noisy, DecodeConfig(smooth=sigma))
            counts[sigma] += len(found)
            keypoints = found[0].keypoints
            distance = np.linalg.norm(keypoints[:, :2] - people[0, :, :2], axis=1)
            errors[sigma] += np.where(keypoints[:, 2] > 0, np.minimum(distance, 50), 50).tolist()
    assert np.median(errors[0.7]) < 0.95 * np.median(errors[0.0])
    assert counts[0.0] <= 12  # hardly any false people; smoothed noise is not white, and its level is underestimated


@pytest.mark.parametrize(
    ("field", "value"),
    [("peak_threshold", 1.5), ("limb_samples", 1), ("min_keypoints", 19), ("near", -1.0), ("smooth", float("nan"))],
)
def test_error_for_settings_out_of_range_has_the_range(field: str, value: float) -> None:
    with pytest.raises(InputError, match=rf"DecodeConfig\.{field}: {value}, expected [\d.]+ to [\d.]+"):
        DecodeConfig(**{field: value})  # type: ignore[arg-type]


def test_noise_is_seen_through_where_it_is_a_tenth_of_the_peaks() -> None:
    rng = np.random.default_rng(5)
    people = np.stack([standing_person(100, 30, 180, NO_JITTER), standing_person(300, 30, 180, NO_JITTER)])
    maps = encode_maps(people, SIZE)
    for _ in range(10):
        noisy = Maps(*(a + rng.normal(0, 0.06, a.shape).astype(np.float32) for a in (maps.heatmaps, maps.pafs)))
        found = [person for person in decode(noisy) if np.count_nonzero(person.found) > 15]
        assert_same_people(found, people, within=5.0)


def test_decoding_again_and_again_takes_no_more_memory() -> None:
    """A kilobyte lost at each call would be 1 MB here."""
    maps = [crowd_maps(number, 0, noise=0.02) for number in (1, 6, 12)]
    process = psutil.Process()

    def grown(calls: int) -> int:
        before = process.memory_info().rss
        for i in range(calls):
            decode(maps[i % len(maps)])
        gc.collect()
        return int(process.memory_info().rss - before)

    grown(150)
    assert min(grown(1000), grown(1000)) < 2**19


def test_benchmark_measures_every_kind_of_maps() -> None:
    rows = measure_decoding(repeats=1, layouts=2)
    assert all(0 < row["median_ms"] <= row["max_ms"] for row in rows.values())
    assert rows["1_person"]["people"] >= 1
    assert rows["30_people"]["people"] >= 25
    assert rows["like_a_network"]["people"] >= 1
    assert rows["white_noise"]["people"] < 2


@pytest.mark.parametrize("offset", [(0.0, 0.0), (4.0, 0.0), (4.0, 4.0), (1.3, 2.9)])
def test_the_threshold_means_the_same_height_wherever_a_peak_lies_between_the_cells(
    offset: tuple[float, float],
) -> None:
    people = np.zeros((1, NUM_KEYPOINTS, 3), dtype=np.float32)
    people[0, KEYPOINT_INDEX["nose"]] = (99.5 + offset[0], 59.5 + offset[1], 2)  # (0, 0) is the centre of a cell
    maps = encode_maps(people, SIZE)
    for height, number in ((0.21, 1), (0.19, 0)):
        lower = Maps(maps.heatmaps * np.float32(height), maps.pafs)
        assert len(decode(lower, DecodeConfig(peak_threshold=0.2, min_score=0))) == number
