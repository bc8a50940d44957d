"""Benchmark of decoding maps into people, by number of people."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation.decoder.decode import decode
from pipeline.loading.targets import encode_maps
from pipeline.maps import STRIDE, Maps
from tests.support.oracle import standing_person

GRID = (46, 62)
"""(height, width) in cells of the maps of an image of 368x496 px."""

PEOPLE = (1, 2, 4, 6, 30)
LAYOUTS = 5
"""Number of arrangements of the same number of people: decoding time depends on how many people overlap."""


def measure_decoding(*, repeats: int = 20, people: Sequence[int] = PEOPLE, noise: float = 0.02) -> dict[str, Any]:
    """Decode maps of 57x46x62 in one thread.

    Args:
        repeats: decodings of each arrangement of people; the median over all is used.
        people: numbers of people.
        noise: standard deviation added to the maps.

    Returns:
        `decode_ms`: ms per image, by number of people; `people_found`: mean number of detected people, likewise.
    """
    milliseconds, found = {}, {}
    for number in people:
        layouts = [crowd_maps(number, seed, noise) for seed in range(LAYOUTS)]
        counts = [len(decode(maps)) for maps in layouts]
        times = [_decode_ms(maps) for _ in range(repeats) for maps in layouts]
        milliseconds[str(number)] = round(statistics.median(times), 3)
        found[str(number)] = statistics.mean(counts)
    return {"decode_ms": milliseconds, "people_found": found}


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


def _person(rng: np.random.Generator, height: int, width: int, tall: float) -> NDArray[np.float32]:
    keypoints = standing_person(
        rng.uniform(0.1, 0.9) * width, rng.uniform(0.3, 0.7) * height, tall * rng.uniform(0.8, 1.2)
    )
    keypoints[rng.random(len(keypoints)) < 0.1] = 0
    return np.asarray(keypoints, dtype=np.float32)


def _decode_ms(maps: Maps) -> float:
    start = time.perf_counter()
    decode(maps)
    return 1e3 * (time.perf_counter() - start)
