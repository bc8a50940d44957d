"""Soak tests: memory and open files must not grow over many images, epochs and decodings; no process may be left."""

from __future__ import annotations

import os
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import psutil

from tests.faults.report import FaultReport

MAX_GROWTH = 30.0
"""Maximum growth in MB of a process after its warm-up, from a line fitted to its memory."""
WARM_UP = 0.5
"""Fraction of the samples that belongs to the warm-up."""
MAX_SAMPLES = 200


@dataclass
class ProcessMeter:
    """Memory and open files of a process over time.

    Attributes:
        pid: process id.
        counts: amount of work done at each sample.
        megabytes: resident memory at each sample in MB.
        handles: number of open file descriptors at each sample.
    """

    pid: int = field(default_factory=os.getpid)
    counts: list[float] = field(default_factory=list)
    megabytes: list[float] = field(default_factory=list)
    handles: list[int] = field(default_factory=list)

    def sample(self, count: float) -> None:
        """Take a sample after `count` units of work; do nothing if the process has ended."""
        try:
            process = psutil.Process(self.pid)
            memory, handles = process.memory_info().rss / 1e6, process.num_fds()
        except psutil.Error:
            return
        self.counts.append(count)
        self.megabytes.append(memory)
        self.handles.append(handles)

    def slope(self) -> float:
        """Return the growth in MB per unit of work, by a least-squares fit to the samples after the warm-up."""
        first = int(WARM_UP * len(self.counts))
        counts, memory = np.array(self.counts[first:]), np.array(self.megabytes[first:])
        if len(counts) < 3:
            return 0.0
        return float(np.polyfit(counts - counts.mean(), memory, 1)[0])

    def report_to(self, name: str, report: FaultReport) -> None:
        """Add the measurements and any failures to `report`."""
        first = int(WARM_UP * len(self.counts))
        work = self.counts[-1] - self.counts[first]
        growth = self.slope() * work
        more = self.handles[-1] - self.handles[first]
        report.figures.append(
            f"{name}: {max(self.megabytes):.0f} MB, {1000 * self.slope():+.3f} MB per 1,000, {more:+d} open files"
        )
        if growth > MAX_GROWTH:
            report.failures.append(f"{name}: memory grew by {growth:.0f} MB over {work:,.0f} units of work")
        if more > 2:
            report.failures.append(f"{name}: {more} more open files")


def _children() -> set[psutil.Process]:
    """Return the child processes of this process; before a scenario these are those of earlier work, such as a pool."""
    return set(psutil.Process().children(recursive=True))


def _report_children(report: FaultReport, before: set[psutil.Process]) -> None:
    """Report child processes that the scenario left alive, except for the resource tracker of multiprocessing."""
    left = [child for child in _children() - before if _is_leftover(child)]
    report.figures.append(f"{len(left)} processes left")
    report.failures.extend(f"process {child.pid} did not end" for child in left)


def _is_leftover(child: psutil.Process) -> bool:
    try:
        return child.status() == psutil.STATUS_ZOMBIE or "resource_tracker" not in " ".join(child.cmdline())
    except psutil.Error:
        return False


