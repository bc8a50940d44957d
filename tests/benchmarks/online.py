"""Benchmark of the input pipeline: throughput from shards to batches, that of JPEG decoding alone, and each stage."""

from __future__ import annotations

import contextlib
import itertools
import resource
import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg
from tqdm import tqdm

from pipeline.loading import collate, warp
from pipeline.loading.augment import AugmentConfig
from pipeline.loading.batches import Batches, create_batches
from pipeline.loading.targets import TargetConfig
from pipeline.storage.manifest import Manifest
from pipeline.storage.mindrecord_reader import read_rows
from pipeline.storage.records import TRAIN_COLUMNS, raw_bytes

SIZE = 368
BATCH = 10
MAX_PEOPLE = 32
"""`max_people` of the full recipe; larger if an image has more people."""

STAGES = (
    (collate, "decode_image", "decode"),
    (warp, "warp_image", "warp"),
    (warp, "jitter_colour", "colour"),
    (collate, "sample_augmentation", "sample augmentation"),
    (collate, "transform_keypoints", "keypoints"),
    (collate, "decode_runs", "ignore region"),
    (warp, "loss_mask", "loss mask"),
    (collate, "encode_maps", "targets"),
)
"""(module, function, name in the table) of each stage that `Collator` calls."""


def measure_online(shards: Path, *, rounds: int, records: int) -> dict[str, Any]:
    """Time decoding alone and whole pipelines. They alternate, so that other load affects all of them equally.

    Args:
        shards: shard set with at least `records` records.
        rounds: number of rounds; the median is used.
        records: records per round and pipeline.

    Returns:
        Samples per second: `decode_only_N_threads` (cv2.imdecode), `decode_only_turbojpeg_2_threads` (simplejpeg, as in
        the pipeline), `pipeline_N_threads` (image, keypoints and mask), `pipeline_targets_2_threads` (with targets);
        `bytes_per_sample` copied to the device, without and with targets; `online_peak_mb`, peak memory in MB.
    """
    jpegs = _jpegs(shards, records)
    epochs = iter(range(10**6))
    candidates: dict[str, Callable[[], float]] = {
        "decode_only_1_thread": lambda: _decode_rate(jpegs, _opencv, 1),
        "decode_only_2_threads": lambda: _decode_rate(jpegs, _opencv, 2),
        "decode_only_turbojpeg_2_threads": lambda: _decode_rate(jpegs, _turbojpeg, 2),
        "pipeline_1_thread": lambda: _batch_rate(shards, records, 1, next(epochs)),
        "pipeline_2_threads": lambda: _batch_rate(shards, records, 2, next(epochs)),
        "pipeline_4_threads": lambda: _batch_rate(shards, records, 4, next(epochs)),
        "pipeline_targets_2_threads": lambda: _batch_rate(shards, records, 2, next(epochs), TargetConfig()),
    }
    _batch_rate(shards, 2 * BATCH, 2, next(epochs), TargetConfig())  # warm-up
    rates: dict[str, list[float]] = defaultdict(list)
    with tqdm(total=rounds * len(candidates), desc="decoder and pipeline", unit="", disable=None, leave=False) as bar:
        for _ in range(rounds):
            for name, measure in candidates.items():
                rates[name].append(measure())
                bar.update()
    return {
        **{name: round(statistics.median(each), 1) for name, each in rates.items()},
        "bytes_per_sample": _bytes_per_sample(shards, None),
        "bytes_per_sample_with_targets": _bytes_per_sample(shards, TargetConfig()),
        "online_peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def measure_stages(shards: Path, *, records: int) -> dict[str, float]:
    """Return the CPU time in ms per sample of each stage from shard to batch, with targets, in one thread.

    `reading` is the time of MindDataset in all its threads; `between` is the remaining time outside the stages.
    """
    manifest = Manifest.load(shards)
    order = np.random.default_rng(0).permutation(manifest.records)[:records].tolist()
    start = time.process_time()
    rows = list(read_rows(shards, manifest, TRAIN_COLUMNS, order))
    reading = time.process_time() - start
    collator = collate.Collator((SIZE, SIZE), 0, 0, AugmentConfig(), TargetConfig())
    batch = next(iter(_batches(shards, 1, 0, TargetConfig())))
    _fill_batch(collator, rows[:BATCH], batch)
    with _time_functions(STAGES) as spent:
        start = time.thread_time()
        for first in range(0, len(rows), BATCH):
            _fill_batch(collator, rows[first : first + BATCH], batch)
        whole = time.thread_time() - start
    stages = {"reading": reading, **spent, "between": whole - sum(spent.values())}
    return {name: round(1e3 * seconds / len(rows), 3) for name, seconds in stages.items()}


def _fill_batch(collator: collate.Collator, rows: list[collate.Row], batch: collate.Batch) -> None:
    """Fill a batch as `Batches` does: numbers first."""
    augmentations = [collator.write_labels(row, batch, index) for index, row in enumerate(rows)]
    for index, (row, augmentation) in enumerate(zip(rows, augmentations, strict=True)):
        collator.write_image(row, augmentation, batch, index)


@contextlib.contextmanager
def _time_functions(stages: Sequence[tuple[Any, str, str]]) -> Iterator[dict[str, float]]:
    """Measure the CPU time in seconds of each function within the context, in the current thread."""
    spent = {label: 0.0 for _, _, label in stages}

    def timed(function: Callable[..., Any], label: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            start = time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                spent[label] += time.thread_time() - start

        return call

    with contextlib.ExitStack() as undo:
        for module, name, label in stages:
            function = getattr(module, name)
            undo.callback(setattr, module, name, function)
            setattr(module, name, timed(function, label))
        yield spent


def _jpegs(shards: Path, records: int) -> list[bytes]:
    manifest = Manifest.load(shards)
    order = np.random.default_rng(0).permutation(manifest.records)[:records].tolist()
    return [raw_bytes(row["image"]).tobytes() for row in read_rows(shards, manifest, ("image",), order)]


def _opencv(data: bytes) -> None:
    cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)


def _turbojpeg(data: bytes) -> None:
    simplejpeg.decode_jpeg(data, "BGR")


def _decode_rate(jpegs: list[bytes], decode: Callable[[bytes], None], threads: int) -> float:
    cv2.setNumThreads(0)

    def work(part: list[bytes]) -> None:
        for data in part:
            decode(data)

    workers = [threading.Thread(target=work, args=(jpegs[i::threads],)) for i in range(threads)]
    start = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return len(jpegs) / (time.perf_counter() - start)


def _batches(shards: Path, threads: int, epoch: int, targets: TargetConfig | None) -> Batches:
    return create_batches(
        shards,
        size=SIZE,
        batch_size=BATCH,
        max_people=max(MAX_PEOPLE, Manifest.load(shards).max_people),
        seed=0,
        epoch=epoch,
        threads=threads,
        augment=AugmentConfig(),
        targets=targets,
    )


def _batch_rate(shards: Path, records: int, threads: int, epoch: int, targets: TargetConfig | None = None) -> float:
    """Return samples per second after the first batch and before the end of the epoch, which are not typical."""
    batches = iter(_batches(shards, threads, epoch, targets))
    next(batches)
    start = time.perf_counter()
    done = sum(len(batch["image_id"]) for batch in itertools.islice(batches, records // BATCH))
    return done / (time.perf_counter() - start)


def _bytes_per_sample(shards: Path, targets: TargetConfig | None) -> int:
    batch = next(iter(_batches(shards, 1, 0, targets)))
    return sum(array.nbytes for name, array in batch.items() if name != "image_id") // BATCH
