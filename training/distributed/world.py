"""Where this process runs: its device, its rank and how many others there are."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import communication, ops
from numpy.typing import NDArray

from pipeline.errors import InputError
from training.distributed.environment import launched_by_msrun, local_world_size


@dataclass(frozen=True)
class World:
    """A process among all that train together; `local_size` of the `size` are on this machine."""

    device: str
    rank: int = 0
    size: int = 1
    local_size: int = 1

    @property
    def targets_on_device(self) -> bool:
        """Whether drawing targets belongs on the device: an Ascend has power to spare, a CPU is the host itself."""
        return self.device == "Ascend"

    def all_gather(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        """Put the (N,) values of all processes together, rank by rank; every process has to call this."""
        if self.size == 1:
            return values
        # as pairs of int32: on CPU, an AllGather of int64 drops the upper halves without a word
        halves = ms.Tensor(np.ascontiguousarray(values).view(np.int32))
        gathered: NDArray[np.int32] = ops.AllGather()(halves).asnumpy()
        return gathered.view(np.int64)

    def broadcast(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """The (N,) values that rank 0 has; every process has to call this, with as many."""
        if self.size == 1:
            return values
        everywhere: NDArray[np.float32] = ops.AllGather()(ms.Tensor(values)).asnumpy()
        return everywhere[: len(values)]


def init_world(device: str, debug_folder: Path) -> World:
    """Choose the device and join the other processes; comes before any tensor is made.

    Args:
        device: auto (Ascend where MindSpore loads it, else CPU), cpu or ascend.
        debug_folder: where MindSpore leaves graphs that do not compile, instead of in the working directory; removed
            at exit if it is empty.

    Raises:
        InputError: the device asked for is not there, or not all processes came together.
    """
    ascend = ms.hal.is_available("Ascend")
    if device == "ascend" and not ascend:
        raise InputError("--device ascend: MindSpore finds no Ascend here; install CANN, or use --device cpu")
    target = "Ascend" if ascend and device != "cpu" else "CPU"
    _set_device(target)
    ms.set_context(mode=ms.GRAPH_MODE, save_graphs_path=str(debug_folder))
    atexit.register(_remove_if_empty, debug_folder)
    if not launched_by_msrun():
        return World(target)
    _come_together()
    size = communication.get_group_size()
    world = World(target, communication.get_rank(), size, local_world_size(size))
    ms.set_auto_parallel_context(
        parallel_mode=ms.ParallelMode.DATA_PARALLEL, gradients_mean=True, device_num=world.size
    )
    return world


def _come_together() -> None:
    """Wait for all processes; the scheduler among them stays here until they end."""
    try:
        communication.init()
    except RuntimeError as error:
        reason = str(error).strip().partition(". ")[0]
        count = os.environ.get("MS_WORKER_NUM")
        raise InputError(
            f"not all of {count} processes came together: does this command run on every machine of --hosts, with the "
            f"same --master and --master-port? MindSpore says: {' '.join(reason.split())}"
        ) from error


def make_debug_folder() -> Path:
    """A folder for what MindSpore leaves of graphs that do not compile, where there is no run's: it goes at exit."""
    folder = Path(tempfile.mkdtemp(prefix="openpose-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _set_device(target: str) -> None:
    """Choose the device, unless the caller has used this very one already: MindSpore allows no choice after that."""
    current = ms.get_context("device_target")
    try:
        ms.set_device(target)
    except RuntimeError:
        if current != target:
            raise


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()
