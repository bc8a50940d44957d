"""Benchmark of decoding maps into people: exact maps with little noise, maps like those of a network, white noise."""

from __future__ import annotations

import statistics
import time
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from evaluation.decoder.decode import decode
from pipeline.loading.targets import encode_maps
from pipeline.maps import NUM_HEATMAPS, NUM_PAFS, STRIDE, Maps
from pipeline.skeleton import FLIP_KEYPOINTS, FLIP_LIMBS
from tests.support.oracle import standing_person

GRID = (46, 62)
"""(height, width) in cells of the maps of an image of 368x496 px."""

LAYOUTS = 10
"""Number of maps of each kind: decoding time depends on how many people overlap."""

NOISE = 0.02
"""Standard deviation of the noise on the maps of people."""

WHITE_NOISE = 0.06
"""Standard deviation of maps that hold nothing else."""


def measure_decoding(*, repeats: int = 20, layouts: int = LAYOUTS) -> dict[str, Any]:
    """Decode maps of 57x46x62 in one thread, with the default settings.

    Args:
        repeats: decodings of each of the maps; its time is their median.
        layouts: maps of each kind.

    Returns:
        By kind of maps: `median_ms` and `max_ms` of the times of the maps, and `people`, the mean number of detections.
    """
    seeds = range(layouts)
    kinds = {
        "1_person": [crowd_maps(1, seed, NOISE) for seed in seeds],
        "6_people": [crowd_maps(6, seed, NOISE) for seed in seeds],
        "30_people": [crowd_maps(30, seed, NOISE) for seed in seeds],
        "like_a_network": [network_like_maps(1 + seed, seed) for seed in seeds],
        "white_noise": [white_noise(seed) for seed in seeds],
    }
    return {kind: _measure(maps, repeats) for kind, maps in kinds.items()}


def _measure(all_maps: list[Maps], repeats: int) -> dict[str, float]:
    people = [len(decode(maps)) for maps in all_maps]
    times = [statistics.median(_decode_ms(maps) for _ in range(repeats)) for maps in all_maps]
    return {
        "median_ms": round(statistics.median(times), 3),
        "max_ms": round(max(times), 3),
        "people": statistics.mean(people),
    }


def _decode_ms(maps: Maps) -> float:
    start = time.perf_counter()
    decode(maps)
    return 1e3 * (time.perf_counter() - start)


def crowd_maps(number: int, seed: int, noise: float = 0.0, grid: tuple[int, int] = GRID) -> Maps:
    """Return maps of `number` standing people at random positions; a tenth of the keypoints is missing."""
    rng = np.random.default_rng((seed, number))
    height, width = grid[0] * STRIDE, grid[1] * STRIDE
    tall = min(0.8 * height, 0.8 * (height * width / number) ** 0.5)
    people = np.stack([_person(rng, height, width, tall) for _ in range(number)])
    maps = encode_maps(people, (height, width))
    heatmaps, pafs = (
        channels + rng.normal(0, noise, channels.shape).astype(np.float32) for channels in (maps.heatmaps, maps.pafs)
    )
    return Maps(heatmaps, pafs, maps.stride)


def network_like_maps(number: int, seed: int, grid: tuple[int, int] = GRID) -> Maps:
    """Return maps of `number` people with the faults of a small network's: for speed only, AP on them means nothing.

    Peaks and fields are broad (blurred by 1.2 cells), low (factors from .1 to .9 in different parts of the image), and
    repeated at a third of the height in the channel of the other side. The background varies smoothly around .01.
    """
    rng = np.random.default_rng((seed, number))
    exact = crowd_maps(number, seed, grid=grid)

    def blur(channels: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
        return np.stack([cv2.GaussianBlur(channel, (0, 0), sigma) for channel in channels])

    def degrade(channels: NDArray[np.float32], other_side: NDArray[np.intp]) -> NDArray[np.float32]:
        gain = np.clip(0.5 + 4 * blur(rng.normal(0, 1, channels.shape).astype(np.float32), 4), 0.1, 0.9)
        background = 0.01 + 0.1 * blur(rng.normal(0, 1, channels.shape).astype(np.float32), 3)
        return np.asarray(gain * blur(channels + channels[other_side] / 3, 1.2) + background, dtype=np.float32)

    other_limb = np.stack([2 * FLIP_LIMBS, 2 * FLIP_LIMBS + 1], axis=1).ravel()
    heatmaps = degrade(exact.heatmaps, np.append(FLIP_KEYPOINTS, NUM_HEATMAPS - 1))
    return Maps(heatmaps, degrade(exact.pafs, other_limb), exact.stride)


def white_noise(seed: int, sigma: float = WHITE_NOISE, grid: tuple[int, int] = GRID) -> Maps:
    """Return maps of white noise."""
    rng = np.random.default_rng(seed)
    heatmaps, pafs = (rng.normal(0, sigma, (channels, *grid)) for channels in (NUM_HEATMAPS, NUM_PAFS))
    return Maps(heatmaps.astype(np.float32), pafs.astype(np.float32))


def _person(rng: np.random.Generator, height: int, width: int, tall: float) -> NDArray[np.float32]:
    keypoints = standing_person(
        rng.uniform(0.1, 0.9) * width, rng.uniform(0.3, 0.7) * height, tall * rng.uniform(0.8, 1.2)
    )
    keypoints[rng.random(len(keypoints)) < 0.1] = 0
    return np.asarray(keypoints, dtype=np.float32)
