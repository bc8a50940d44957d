"""Device, rank and world size of this process, and collective communication among the processes of a run."""

from __future__ import annotations

import os
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
    """The processes that train together, as seen from one of them.

    Attributes:
        device: MindSpore's device target, `CPU` or `Ascend`.
        rank: rank of this process.
        size: world size: number of processes on all machines.
        local_size: number of processes on this machine.
    """

    device: str
    rank: int = 0
    size: int = 1
    local_size: int = 1

    @property
    def targets_on_device(self) -> bool:
        """True if training targets are best rendered on the device: an Ascend has spare capacity, a CPU has none."""
        return self.device == "Ascend"

    def all_gather(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        """Concatenate the (N,) values of all processes in the order of rank; a collective call."""
        if self.size == 1:
            return values
        # as pairs of int32: on CPU, AllGather of int64 drops the upper halves without an error
        halves = ms.Tensor(np.ascontiguousarray(values).view(np.int32))
        gathered: NDArray[np.int32] = ops.AllGather()(halves).asnumpy()
        return gathered.view(np.int64)

    def broadcast(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the (N,) values of rank 0; a collective call with the same N on every process."""
        if self.size == 1:
            return values
        gathered: NDArray[np.float32] = ops.AllGather()(ms.Tensor(values)).asnumpy()
        return gathered[: len(values)]


def init_world(device: str, debug_folder: Path | None = None) -> World:
    """Select the device and connect to the other processes. Call it before creating any tensor.

    Args:
        device: `auto` (Ascend if MindSpore can load it, else CPU), `cpu` or `ascend`.
        debug_folder: folder for the graphs that MindSpore dumps when compilation fails, created only then; None for a
            folder in the user's cache. Without it they would go to the working directory.

    Raises:
        InputError: the requested device is not available, or not all processes connected.
    """
    ascend = ms.hal.is_available("Ascend")
    if device == "ascend" and not ascend:
        raise InputError("--device ascend: MindSpore finds no Ascend device; install CANN, or use --device cpu")
    target = "Ascend" if ascend and device != "cpu" else "CPU"
    _set_device(target)
    ms.set_context(mode=ms.GRAPH_MODE)
    os.environ["MS_OM_PATH"] = str((debug_folder or _user_debug_folder()).resolve())
    if not launched_by_msrun():
        return World(target)
    _init_communication()
    size = communication.get_group_size()
    world = World(target, communication.get_rank(), size, local_world_size(size))
    ms.set_auto_parallel_context(
        parallel_mode=ms.ParallelMode.DATA_PARALLEL, gradients_mean=True, device_num=world.size
    )
    return world


def _init_communication() -> None:
    """Wait until all processes are connected. In the scheduler this call returns only after all workers have ended."""
    try:
        communication.init()
    except RuntimeError as error:
        reason = str(error).strip().partition(". ")[0]
        count = os.environ.get("MS_WORKER_NUM")
        raise InputError(
            f"not all of {count} processes connected: run this command on every machine of --hosts, with the same "
            f"--master and --master-port; MindSpore reports: {' '.join(reason.split())}"
        ) from error


def _user_debug_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "openpose-mindspore"


def _set_device(target: str) -> None:
    """Select the device. MindSpore refuses that after first use of a device, which is no error if it is the same."""
    current = ms.get_context("device_target")
    try:
        ms.set_device(target)
    except RuntimeError:
        if current != target:
            raise
