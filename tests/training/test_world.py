"""Communication between two processes under msrun."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.support.coco_folder import ROOT

SCRIPT = """
import hashlib
import os
import time
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import ops

from training.loop.evaluation_network import EvaluationNetwork
from training.config import ModelConfig
from training.distributed.file_barrier import FileBarrier
from training.network.openpose import OpenPose
from training.distributed.world import init_world

world = init_world("cpu", Path("debug"))
barrier = FileBarrier(Path(), world)
for length in (0, 1, 8, 9, 100_000):
    parts = barrier.all_gather(bytes([world.rank]) * (length + 3 * world.rank))
    assert parts == [bytes([rank]) * (length + 3 * rank) for rank in range(world.size)], length
time.sleep(float(os.environ.get("DELAY_SECONDS", 1)) * world.rank)
assert barrier.all_gather(b"late") == [b"late"] * 2
first = np.arange(1000, dtype=np.float32) / 7
np.testing.assert_array_equal(world.broadcast(first + world.rank), first)

ms.set_seed(0)
config = ModelConfig(backbone="compact", feature_widths=(8, 8), stages=1, first_width=8, stage_width=8, batch_norm=True)
network = OpenPose(config)
image = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
evaluation_network = EvaluationNetwork(config)
digests = []
for moment in (-0.1, -0.2):  # below 0, so that values above the mean pass the activation
    for parameter in network.get_parameters():
        if parameter.name.endswith("moving_mean"):
            ops.assign(parameter, ms.Tensor(np.full(parameter.shape, moment * (1 + world.rank), np.float32)))
    evaluation_network.copy_weights({parameter.name: parameter for parameter in network.get_parameters()}, world)
    own = hashlib.sha256(b"".join(maps.tobytes() for maps in evaluation_network.infer(image))).digest()
    assert len(set(barrier.all_gather(own))) == 1, moment
    digests.append(own)
assert digests[0] != digests[1]
print(f"rank {world.rank} of {world.size} agrees")
"""


def test_two_processes_gather_bytes_and_compute_equal_maps(tmp_path):
    """One process is late, and their running statistics of batch normalisation differ.

    With DELAY_SECONDS=60 in the environment, the delay exceeds the timeout of MindSpore's own collectives.
    """
    (tmp_path / "communicate.py").write_text(SCRIPT)
    (tmp_path / ".barrier-of-a-run-that-was-killed").touch()
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    msrun = shutil.which("msrun", path=path)
    assert msrun is not None
    command = [msrun, "--worker_num=2", "--local_worker_num=2", "--join=True", "--master_port=8219"]
    subprocess.run(
        [*command, f"--log_dir={tmp_path}", "python", str(tmp_path / "communicate.py")],
        cwd=tmp_path,
        env=os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=300,
        check=False,
    )
    logs = [(tmp_path / f"worker_{rank}.log").read_text() for rank in range(2)]
    for rank, log in enumerate(logs):
        assert f"rank {rank} of 2 agrees" in log, log[-3000:]
    assert not list(tmp_path.glob(".barrier-*"))


_FAILED_COMPILATION = """
from training.distributed.world import init_world

init_world("cpu")
import mindspore as ms
from mindspore import nn, ops


class Cell(nn.Cell):
    def construct(self, x):
        return ops.matmul(x, x)


try:
    Cell()(ms.Tensor([[1.0, 2.0, 3.0]]))
except RuntimeError:
    print("not compiled")
"""


def test_graphs_of_failed_compilations_go_to_the_users_cache(tmp_path):
    """Neither the working directory nor the system's temporary folder receives files, at success nor at failure."""
    for name in ("work", "cache", "tmp"):
        (tmp_path / name).mkdir()
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "TMPDIR": str(tmp_path / "tmp"),
    }
    script = tmp_path / "script.py"  # MindSpore compiles source text, which it finds in a file only
    script.write_text(_FAILED_COMPILATION)
    command = [sys.executable, str(script)]
    result = subprocess.run(command, cwd=tmp_path / "work", env=environment, capture_output=True, text=True, check=True)
    assert "not compiled" in result.stdout
    assert not list((tmp_path / "work").iterdir())
    assert not list((tmp_path / "tmp").iterdir())
    assert list((tmp_path / "cache" / "openpose-mindspore").rglob("analyze_fail.ir"))
