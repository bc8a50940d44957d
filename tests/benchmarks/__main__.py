"""Command line of the benchmarks (`make bench`): python -m tests.benchmarks."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import click

from pipeline.errors import InputError, reports_input_errors
from pipeline.system.log_filters import silence_mindspore
from tests.benchmarks.table import ABOUT, format_table
from tests.support.coco_folder import real_coco

DEVICES = 8
DEVICE_RATES = (35, 250)
"""Images per second of one Ascend device: the training rate of the reference, and a rate without waiting for data."""

NUM_SYNTHETIC = 64
LONGER_SIDE = 640
"""Longer side of the synthetic images in px, as in COCO."""


@click.command(context_settings={"show_default": True})
@click.option(
    "--coco",
    type=click.Path(path_type=Path),
    show_default="COCO_MINI if it exists, else synthetic images",
    help="COCO folder.",
)
@click.option("--split", default="train2017", help="Split of the COCO folder.")
@click.option(
    "--shards", type=click.Path(path_type=Path), help="Shard set to read, instead of building one from --coco."
)
@click.option("--records", type=click.IntRange(200), default=2000, help="Images; those of --coco are repeated.")
@click.option("--rounds", type=click.IntRange(1), default=5, help="Rounds of decoder and pipeline; the median is used.")
@click.option("--steps", type=click.IntRange(20), default=80, help="Training steps of the demo recipe.")
@click.option("--full-network", is_flag=True, help="Also train steps of configs/openpose.yaml: 11 GB of memory on CPU.")
@click.option("--planning", is_flag=True, help="Also plan a set of the size of COCO train2017; takes minutes.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("bench.json"), help="Output file.")
@click.option("--compare", type=click.Path(path_type=Path), help="Earlier bench.json to compare with.")
@reports_input_errors
def main(
    *,
    coco: Path | None,
    split: str,
    shards: Path | None,
    records: int,
    rounds: int,
    steps: int,
    full_network: bool,
    planning: bool,
    out: Path,
    compare: Path | None,
) -> None:
    """Measure the throughput of JPEG decoding and of each part of the project; takes about three minutes."""
    silence_mindspore()
    old = _read_json(compare) if compare else None
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="openpose-bench-") as folder:
        benchmark = Benchmark(Path(folder), coco, split, shards, records)
        numbers = benchmark.run(rounds=rounds, steps=steps, full_network=full_network, planning=planning)
    numbers["seconds"] = round(time.monotonic() - start)
    out.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    click.echo("\n".join(f"{name}: {value}" for name, value in numbers[ABOUT].items()))
    click.echo(format_table(numbers, old))
    click.echo(f"{out}: all numbers")


class Benchmark:
    """Images and shards for the measurements, and the sequence of the measurements."""

    def __init__(self, folder: Path, coco: Path | None, split: str, shards: Path | None, records: int) -> None:
        self.folder = folder
        self.split = split
        self.records = records
        self.coco = None if shards and not coco else self._find_images(coco)
        self.shards = shards or self._build()

    def run(self, *, rounds: int, steps: int, full_network: bool, planning: bool) -> dict[str, Any]:
        """Run all measurements; return the content of bench.json."""
        from tests.benchmarks.backends import measure_backends
        from tests.benchmarks.decoding import measure_decoding
        from tests.benchmarks.evaluation import measure_evaluation
        from tests.benchmarks.online import measure_online, measure_stages
        from tests.benchmarks.shards import measure_planning, measure_shards
        from tests.benchmarks.targets import measure_targets
        from tests.benchmarks.training import measure_full_step, measure_training

        numbers: dict[str, Any] = {ABOUT: self._description()}
        numbers |= _measure(
            "decoder and pipeline", lambda: measure_online(self.shards, rounds=rounds, records=self.online)
        )
        numbers |= ratios(numbers)
        numbers["sample_ms"] = _measure("stages of a sample", lambda: measure_stages(self.shards, records=300))
        numbers |= _measure("targets", measure_targets)
        if self.coco:
            coco = self.coco
            numbers |= shard_numbers(_measure("shards", lambda: measure_shards(coco, self.split, self.records, (1, 2))))
        numbers |= _measure("training", lambda: measure_training(self.shards, self.folder, steps=steps))
        numbers["decoding"] = _measure("decoding", measure_decoding)
        numbers["evaluation"] = _measure("evaluation", lambda: measure_evaluation(self.shards, limit=100))
        numbers["backends"] = _measure("back ends", lambda: measure_backends(None))
        if full_network:
            device_ms = numbers["targets_device_ms"]
            numbers |= _measure("full network", lambda: measure_full_step(self.shards, self.folder, device_ms))
        if planning:
            numbers["planning"] = _measure("planning", measure_planning)
        return numbers

    @property
    def online(self) -> int:
        """Number of records read in each round: half of all, to keep the alternating rounds short."""
        from pipeline.storage.manifest import Manifest

        return min(self.records, Manifest.load(self.shards).records) // 2

    def _find_images(self, coco: Path | None) -> Path:
        """Return `coco`, or else the folder with real images, or else generate images of COCO's size."""
        from pipeline.synthetic import generate
        from tests.benchmarks.repeat import add_noise

        coco = coco or real_coco()
        if coco is None:
            coco, self.split = self.folder / "generated", "train2017"
            _measure("image generation", lambda: generate(coco, train=NUM_SYNTHETIC, val=0, size=LONGER_SIDE))
            add_noise(coco / self.split)
        return coco

    def _build(self) -> Path:
        """Build a shard set of `records` images with trainable people."""
        from pipeline.annotations.sources import splits_from_options
        from pipeline.build.build_set import build
        from pipeline.build.plan import BuildOptions
        from tests.benchmarks.repeat import repeat_coco

        assert self.coco is not None
        repeated = repeat_coco(self.coco, self.split, self.records, self.folder / "coco", trainable_only=True)
        shards = self.folder / "shards"
        build(splits_from_options([repeated], [self.split], [], []), shards, BuildOptions())
        return shards

    def _description(self) -> dict[str, str]:
        from pipeline.storage.manifest import Manifest

        manifest = Manifest.load(self.shards)
        statistics = manifest.statistics
        where = self.coco if self.coco else self.shards
        kilobytes = statistics.picture_bytes / manifest.records / 1000
        return {
            "date": date.today().isoformat(),
            "processor": f"{_processor_name()}, {len(os.sched_getaffinity(0))} cores, {platform.machine()}",
            "software": ", ".join(
                f"{name} {importlib.metadata.version(name)}"
                for name in ("mindspore", "numpy", "opencv-python-headless", "simplejpeg")
            )
            + f", Python {platform.python_version()}",
            "pictures": f"{manifest.records} records of {where}, {kilobytes:.0f} KB each, {statistics.people} people",
        }


