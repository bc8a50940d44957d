from __future__ import annotations

import numpy as np
import pytest

from evaluation.decoder.decode import DecodeConfig, find_candidates
from evaluation.decoder.peaks import noise_level
from pipeline.skeleton import NUM_KEYPOINTS
from tests.benchmarks.decoding import crowd_maps


@pytest.mark.parametrize("sigma", [0.01, 0.06])
@pytest.mark.parametrize("people", [1, 6])
def test_noise_level_is_the_standard_deviation_of_the_noise_and_not_of_the_peaks(sigma: float, people: int) -> None:
    exact = crowd_maps(people, seed=0).heatmaps[:NUM_KEYPOINTS]
    background = 0.1 * np.sin(np.linspace(0, 6, exact.shape[2], dtype=np.float32))
    noise = np.random.default_rng(0).normal(0, sigma, exact.shape).astype(np.float32)
    assert noise_level(exact + background) < 1e-3
    assert noise_level(exact + background + noise) == pytest.approx(sigma, rel=0.1)


@pytest.mark.parametrize("grid", [(0, 0), (1, 9), (9, 2)])
def test_grids_too_small_for_an_estimate_have_no_noise(grid: tuple[int, int]) -> None:
    assert noise_level(np.ones((NUM_KEYPOINTS, *grid), dtype=np.float32)) == 0


def test_few_peaks_of_noise_are_candidates() -> None:
    noise = np.random.default_rng(0).normal(0, 0.06, (NUM_KEYPOINTS, 46, 62)).astype(np.float32)
    found = find_candidates(noise, DecodeConfig())
    assert np.count_nonzero(found.strong) < NUM_KEYPOINTS
    assert len(found.kind) < 16 * NUM_KEYPOINTS
    assert len(find_candidates(noise, DecodeConfig(peak_noise=0, weak_peak_noise=0)).kind) == 64 * NUM_KEYPOINTS


def test_a_low_peak_in_a_smooth_map_is_a_candidate() -> None:
    heatmaps = 0.12 * crowd_maps(6, seed=0).heatmaps[:NUM_KEYPOINTS]
    everything = find_candidates(heatmaps, DecodeConfig(peak_noise=0, weak_peak_noise=0))
    assert len(find_candidates(heatmaps, DecodeConfig()).kind) == len(everything.kind) > 50
