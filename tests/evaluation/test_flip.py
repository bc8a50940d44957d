"""Tests of flip averaging."""

from __future__ import annotations

import numpy as np

from evaluation.inference.flip import flip_averaged, flip_heatmaps, flip_pafs
from pipeline.loading.targets import encode_maps
from pipeline.skeleton import FLIP_KEYPOINTS
from tests.support.people import random_people

HEIGHT, WIDTH = 96, 128


def mirrored(keypoints):
    flipped = keypoints[:, FLIP_KEYPOINTS].copy()
    flipped[..., 0] = WIDTH - 1 - flipped[..., 0]
    return flipped


def test_flipped_maps_are_the_maps_of_flipped_people():
    people = random_people(3, (HEIGHT, WIDTH), seed=3)
    maps, expected = (encode_maps(each, (HEIGHT, WIDTH)) for each in (people, mirrored(people)))
    np.testing.assert_allclose(flip_heatmaps(maps.heatmaps[None])[0], expected.heatmaps, atol=1e-4)
    np.testing.assert_allclose(flip_pafs(maps.pafs[None])[0], expected.pafs, atol=1e-4)


def test_averaging_changes_nothing_for_a_network_that_is_flip_equivariant():
    people = random_people(2, (HEIGHT, WIDTH), seed=4)
    image = np.zeros((1, HEIGHT, WIDTH, 3), dtype=np.uint8)
    image[:, :, 0] = 255

    def network(images):
        visible = people if images[0, 0, 0, 0] else mirrored(people)
        maps = encode_maps(visible, (HEIGHT, WIDTH))
        return maps.pafs[None], maps.heatmaps[None]

    for averaged, plain in zip(flip_averaged(network)(image), network(image), strict=True):
        np.testing.assert_allclose(averaged, plain, atol=1e-4)
