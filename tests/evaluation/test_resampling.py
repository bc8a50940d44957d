"""AP of weighted images and the bootstrap of differences in AP."""

from __future__ import annotations

import numpy as np
import pytest

from evaluation.scoring.analysis.resampling import bootstrap_difference, match_detections
from evaluation.scoring.metrics import coco_ap
from tests.support.analysis_cases import random_set


def matched(seed: int, images: list[int] | None = None):
    truth, results = random_set(seed)
    return match_detections(truth, results, images or sorted(truth))


@pytest.mark.parametrize("seed", range(3))
def test_ap_equals_that_of_coco(seed: int) -> None:
    truth, results = random_set(seed)
    ids = sorted(truth)
    assert matched(seed).ap() == pytest.approx(coco_ap(truth, results)["AP"], abs=1e-9)
    assert matched(seed, ids[:13]).ap() == pytest.approx(coco_ap(truth, results, ids[:13])["AP"], abs=1e-9)


def test_a_weight_counts_an_image_that_many_times() -> None:
    truth, results = random_set(4)
    ids = sorted(truth)
    weights = np.random.default_rng(0).integers(0, 3, len(ids))
    copies = [(1000 * (copy + 1) + i, i) for i, weight in zip(ids, weights, strict=True) for copy in range(weight)]
    many_truth = {new: truth[old] for new, old in copies}
    many_results = [
        result | {"image_id": new} for new, old in copies for result in results if result["image_id"] == old
    ]
    assert matched(4).ap(weights) == pytest.approx(coco_ap(many_truth, many_results)["AP"], abs=1e-9)
    assert matched(4).ap(np.zeros(len(ids), dtype=int)) == -1


def test_equal_detections_differ_by_nothing_and_missing_ones_by_more_than_noise() -> None:
    truth, results = random_set(1, images=60, people=120, background=0)
    ids = sorted(truth)
    full = match_detections(truth, results, ids)
    same = bootstrap_difference(full, full, samples=50)
    assert (same.value, same.low, same.high, same.above_noise) == (0, 0, 0, False)
    half = match_detections(truth, results[::2], ids)
    better, worse = bootstrap_difference(half, full, samples=200), bootstrap_difference(full, half, samples=200)
    assert better.above_noise
    assert better.low < better.value < better.high
    assert str(better).endswith("above noise")
    assert str(worse).endswith("worse by more than noise")
    assert bootstrap_difference(half, full, samples=200) == better
    assert bootstrap_difference(half, full, samples=200, seed=1) != better


def test_the_interval_is_as_wide_as_the_spread_of_new_samples() -> None:
    """Differences of independent sets of the same kind spread as the interval of one of them says."""
    differences, widths = [], []
    for seed in range(12):
        truth, results = random_set(seed, images=40, people=70)
        few = [result for i, result in enumerate(results) if i % 4]
        both = [match_detections(truth, one, sorted(truth)) for one in (few, results)]
        difference = bootstrap_difference(*both, samples=100)
        differences.append(difference.value)
        widths.append(difference.high - difference.low)
    spread = 2 * 1.96 * np.std(differences, ddof=1)
    assert 0.4 < np.median(widths) / spread < 2.5
