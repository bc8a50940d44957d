"""The memory of a process that writes shards grows neither with the size of the shards nor with their number."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support.coco_folder import CATEGORY, ROOT, image, jpeg, person, write

PICTURES = 128
PICTURE_BYTES = 2 << 20

_PEAKS = """
import sys
from pathlib import Path
from pipeline.build.plan import BuildOptions, make_plan
from pipeline.build.write_shard import write_shard
from tests.benchmarks.shards import peak_mb
tasks = make_plan([(Path(sys.argv[1]), "train")], BuildOptions(records_per_shard=16)).tasks
whole = make_plan([(Path(sys.argv[1]), "train")], BuildOptions(records_per_shard=128)).tasks
for name, planned in (("first", tasks[:1]), ("all", tasks), ("large", whole)):
    out = Path(sys.argv[2]) / name
    out.mkdir()
    results = [write_shard(task, out) for task in planned]
    print(sum(result.statistics.picture_bytes for result in results) >> 20, round(peak_mb()))
"""


def _heavy_coco(folder: Path) -> Path:
    """Write images of 2 MB each. All are hard links to one JPEG file, which consists mostly of comment segments."""
    images = [image(number + 1) for number in range(PICTURES)]
    people = [person(number + 1, number + 1) for number in range(PICTURES)]
    write(folder, {"images": images, "annotations": people, "categories": [CATEGORY]}, pictures=False)
    data, comment = jpeg(48, 64), b"\xff\xfe\xff\xff" + os.urandom(65533)
    first = folder / "train" / images[0]["file_name"]
    first.write_bytes(data[:2] + comment * (PICTURE_BYTES // len(comment)) + data[2:])
    for entry in images[1:]:
        (folder / "train" / entry["file_name"]).hardlink_to(first)
    return folder


def test_memory_does_not_grow_with_the_shard_or_the_set(tmp_path: Path) -> None:
    coco = _heavy_coco(tmp_path / "coco")
    result = subprocess.run(
        [sys.executable, "-c", _PEAKS, str(coco), str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    (first_data, first), (all_data, most), (large_data, large) = (
        map(int, line.split()) for line in result.stdout.splitlines()
    )
    assert all_data >= 8 * first_data
    assert large_data >= 240
    assert most - first < 80
    assert large - most < 32
    assert large < 250
