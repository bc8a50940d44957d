"""What drawing targets costs, in NumPy and in the device's graph."""

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
PLACES = 32
"""People that a sample of the full recipe has room for."""


def measure_targets(*, repeats: int = 200, batch: int = 10) -> dict[str, Any]:
    """Draw heatmaps and part affinity fields of 46x46 cells.

    Args:
        repeats: drawings in NumPy; the median counts.
        batch: samples that the device draws at once.

    Returns:
        `targets_numpy_ms`: ms a sample of 4 people; `targets_numpy_ms_by_people`: of other numbers;
        `targets_device_ms`: ms a sample of 32 places on MindSpore's device, which draws all of them, taken or not.
    """
    by_people = {str(number): _numpy_ms(_people(number), repeats) for number in PEOPLE}
    return {
        "targets_numpy_ms": by_people["4"],
        "targets_numpy_ms_by_people": by_people,
        "targets_device_ms": _device_ms(_people(4), batch),
    }


def _people(number: int) -> NDArray[np.float32]:
    """(P, 18, 3) standing people of 120 to 320 px, somewhere in the picture."""
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
    places = np.zeros((batch, PLACES, *keypoints.shape[1:]), dtype=np.float32)
    places[:, : len(keypoints)] = keypoints
    render, tensor = RenderTargets(SIZE, TargetConfig()), ms.Tensor(places)

    def draw() -> None:
        for maps in render(tensor):
            maps.asnumpy()

    draw()  # compiles
    return round(_milliseconds(draw, 5) / batch, 3)


def _milliseconds(work: Callable[[], object], repeats: int) -> float:
    """Median ms of a call."""
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return 1e3 * statistics.median(taken)
