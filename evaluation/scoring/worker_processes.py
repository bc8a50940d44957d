"""Detection with several processes on one machine, one device each.

The processes are independent: devices exchange no data, so no process waits for another. MindSpore's msrun, which
would connect them to a cluster, is not needed. On Ascend, each process can use one device only.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import TYPE_CHECKING

from evaluation.saved_maps.writer import MapWriter
from evaluation.scoring.datasets import EvaluationDataset
from evaluation.scoring.detect import Detections, detect_people, do_nothing, merge_detections
from pipeline.errors import InputError
from pipeline.system.processes import exit_with_process

if TYPE_CHECKING:
    from evaluation.inference.predictor import Predictor

VISIBLE_DEVICES = "ASCEND_RT_VISIBLE_DEVICES"
"""CANN: the devices that a process can use, which are then numbered from 0."""


class WorkerError(RuntimeError):
    """A worker process failed or was killed. The message is one line."""


def detect_in_processes(
    load_predictor: Callable[[], Predictor],
    dataset: EvaluationDataset,
    shares: Sequence[Sequence[int]],
    on_image: Callable[[], object] = do_nothing,
    writer: MapWriter | None = None,
) -> Detections:
    """Run `detect.detect_people` in one process for each share; all processes have ended when this returns.

    Args:
        load_predictor: called once in each process; must be picklable.
        dataset: dataset to evaluate.
        shares: indices of the images of each process.
        on_image: called in this process after each image of any process.
        writer: saves the maps of each image.

    Raises:
        InputError: as `detect_people`; the first error of any process.
        WorkerError: a process failed for another reason, or was killed.
    """
    start = time.monotonic()
    devices = [visible_device(rank, len(shares), os.environ) for rank in range(len(shares))]
    context = multiprocessing.get_context("spawn")
    processes: list[SpawnProcess] = []
    ranks: dict[Connection, int] = {}
    try:
        for rank, share in enumerate(shares):
            receiver, sender = context.Pipe(duplex=False)
            arguments = (sender, load_predictor, dataset, share, writer, devices[rank])
            process = context.Process(target=_run_worker, args=arguments, daemon=True)
            process.start()
            sender.close()  # then the worker holds the only open end, and `recv` raises EOFError when the worker ends
            processes.append(process)
            ranks[receiver] = rank
        parts = _receive_detections(ranks, processes, on_image)
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.join()
    return merge_detections(parts, time.monotonic() - start)


def visible_device(rank: int, processes: int, environment: Mapping[str, str]) -> str:
    """Return the device of a process; raise InputError if VISIBLE_DEVICES names fewer devices than processes."""
    named = [name for name in environment.get(VISIBLE_DEVICES, "").split(",") if name.strip()]
    if named and processes > len(named):
        raise InputError(f"{processes} processes, but {VISIBLE_DEVICES}={','.join(named)} names {len(named)} devices")
    return named[rank] if named else str(rank)


def _receive_detections(
    ranks: Mapping[Connection, int], processes: Sequence[SpawnProcess], on_image: Callable[[], object]
) -> list[Detections]:
    """Receive messages until every process has sent its detections; return these by rank."""
    parts: dict[int, Detections] = {}
    while len(parts) < len(processes):
        pending = [connection for connection, rank in ranks.items() if rank not in parts]
        for connection in wait(pending):
            assert isinstance(connection, Connection)
            rank = ranks[connection]
            try:
                message = connection.recv()
            except EOFError:
                processes[rank].join()
                raise WorkerError(_describe_exit(rank, processes)) from None
            if isinstance(message, Detections):
                parts[rank] = message
            elif isinstance(message, Exception):
                raise message
            else:
                on_image()
    return [parts[rank] for rank in range(len(processes))]


def _describe_exit(rank: int, processes: Sequence[SpawnProcess]) -> str:
    code = processes[rank].exitcode or 0
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    return f"process {rank + 1} of {len(processes)} {how} before it was done"


def _run_worker(
    sender: Connection,
    load_predictor: Callable[[], Predictor],
    dataset: EvaluationDataset,
    share: Sequence[int],
    writer: MapWriter | None,
    device: str,
) -> None:
    """Detect people in a worker process; send None after each image, then the detections or an exception."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process also receives Ctrl-C and ends the workers
    parent = multiprocessing.parent_process()
    assert parent is not None
    assert parent.pid is not None
    exit_with_process(parent.pid)
    os.environ[VISIBLE_DEVICES] = device
    try:
        detections = detect_people(load_predictor(), dataset.records(share), lambda: sender.send(None), writer)
    except InputError as error:
        sender.send(InputError(str(error)))
    except Exception as error:
        first_line = (str(error).strip().splitlines() or [""])[0]
        sender.send(WorkerError(f"a process failed: {type(error).__name__}: {first_line}"))
    else:
        sender.send(detections)
    sender.close()
    sys.stdout.flush()
