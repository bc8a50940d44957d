from __future__ import annotations

import numpy as np
import pytest

from evaluation.decoder import limbs as limbs_module
from evaluation.decoder.limbs import Limbs, candidates_of_kinds, pair_blocks, score_limbs
from evaluation.decoder.peaks import Peaks, find_peaks
from pipeline.maps import NUM_PAFS
from pipeline.skeleton import LIMB_INDICES, NUM_KEYPOINTS
from tests.benchmarks.decoding import crowd_maps

SETTINGS = {"samples": 10, "threshold": 0.05, "fraction": 0.8, "near": 0.6}


def random_peaks(rng: np.random.Generator, count: np.ndarray, height: int, width: int) -> Peaks:
    """Return candidates anywhere in the cells of the grid, whose outer halves lie beyond the outermost centres."""
    kind = np.repeat(np.arange(NUM_KEYPOINTS), count)
    position = rng.uniform((-0.5, -0.5), (width - 0.5, height - 0.5), (len(kind), 2)).astype(np.float32)
    ones = np.ones(len(kind), dtype=np.float32)
    return Peaks(kind, position, ones, ones > 0, count)


def bilinear(field: np.ndarray, x: float, y: float) -> np.ndarray:
    """Sample a field (C, h, w) at one point, moved to the edge of the grid if it lies outside."""
    _, height, width = field.shape
    x, y = float(np.clip(x, 0, width - 1)), float(np.clip(y, 0, height - 1))
    left, top = int(x), int(y)
    right, bottom = min(left + 1, width - 1), min(top + 1, height - 1)
    upper = field[:, top, left] * (1 - x + left) + field[:, top, right] * (x - left)
    lower = field[:, bottom, left] * (1 - x + left) + field[:, bottom, right] * (x - left)
    return np.asarray(upper * (1 - y + top) + lower * (y - top))


def limbs_one_by_one(pafs: np.ndarray, peaks: Peaks) -> dict[tuple[int, int, int], float]:
    """Return the score of each limb by its definition, without arrays of pairs and without the prefilter."""
    found = {}
    for limb, (a, b) in enumerate(LIMB_INDICES.tolist()):
        for i in np.flatnonzero(peaks.kind == a).tolist():
            for j in np.flatnonzero(peaks.kind == b).tolist():
                start, step = peaks.position[i], peaks.position[j] - peaks.position[i]
                length = float(np.hypot(*step))
                points = np.linspace(0, 1, max(SETTINGS["samples"], int(np.ceil(length)) + 1))
                field = [bilinear(pafs[2 * limb : 2 * limb + 2], *(start + t * step)) for t in points]
                agreement = np.array(field) @ (step / length)
                if np.mean(agreement > SETTINGS["threshold"]) >= SETTINGS["fraction"] and agreement.mean() > 0:
                    found[limb, i, j] = float(agreement.mean())
                elif length < SETTINGS["near"]:
                    found[limb, i, j] = SETTINGS["threshold"]
    return found


def as_dict(limbs: Limbs) -> dict[tuple[int, int, int], float]:
    keys = zip(limbs.limb.tolist(), limbs.start.tolist(), limbs.end.tolist(), strict=True)
    return dict(zip(keys, limbs.score.tolist(), strict=True))


@pytest.mark.parametrize("grid", [(9, 13), (1, 30), (30, 1), (2, 2)])
def test_scores_are_those_of_the_definition(grid: tuple[int, int]) -> None:
    rng = np.random.default_rng(grid)
    peaks = random_peaks(rng, rng.integers(2, 6, NUM_KEYPOINTS), *grid)
    # a constant field for each limb and noise: a part of the points supports each pair
    pafs = (rng.normal(0, 0.5, (NUM_PAFS, 1, 1)) + rng.normal(0, 0.3, (NUM_PAFS, *grid))).astype(np.float32)
    found, expected = as_dict(score_limbs(pafs, peaks, **SETTINGS)), limbs_one_by_one(pafs, peaks)
    assert len(expected) > 15
    assert found.keys() == expected.keys()
    assert found == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("block", [1, 7, 100, 10**6])
def test_pairs_do_not_depend_on_the_size_of_the_blocks(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limbs_module, "_BLOCK", block)
    count = np.random.default_rng(0).integers(0, 6, NUM_KEYPOINTS)
    count[[0, 3, 17]] = 0
    first = np.cumsum(count) - count
    expected = [
        (limb, first[a] + i, first[b] + j)
        for limb, (a, b) in enumerate(LIMB_INDICES.tolist())
        for i in range(count[a])
        for j in range(count[b])
    ]
    starts, ends = (candidates_of_kinds(count, kinds) for kinds in LIMB_INDICES.T)
    blocks = list(pair_blocks(*starts, *ends))
    assert [pair for arrays in blocks for pair in zip(*(a.tolist() for a in arrays), strict=True)] == expected
    assert all(0 < len(arrays[0]) <= block + count.max() for arrays in blocks)


def test_there_are_no_pairs_without_candidates() -> None:
    peaks = random_peaks(np.random.default_rng(0), np.zeros(NUM_KEYPOINTS, dtype=np.intp), 5, 5)
    assert as_dict(score_limbs(np.ones((NUM_PAFS, 5, 5), dtype=np.float32), peaks, **SETTINGS)) == {}


def test_the_prefilter_rejects_few_limbs(monkeypatch: pytest.MonkeyPatch) -> None:
    crowds = [crowd_maps(30, seed, noise=0.02) for seed in range(3)]
    peaks = [find_peaks(maps.heatmaps[:NUM_KEYPOINTS], 0.1, 0.1, 64) for maps in crowds]

    def count() -> int:
        return sum(len(score_limbs(m.pafs, p, **SETTINGS).limb) for m, p in zip(crowds, peaks, strict=True))

    kept = count()
    monkeypatch.setattr(limbs_module, "_PREFILTER_PAIRS", 10**9)
    assert 0.99 * count() < kept <= count()


def test_the_prefilter_rejects_most_pairs_in_noise() -> None:
    rng = np.random.default_rng(0)
    peaks = random_peaks(rng, np.full(NUM_KEYPOINTS, 64), 46, 62)
    noise = rng.normal(0, 0.06, (NUM_PAFS, 46, 62)).astype(np.float32)
    selected, _, _ = limbs_module._select_pairs(noise, peaks.position.T, peaks.count, threshold=0.05, near=0.6)
    assert len(selected) < 0.05 * 64**2 * len(LIMB_INDICES)
