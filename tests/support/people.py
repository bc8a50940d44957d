"""Test data: keypoints of people, and helpers to compare and flip maps."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from evaluation.decoder.person import Person
from pipeline.maps import NUM_HEATMAPS, NUM_PAFS, Maps
from pipeline.skeleton import FLIP_KEYPOINTS, FLIP_LIMBS, KEYPOINT_INDEX, NUM_KEYPOINTS, NUM_LIMBS

Floats = NDArray[np.float32]
SIZE = (256, 400)
NO_JITTER = np.zeros((NUM_KEYPOINTS, 2), dtype=np.float32)

# keypoints of a standing person of unit height; x to the right, the person's left side on the right of the image
STANDING_PERSON: dict[str, tuple[float, float]] = {
    "nose": (0.0, 0.0),
    "neck": (0.0, 0.16),
    "eye": (0.06, -0.06),
    "ear": (0.12, -0.02),
    "shoulder": (0.14, 0.16),
    "elbow": (0.2, 0.34),
    "wrist": (0.22, 0.5),
    "hip": (0.09, 0.5),
    "knee": (0.11, 0.73),
    "ankle": (0.12, 0.94),
}


def standing_person(x: float, y: float, height: float, jitter: Floats) -> Floats:
    """Return the keypoints (18, 3) of a standing person with the nose at (x, y) px.

    `jitter` (18, 2) is added to the keypoints, in fractions of `height`.
    """
    out = np.zeros((NUM_KEYPOINTS, 3), dtype=np.float32)
    for name, i in KEYPOINT_INDEX.items():
        dx, dy = STANDING_PERSON[name.split("_")[-1]]
        side = -1 if name.startswith("right_") else 1
        out[i] = (x + height * (side * dx + jitter[i, 0]), y + height * (dy + jitter[i, 1]), 2)
    return out


@st.composite
def people_in_columns(draw: st.DrawFn, most: int = 3) -> Floats:
    """Strategy for keypoints (P, 18, 3) of people side by side, each in its own column of the image."""
    count = draw(st.integers(1, most))
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    people = [
        standing_person(
            x=SIZE[1] * (i + 0.5) / count + rng.uniform(-4, 4),
            y=rng.uniform(24, 40),
            height=rng.uniform(150, 200),
            jitter=rng.uniform(-0.012, 0.012, (NUM_KEYPOINTS, 2)).astype(np.float32),
        )
        for i in range(count)
    ]
    return np.stack(people)


def stack_people(people: list[Person]) -> Floats:
    """Return the keypoints (P, 18, 3) of people, sorted from left to right."""
    stacked = np.stack([person.keypoints for person in people])
    return stacked[np.argsort(stacked[:, :, 0].max(axis=1))]


def empty_maps(height: int = 20, width: int = 30) -> Maps:
    return Maps(
        np.zeros((NUM_HEATMAPS, height, width), dtype=np.float32), np.zeros((NUM_PAFS, height, width), dtype=np.float32)
    )


def assert_same_people(found: list[Person], truth: Floats, within: float) -> None:
    assert len(found) == len(truth)
    ordered = truth[np.argsort(truth[:, :, 0].max(axis=1))]
    np.testing.assert_array_equal(stack_people(found)[..., 2] > 0, ordered[..., 2] > 0)
    np.testing.assert_allclose(stack_people(found)[..., :2], ordered[..., :2], atol=within)


def flip_maps(maps: Maps) -> Maps:
    """Return the maps of the mirrored image: left and right swapped, x components negated."""
    heatmaps = maps.heatmaps[[*FLIP_KEYPOINTS, NUM_KEYPOINTS], :, ::-1].copy()
    pafs = maps.pafs.reshape(NUM_LIMBS, 2, *maps.grid)[FLIP_LIMBS, :, :, ::-1].copy()
    pafs[:, 0] *= -1
    return Maps(heatmaps, pafs.reshape(NUM_PAFS, *maps.grid), maps.stride)


def random_people(count: int, size: tuple[int, int], seed: int = 0) -> NDArray[np.float32]:
    """Return random keypoints (P, K, 3) inside and up to 10 px outside an image of (height, width) px.

    A fifth of them is unlabelled.
    """
    rng = np.random.default_rng(seed)
    height, width = size
    low, high = np.array([-10, -10, 1]), np.array([width + 10, height + 10, 3])
    keypoints = rng.uniform(low, high, (count, NUM_KEYPOINTS, 3)).astype(np.float32)
    keypoints[..., 2] = np.floor(keypoints[..., 2])
    keypoints[rng.random((count, NUM_KEYPOINTS)) < 0.2] = 0
    return keypoints
