"""Targets rendered on the device equal those rendered in NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.loading.targets import TargetConfig, encode_maps
from tests.support.people import random_people

PLACES = 5


@pytest.mark.parametrize(
    ("size", "config"), [((64, 64), TargetConfig()), ((48, 88), TargetConfig(sigma=4.5, limb_width=6))]
)
def test_device_renders_the_same_targets_as_the_host(size, config):
    import mindspore as ms

    from training.loss.targets import RenderTargets

    crowd = random_people(PLACES, size, seed=5)
    crowd[1, :, :2] = crowd[0, :, :2] + 2.5  # side by side: limbs overlap
    crowd[2, 3] = crowd[2, 4]  # a limb without length
    hidden = random_people(3, size, seed=6)
    hidden[1, :, 2] = 0
    batch = [random_people(0, size), random_people(1, size, seed=4), crowd, hidden, random_people(2, size, seed=7)]
    padded = np.zeros((len(batch), PLACES, 18, 3), np.float32)
    for index, keypoints in enumerate(batch):
        padded[index, : len(keypoints)] = keypoints
    heatmaps, pafs = (maps.asnumpy() for maps in RenderTargets(size, config)(ms.Tensor(padded)))
    assert heatmaps.dtype == pafs.dtype == np.float32
    for index, keypoints in enumerate(batch):
        expected = encode_maps(keypoints, size, config)
        assert heatmaps[index].shape == expected.heatmaps.shape
        assert np.abs(heatmaps[index] - expected.heatmaps).max() < 1e-4
        assert np.abs(pafs[index] - expected.pafs).max() < 1e-4
