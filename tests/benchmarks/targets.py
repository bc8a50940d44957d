"""Benchmark of rendering training targets in NumPy and on the device."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.loading.targets import TargetConfig, encode_maps
from tests.support.oracle import standing_person

SIZE = (368, 368)
PEOPLE = (1, 4, 16, 32)
MAX_PEOPLE = 32
"""`data.max_people` of the full recipe."""


def measure_targets(*, repeats: int = 200, batch: int = 10) -> dict[str, Any]:
    """Render heatmaps and part affinity fields of 46x46 cells.

    Args:
        repeats: repetitions in NumPy; the median is used.
        batch: batch size on the device.

    Returns:
        `targets_numpy_ms`: ms per sample with 4 people; `targets_numpy_ms_by_people`: the same by number of people;
        `targets_device_ms`: ms per sample on MindSpore's device, which always renders 32 people, including padding.
    """
    by_people = {str(number): _numpy_ms(_people(number), repeats) for number in PEOPLE}
    return {
        "targets_numpy_ms": by_people["4"],
        "targets_numpy_ms_by_people": by_people,
        "targets_device_ms": _device_ms(_people(4), batch),
    }


def _people(number: int) -> NDArray[np.float32]:
    """Return keypoints (P, 18, 3) of standing people, 120 to 320 px tall, at random positions."""
    rng = np.random.default_rng(number)
    low, high = (60, 100, 120), (308, 268, 320)
    return np.stack([standing_person(*rng.uniform(low, high)) for _ in range(number)])


def _numpy_ms(keypoints: NDArray[np.float32], repeats: int) -> float:
    maps = encode_maps(keypoints, SIZE)
    return round(_milliseconds(lambda: encode_maps(keypoints, SIZE, out=maps), repeats), 3)


def _device_ms(keypoints: NDArray[np.float32], batch: int) -> float:
    import mindspore as ms

    from training.loss.targets import RenderTargets

    ms.set_context(mode=ms.GRAPH_MODE)
    places = np.zeros((batch, MAX_PEOPLE, *keypoints.shape[1:]), dtype=np.float32)
    places[:, : len(keypoints)] = keypoints
    render, tensor = RenderTargets(SIZE, TargetConfig()), ms.Tensor(places)

    def draw() -> None:
        for maps in render(tensor):
            maps.asnumpy()

    draw()  # compiles
    return round(_milliseconds(draw, 5) / batch, 3)


def _milliseconds(work: Callable[[], object], repeats: int) -> float:
    """Return the median duration of a call in ms."""
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return 1e3 * statistics.median(taken)
