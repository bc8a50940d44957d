"""The loss: a masked mean squared error per stage and branch, compared with NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.maps import NUM_HEATMAPS, NUM_PAFS
from pipeline.skeleton import KEYPOINT_INDEX
from training.config import LossConfig

GRID = (5, 7)


def create_loss(config):
    import mindspore as ms

    from training.loss.loss import StageLoss

    cell = StageLoss(config)

    def compute(pafs, heatmaps, target_pafs, target_heatmaps, mask):
        stages = (tuple(ms.Tensor(each) for each in pafs), tuple(ms.Tensor(each) for each in heatmaps))
        return cell(*stages, ms.Tensor(target_pafs), ms.Tensor(target_heatmaps), ms.Tensor(mask)).asnumpy()

    return compute


@pytest.fixture(scope="module")
def loss():
    return create_loss(LossConfig())


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


def test_weights_of_stages_kinds_cells_and_keypoints():
    config = LossConfig(
        paf_weight=3, heatmap_weight=0.5, early_stage_weight=0.25, target_weight=5, keypoint_weights={"left_wrist": 2}
    )
    rng = np.random.default_rng(2)
    pafs, heatmaps = [maps(rng, NUM_PAFS) for _ in range(3)], [maps(rng, NUM_HEATMAPS) for _ in range(2)]
    target_pafs, target_heatmaps = maps(rng, NUM_PAFS), rng.random((2, NUM_HEATMAPS, *GRID), dtype=np.float32)
    mask = rng.integers(0, 2, (2, *GRID)).astype(np.uint8)
    lengths = np.hypot(target_pafs[:, 0::2], target_pafs[:, 1::2]).repeat(2, axis=1)
    presence = np.concatenate([target_heatmaps[:, :-1], 1 - target_heatmaps[:, -1:]], axis=1)
    keypoints = np.ones((NUM_HEATMAPS, 1, 1))
    keypoints[KEYPOINT_INDEX["left_wrist"]] = 2
    expected = [np.mean((paf - target_pafs) ** 2 * mask[:, None] * (1 + 4 * lengths)) for paf in pafs]
    cells = mask[:, None] * (1 + 4 * presence) * keypoints
    expected += [np.mean((heatmap - target_heatmaps) ** 2 * cells) for heatmap in heatmaps]
    factors = [0.75, 0.75, 3, 0.125, 0.5]
    found = create_loss(config)(pafs, heatmaps, target_pafs, target_heatmaps, mask)
    assert found == pytest.approx(np.multiply(expected, factors), rel=1e-5)


def test_term_names_have_the_order_of_the_terms():
    from training.loss.loss import term_names

    assert term_names(2, 1) == ("pafs_1", "pafs_2", "heatmaps_1")
