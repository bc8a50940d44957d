"""Benchmark of planning and writing shards: throughput, memory, and time of each stage."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.repeat import repeat_coco
from tests.support.coco_folder import ROOT

_BUILD = """
import json, sys, time
from pathlib import Path
start = time.monotonic()
from joblib import Parallel, delayed
from pipeline.build.plan import BuildOptions
from pipeline.shards import build
from tests.benchmarks.shards import peak_mb, warm_up
coco, split, out, workers = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])
Parallel(n_jobs=workers)(delayed(warm_up)() for _ in range(workers))
ready = time.monotonic()
build([(coco, split)], out, BuildOptions(keep_empty=True), workers=workers)
done = time.monotonic()
peaks = Parallel(n_jobs=workers)(delayed(peak_mb)() for _ in range(workers))
print(json.dumps({"start": ready - start, "build": done - ready, "peak_mb": max(peaks)}))
"""

_PLAN = """
import json, sys, time
from pathlib import Path
from pipeline.build.plan import BuildOptions, make_plan
from tests.benchmarks.shards import peak_mb
wall, cpu = time.monotonic(), time.process_time()
plan = make_plan([(Path(sys.argv[1]), sys.argv[2])], BuildOptions(keep_empty=True))
print(json.dumps({
    "seconds": time.monotonic() - wall,
    "cpu_seconds": time.process_time() - cpu,
    "peak_mb": peak_mb(),
    "tasks": len(plan.tasks),
}))
"""


def warm_up() -> None:
    """Import in a worker everything that a task imports."""
    import cv2  # noqa: F401

    import pipeline.build.write_shard  # noqa: F401
    from pipeline.storage.mindrecord_writer import load_backend

    load_backend()
    time.sleep(0.1)  # so that every worker runs exactly one warm-up


def peak_mb() -> float:
    """Return the peak resident memory of this process in MB; getrusage would include memory of the parent process."""
    time.sleep(0.1)
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def measure_shards(
    coco: Path, split: str, records: int, workers: Sequence[int] = (1, 2), *, rounds: int = 3
) -> dict[str, Any]:
    """Build a set from a COCO folder repeated to `records` images; the numbers of workers alternate.

    Args:
        coco: COCO folder; if it is not on the file system of the temporary folder, its files are copied.
        split: split of the COCO folder.
        records: number of images in the set.
        workers: numbers of processes to compare.
        rounds: number of measurements; the best is used.

    Returns:
        By number of workers: `per_second` (images per second, with planning, without start-up), `start_seconds` (start
        of Python and all workers), `peak_mb` (peak memory of the largest worker); `stages_ms`: ms per image by stage.
    """
    with tempfile.TemporaryDirectory(prefix="bench-shards-") as temporary:
        folder = repeat_coco(coco, split, records, Path(temporary) / "coco")
        runs: dict[int, list[dict[str, float]]] = {count: [] for count in workers}
        for _ in range(rounds):
            for count in workers:
                out = Path(temporary) / "set"
                runs[count].append(_run(_BUILD, str(folder), split, str(out), str(count)))
                shutil.rmtree(out)
        return {
            "records": records,
            "workers": {
                count: {
                    "per_second": records / min(run["build"] for run in found),
                    "start_seconds": min(run["start"] for run in found),
                    "peak_mb": max(run["peak_mb"] for run in found),
                }
                for count, found in runs.items()
            },
            "stages_ms": measure_stages(folder, split),
        }


def measure_stages(coco: Path, split: str, *, rounds: int = 3) -> dict[str, float]:
    """Return the CPU time in ms per image of each stage of writing one shard of 256 images; the best of `rounds`."""
    from pipeline.build.plan import BuildOptions, make_plan

    start = time.process_time()
    plan = make_plan([(coco, split)], BuildOptions(keep_empty=True))
    pictures = sum(len(task.images) for task in plan.tasks)
    best = {"plan": (time.process_time() - start) * 1e3 / pictures}
    with tempfile.TemporaryDirectory(prefix="bench-shards-") as temporary:
        for number in range(rounds):
            for name, milliseconds in _stages(plan.tasks[0], Path(temporary) / f"{number}.mindrecord"):
                best[name] = min(milliseconds, best.get(name, milliseconds))
    return best


def _stages(task: Any, path: Path) -> Iterator[tuple[str, float]]:
    from pipeline.build import write_shard as writing
    from pipeline.images.decode import check_image
    from pipeline.storage.mindrecord_writer import create_writer
    from pipeline.storage.records import SCHEMA
    from pipeline.storage.statistics import Statistics

    def timed(work: Callable[[], Any]) -> tuple[Any, float]:
        start = time.process_time()
        result = work()
        return result, (time.process_time() - start) * 1e3 / len(task.images)

    statistics = Statistics()
    files, milliseconds = timed(
        lambda: [
            Path(task.image_folders[source].file_path(picture.file_name)).read_bytes()
            for source, picture in task.images
        ]
    )
    yield "read", milliseconds
    yield "check", timed(lambda: [check_image(data) for data in files])[1]
    rows, milliseconds = timed(
        lambda: [
            writing._make_record(source, picture, data, statistics)
            for (source, picture), data in zip(task.images, files, strict=True)
        ]
    )
    yield "annotations and ignore regions", milliseconds
    writer = create_writer(path, SCHEMA, page_size=task.layout.page_size, header_size=task.layout.header_size)
    step = writing._BATCH_RECORDS
    yield "write", timed(lambda: [writer.write(rows[at : at + step]) for at in range(0, len(rows), step)])[1]
    yield "index", timed(writer.commit)[1]
    yield "hash", timed(lambda: writing._describe_shard(path, statistics))[1]


def measure_planning(records: int = 118_000, *, generated: int = 3000) -> dict[str, Any]:
    """Plan a set of the size of COCO train2017, from synthetic annotations and empty image files.

    Args:
        records: number of images.
        generated: number of generated images, which are repeated.

    Returns:
        `json_mb`, `seconds`, `cpu_seconds`, `peak_mb` and `tasks`.
    """
    from pipeline.synthetic import generate

    with tempfile.TemporaryDirectory(prefix="bench-plan-") as temporary:
        small = Path(temporary) / "generated"
        generate(small, train=min(generated, records), val=0, pictures=False)
        coco = repeat_coco(small, "train2017", records, Path(temporary) / "coco", pictures=False)
        json_mb = (coco / "annotations" / "person_keypoints_train2017.json").stat().st_size / 1e6
        return {"records": records, "json_mb": json_mb, **_run(_PLAN, str(coco), "train2017")}


def _run(code: str, *arguments: str) -> dict[str, float]:
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if result.returncode:
        raise RuntimeError(result.stderr)
    found: dict[str, float] = json.loads(result.stdout)
    return found
