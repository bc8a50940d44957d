"""Load: memory and file handles stay flat over many pictures, epochs and decodings, and no process is left."""

from __future__ import annotations

import os
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import psutil

from tests.faults.report import Findings

MOST_GROWTH = 30.0
"""MB by which a process may grow over a suite once it is warm; what a line through its memory rises by."""
WARM = 0.5
"""Part of the samples that come before a process is warm."""
SAMPLES = 200


@dataclass
class Meter:
    """Memory of a process while it works."""

    pid: int = field(default_factory=os.getpid)
    counts: list[float] = field(default_factory=list)
    megabytes: list[float] = field(default_factory=list)
    handles: list[int] = field(default_factory=list)

    def sample(self, count: float) -> None:
        """Look at the process after so much work; one that has ended is left out."""
        try:
            process = psutil.Process(self.pid)
            memory, handles = process.memory_info().rss / 1e6, process.num_fds()
        except psutil.Error:
            return
        self.counts.append(count)
        self.megabytes.append(memory)
        self.handles.append(handles)

    def slope(self) -> float:
        """MB for each unit of work, by least squares over the warm samples."""
        first = int(WARM * len(self.counts))
        counts, memory = np.array(self.counts[first:]), np.array(self.megabytes[first:])
        if len(counts) < 3:
            return 0.0
        return float(np.polyfit(counts - counts.mean(), memory, 1)[0])

    def judge(self, name: str, findings: Findings) -> None:
        """Add what was measured and what is wrong with it."""
        first = int(WARM * len(self.counts))
        work = self.counts[-1] - self.counts[first]
        growth = self.slope() * work
        more = self.handles[-1] - self.handles[first]
        findings.figures.append(
            f"{name}: {max(self.megabytes):.0f} MB, {1000 * self.slope():+.3f} MB per 1,000, {more:+d} file handles"
        )
        if growth > MOST_GROWTH:
            findings.failures.append(f"{name}: grew by {growth:.0f} MB over {work:,.0f}")
        if more > 2:
            findings.failures.append(f"{name}: {more} file handles more")


def _left(findings: Findings) -> None:
    """Note processes that are left below this one, those that multiprocessing itself keeps apart."""
    left = [child for child in psutil.Process().children(recursive=True) if _is_left(child)]
    findings.figures.append(f"{len(left)} processes left")
    findings.failures.extend(f"process {child.pid} is left" for child in left)


def _is_left(child: psutil.Process) -> bool:
    try:
        return child.status() == psutil.STATUS_ZOMBIE or "resource_tracker" not in " ".join(child.cmdline())
    except psutil.Error:
        return False


def pack_pictures(seed: int, cases: int, folder: Path) -> Findings:
    """So many drawn pictures, of a few kinds, through the command that writes shards, with two workers."""
    from pipeline.storage.manifest import Manifest
    from tests.faults.scenarios.builds import start_build

    coco = _source(folder, seed, cases)
    findings = Findings(cases)
    build = start_build(coco, folder / "set", "--keep-empty", "--records-per-shard", 64)
    meters: dict[int, Meter] = {}
    total = -(-cases // 64)
    while build.poll() is None:
        done = 64 * len(list((folder / "set").glob("shard-*.json")))
        for process in _family(build.pid):
            meters.setdefault(process.pid, Meter(process.pid)).sample(done)
        time.sleep(0.2)
    error = build.communicate()[1]
    if build.returncode or Manifest.load(folder / "set", hash_all=True).records != cases:
        findings.failures.append(f"ended with {build.returncode}: {error[-200:]}")
    busiest = sorted(meters.values(), key=lambda meter: -max(meter.megabytes, default=0))[:3]
    for number, meter in enumerate(busiest):
        if len(meter.counts) > 8:
            meter.judge(f"process {number} of the build", findings)
    findings.figures.append(f"{total} shards")
    _left(findings)
    return findings


def _source(folder: Path, seed: int, pictures: int) -> Path:
    """A COCO folder of so many pictures, links to a few drawn ones."""
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


def _family(pid: int) -> list[psutil.Process]:
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.Error:
        return []


EPOCHS = 3


def read_epochs(seed: int, cases: int, folder: Path) -> Findings:
    """Three epochs of augmented batches with targets in each of two ranks, so many samples in all."""
    from pipeline.build.build_set import build
    from pipeline.build.plan import BuildOptions

    records = max(64, cases // EPOCHS)
    coco = _source(folder, seed, records)
    build([(coco, "train")], folder / "set", BuildOptions(keep_empty=True), workers=1)
    findings = Findings()
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        ranks = [pool.submit(read_rank, folder / "set", seed, rank, 2) for rank in range(2)]
        for rank, (samples, meter) in enumerate(one.result() for one in ranks):
            findings.cases += samples
            meter.judge(f"rank {rank}", findings)
    _left(findings)
    return findings


def read_rank(shards: Path, seed: int, rank: int, world_size: int) -> tuple[int, Meter]:
    """Read all epochs of one rank; how many samples, and what it took."""
    from pipeline.loading.augment import AugmentConfig
    from pipeline.loading.batches import create_batches
    from pipeline.loading.targets import TargetConfig
    from pipeline.system.log_filters import silence_mindspore

    silence_mindspore()
    meter, samples = Meter(), 0
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
        every = max(1, EPOCHS * len(batches) // SAMPLES)
        for number, batch in enumerate(batches):
            samples += len(batch["image_id"])
            if number % every == 0:
                meter.sample(samples)
    meter.sample(samples)
    return samples, meter


def decode_maps(seed: int, cases: int, folder: Path) -> Findings:
    """So many decodings of maps with one to thirty people and noise."""
    from evaluation.decoder.decode import decode
    from tests.benchmarks.decoding import crowd_maps

    del folder
    maps = [crowd_maps(people, seed, noise=0.02) for people in (1, 2, 3, 4, 6, 30)]
    findings, meter = Findings(cases), Meter()
    found = {}
    for case in range(cases):
        which = case % len(maps)
        people = len(decode(maps[which]))
        if found.setdefault(which, people) != people:
            findings.failures.append(f"decoding {case}: {people} people, {found[which]} before")
        if case % max(1, cases // SAMPLES) == 0:
            meter.sample(case)
    meter.judge("decoder", findings)
    _left(findings)
    return findings