def shard_numbers(found: dict[str, Any]) -> dict[str, Any]:
    """Convert the result of `measure_shards` to the keys of bench.json."""
    numbers: dict[str, Any] = {}
    for workers, about in found["workers"].items():
        numbers[f"shards_{workers}_worker{'s' if workers > 1 else ''}"] = round(about["per_second"], 1)
    most = max(found["workers"])
    return {
        **numbers,
        "shards_start_s": round(found["workers"][most]["start_seconds"], 2),
        "shards_worker_peak_mb": round(max(about["peak_mb"] for about in found["workers"].values())),
        "shard_ms": {stage: round(milliseconds, 3) for stage, milliseconds in found["stages_ms"].items()},
    }


def _measure(what: str, measure: Callable[[], Any]) -> Any:
    click.echo(f"measuring {what} …", err=True)
    return measure()


def ratios(numbers: dict[str, Any]) -> dict[str, Any]:
    """Compute ratios between the rates, and the host CPU cores needed for eight devices."""
    bound, reached = numbers["decode_only_2_threads"], numbers["pipeline_2_threads"]
    budget = {}
    for rate in DEVICE_RATES:
        budget[f"samples_per_s_for_{DEVICES}_devices_at_{rate}"] = DEVICES * rate
        budget[f"cores_for_{DEVICES}_devices_at_{rate}"] = round(DEVICES * rate / (reached / 2), 1)
    return {
        "pipeline_of_decode_only": round(reached / bound, 3),
        "pipeline_targets_of_decode_only": round(numbers["pipeline_targets_2_threads"] / bound, 3),
        "host_budget": budget,
    }


def _processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown processor"


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; expected an earlier bench.json") from error
    except ValueError as error:
        raise InputError(f"{path}: not JSON; expected an earlier bench.json") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected an earlier bench.json")
    return content


if __name__ == "__main__":
    main()