def build_shards(seed: int, cases: int, folder: Path) -> FaultReport:
    """Write shards from `cases` synthetic images with two workers."""
    from pipeline.storage.manifest import Manifest
    from tests.faults.scenarios.builds import start_build

    before = _children()
    coco = _create_source(folder, seed, cases)
    report = FaultReport(cases)
    build = start_build(coco, folder / "set", "--keep-empty", "--records-per-shard", 64)
    meters: dict[int, ProcessMeter] = {}
    total = -(-cases // 64)
    while build.poll() is None:
        done = 64 * len(list((folder / "set").glob("shard-*.json")))
        for process in _process_tree(build.pid):
            meters.setdefault(process.pid, ProcessMeter(process.pid)).sample(done)
        time.sleep(0.2)
    error = build.communicate()[1]
    if build.returncode or Manifest.load(folder / "set", hash_all=True).records != cases:
        report.failures.append(f"the build had exit code {build.returncode}: {error[-200:]}")
    busiest = sorted(meters.values(), key=lambda meter: -max(meter.megabytes, default=0))[:3]
    for number, meter in enumerate(busiest):
        if len(meter.counts) > 8:
            meter.report_to(f"process {number} of the build", report)
    report.figures.append(f"{total} shards")
    _report_children(report, before)
    return report


def _create_source(folder: Path, seed: int, pictures: int) -> Path:
    """Create a COCO folder of `pictures` images, which are hard links to 64 synthetic ones."""
    from pipeline.synthetic import generate
    from tests.benchmarks.repeat import repeat_coco

    few = folder / "few"
    generate(few, train=64, val=0, size=192, workers=1, seed=seed)
    coco = repeat_coco(few, "train2017", pictures, folder / "coco")
    (coco / "train2017").rename(coco / "train")
    (coco / "annotations" / "person_keypoints_train2017.json").rename(
        coco / "annotations" / "person_keypoints_train.json"
    )
    return coco


def _process_tree(pid: int) -> list[psutil.Process]:
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.Error:
        return []


EPOCHS = 3


def read_epochs(seed: int, cases: int, folder: Path) -> FaultReport:
    """Read three epochs of augmented batches with targets on each of two ranks, `cases` samples in total."""
    from pipeline.build.build_set import build
    from pipeline.build.plan import BuildOptions

    before = _children()
    records = max(64, cases // EPOCHS)
    coco = _create_source(folder, seed, records)
    build([(coco, "train")], folder / "set", BuildOptions(keep_empty=True), workers=1)
    report = FaultReport()
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        ranks = [pool.submit(read_rank, folder / "set", seed, rank, 2) for rank in range(2)]
        for rank, (samples, meter) in enumerate(one.result() for one in ranks):
            report.cases += samples
            meter.report_to(f"rank {rank}", report)
    _report_children(report, before)
    return report


def read_rank(shards: Path, seed: int, rank: int, world_size: int) -> tuple[int, ProcessMeter]:
    """Read all epochs of one rank; return the number of samples and the measurements."""
    from pipeline.loading.augment import AugmentConfig
    from pipeline.loading.batches import create_batches
    from pipeline.loading.targets import TargetConfig
    from pipeline.system.log_filters import silence_mindspore

    silence_mindspore()
    meter, samples = ProcessMeter(), 0
    for epoch in range(EPOCHS):
        batches = create_batches(
            shards,
            size=128,
            batch_size=8,
            max_people=32,
            seed=seed,
            epoch=epoch,
            rank=rank,
            world_size=world_size,
            threads=1,
            augment=AugmentConfig.for_size(128),
            targets=TargetConfig(),
        )
        every = max(1, EPOCHS * len(batches) // MAX_SAMPLES)
        for number, batch in enumerate(batches):
            samples += len(batch["image_id"])
            if number % every == 0:
                meter.sample(samples)
    meter.sample(samples)
    return samples, meter


def decode_maps(seed: int, cases: int, folder: Path) -> FaultReport:
    """Decode noisy maps with 1 to 30 people `cases` times."""
    from evaluation.decoder.decode import decode
    from tests.benchmarks.decoding import crowd_maps

    del folder
    before = _children()
    maps = [crowd_maps(people, seed, noise=0.02) for people in (1, 2, 3, 4, 6, 30)]
    report, meter = FaultReport(cases), ProcessMeter()
    found = {}
    for case in range(cases):
        which = case % len(maps)
        people = len(decode(maps[which]))
        if found.setdefault(which, people) != people:
            report.failures.append(f"decoding {case}: {people} people, expected {found[which]} as before")
        if case % max(1, cases // MAX_SAMPLES) == 0:
            meter.sample(case)
    meter.report_to("decoder", report)
    _report_children(report, before)
    return report
