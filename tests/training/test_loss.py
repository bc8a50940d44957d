"""The loss: a masked mean squared error per stage and branch, compared with NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.maps import NUM_HEATMAPS, NUM_PAFS

GRID = (5, 7)


@pytest.fixture(scope="module")
def loss():
    import mindspore as ms

    from training.loss.loss import StageLoss

    cell = StageLoss()

    def compute(pafs, heatmaps, target_pafs, target_heatmaps, mask):
        stages = (tuple(ms.Tensor(each) for each in pafs), tuple(ms.Tensor(each) for each in heatmaps))
        return cell(*stages, ms.Tensor(target_pafs), ms.Tensor(target_heatmaps), ms.Tensor(mask)).asnumpy()

    return compute


def maps(rng, channels):
    return rng.normal(size=(2, channels, *GRID)).astype(np.float32)


def test_terms_are_the_masked_mean_squared_errors(loss):
    rng = np.random.default_rng(0)
    pafs, heatmaps = [maps(rng, NUM_PAFS) for _ in range(3)], [maps(rng, NUM_HEATMAPS) for _ in range(3)]
    target_pafs, target_heatmaps = maps(rng, NUM_PAFS), maps(rng, NUM_HEATMAPS)
    mask = rng.integers(0, 2, (2, *GRID)).astype(np.uint8)
    weight = mask[:, None].astype(np.float64)
    expected = [np.mean((paf - target_pafs) ** 2 * weight) for paf in pafs]
    expected += [np.mean((heatmap - target_heatmaps) ** 2 * weight) for heatmap in heatmaps]
    assert loss(pafs, heatmaps, target_pafs, target_heatmaps, mask) == pytest.approx(expected, rel=1e-5)


def test_masked_cells_do_not_count(loss):
    rng = np.random.default_rng(1)
    paf, heatmap = maps(rng, NUM_PAFS), maps(rng, NUM_HEATMAPS)
    mask = np.ones((2, *GRID), np.uint8)
    mask[1, 2:4, 3] = 0
    wrong_paf, wrong_heatmap = paf.copy(), heatmap.copy()
    wrong_paf[1, :, 2:4, 3] += 100
    wrong_heatmap[1, :, 2:4, 3] -= 50
    assert not loss([wrong_paf] * 3, [wrong_heatmap] * 3, paf, heatmap, mask).any()
    wrong_heatmap[0, 0, 2, 3] += 1
    terms = loss([wrong_paf] * 3, [wrong_heatmap] * 3, paf, heatmap, mask)
    assert terms == pytest.approx([0] * 3 + [1 / heatmap.size] * 3)
    assert not loss([wrong_paf] * 3, [wrong_heatmap] * 3, paf, heatmap, np.zeros_like(mask)).any()


def test_term_names_have_the_order_of_the_terms():
    from training.loss.loss import term_names

    assert term_names(2, 1) == ("pafs_1", "pafs_2", "heatmaps_1")
