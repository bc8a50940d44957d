"""The loss: a masked mean of squares over stages and branches, equal to the same in NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.maps import NUM_HEATMAPS, NUM_PAFS

GRID = (5, 7)


@pytest.fixture(scope="module")
def loss():
    import mindspore as ms

    from training.loss import StageLoss

    cell = StageLoss()

    def compute(pafs, heatmaps, target_pafs, target_heatmaps, mask):
        stages = (tuple(ms.Tensor(each) for each in pafs), tuple(ms.Tensor(each) for each in heatmaps))
        return float(cell(*stages, ms.Tensor(target_pafs), ms.Tensor(target_heatmaps), ms.Tensor(mask)).asnumpy())

    return compute


def maps(rng, channels):
    return rng.normal(size=(2, channels, *GRID)).astype(np.float32)


def test_it_is_the_sum_over_stages_of_masked_means(loss):
    rng = np.random.default_rng(0)
    pafs, heatmaps = [maps(rng, NUM_PAFS) for _ in range(3)], [maps(rng, NUM_HEATMAPS) for _ in range(3)]
    target_pafs, target_heatmaps = maps(rng, NUM_PAFS), maps(rng, NUM_HEATMAPS)
    mask = rng.integers(0, 2, (2, *GRID)).astype(np.uint8)
    weight = mask[:, None].astype(np.float64)
    expected = sum(np.mean((paf - target_pafs) ** 2 * weight) for paf in pafs)
    expected += sum(np.mean((heatmap - target_heatmaps) ** 2 * weight) for heatmap in heatmaps)
    assert loss(pafs, heatmaps, target_pafs, target_heatmaps, mask) == pytest.approx(expected, rel=1e-5)


def test_what_the_mask_hides_does_not_count(loss):
    rng = np.random.default_rng(1)
    paf, heatmap = maps(rng, NUM_PAFS), maps(rng, NUM_HEATMAPS)
    mask = np.ones((2, *GRID), np.uint8)
    mask[1, 2:4, 3] = 0
    wrong_paf, wrong_heatmap = paf.copy(), heatmap.copy()
    wrong_paf[1, :, 2:4, 3] += 100
    wrong_heatmap[1, :, 2:4, 3] -= 50
    assert loss([wrong_paf] * 3, [wrong_heatmap] * 3, paf, heatmap, mask) == 0
    wrong_heatmap[0, 0, 2, 3] += 1
    assert loss([wrong_paf] * 3, [wrong_heatmap] * 3, paf, heatmap, mask) == pytest.approx(3 / heatmap.size)
    assert loss([wrong_paf] * 3, [wrong_heatmap] * 3, paf, heatmap, np.zeros_like(mask)) == 0
