"""Finding people with several processes on one machine, each with its own device, and their detections gathered.

The processes are independent: nothing is sent between devices, so none of them waits for another, and MindSpore's
msrun, which would join them to a cluster, is not needed. On Ascend each process sees one device only.
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

from evaluation.scoring.datasets import PictureSet
from evaluation.scoring.detect import Detections, detect_people, gather, nothing
from pipeline.errors import InputError
from pipeline.system.processes import exit_with_process

if TYPE_CHECKING:
    from evaluation.inference.predictor import Predictor

VISIBLE_DEVICES = "ASCEND_RT_VISIBLE_DEVICES"
"""CANN shows a process the devices that this names, counted anew from 0."""


class ProcessError(RuntimeError):
    """A process ended without its detections; one line says which and how."""


def detect_in_processes(
    load: Callable[[], Predictor],
    pictures: PictureSet,
    shares: Sequence[Sequence[int]],
    on_picture: Callable[[], object] = nothing,
) -> Detections:
    """Run `finding.detect_people` in a process a share; none outlives this call.

    Args:
        load: makes a network ready; called once in each process, to which it has to be sent.
        pictures: the set.
        shares: indices of each process's pictures.
        on_picture: called here whenever a picture is done anywhere.

    Raises:
        InputError: as `detect_people`, from the process that met it first.
        ProcessError: a process failed otherwise, or was killed.
    """
    start = time.monotonic()
    devices = [visible_device(rank, len(shares), os.environ) for rank in range(len(shares))]
    context = multiprocessing.get_context("spawn")
    processes: list[SpawnProcess] = []
    answers: dict[Connection, int] = {}
    try:
        for rank, share in enumerate(shares):
            answer, end = context.Pipe(duplex=False)
            process = context.Process(target=_work, args=(end, load, pictures, share, devices[rank]), daemon=True)
            process.start()
            end.close()  # so that the pipe breaks when the process ends
            processes.append(process)
            answers[answer] = rank
        parts = _collect(answers, processes, on_picture)
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.join()
    return gather(parts, time.monotonic() - start)


def visible_device(rank: int, processes: int, environment: Mapping[str, str]) -> str:
    """The device of a process: of those that the environment names, or of all; InputError if there are too few."""
    named = [name for name in environment.get(VISIBLE_DEVICES, "").split(",") if name.strip()]
    if named and processes > len(named):
        raise InputError(f"{processes} processes, but {VISIBLE_DEVICES}={','.join(named)} names {len(named)} devices")
    return named[rank] if named else str(rank)


def _collect(
    answers: Mapping[Connection, int], processes: Sequence[SpawnProcess], on_picture: Callable[[], object]
) -> list[Detections]:
    """The detections of every process, by rank."""
    parts: dict[int, Detections] = {}
    while len(parts) < len(processes):
        waiting = [answer for answer, rank in answers.items() if rank not in parts]
        for answer in wait(waiting):
            assert isinstance(answer, Connection)
            rank = answers[answer]
            try:
                message = answer.recv()
            except EOFError:
                processes[rank].join()
                raise ProcessError(_ending(rank, processes)) from None
            if isinstance(message, Detections):
                parts[rank] = message
            elif isinstance(message, Exception):
                raise message
            else:
                on_picture()
    return [parts[rank] for rank in range(len(processes))]


def _ending(rank: int, processes: Sequence[SpawnProcess]) -> str:
    code = processes[rank].exitcode or 0
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    return f"process {rank + 1} of {len(processes)} {how} before it was done"


def _work(
    answer: Connection, load: Callable[[], Predictor], pictures: PictureSet, share: Sequence[int], device: str
) -> None:
    """What a process does: a None for each picture done, then its detections or the error that it met."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which ends us
    parent = multiprocessing.parent_process()
    assert parent is not None
    assert parent.pid is not None
    exit_with_process(parent.pid)
    os.environ[VISIBLE_DEVICES] = device
    try:
        detections = detect_people(load(), pictures.records(share), lambda: answer.send(None))
    except InputError as error:
        answer.send(InputError(str(error)))
    except Exception as error:
        first_line = (str(error).strip().splitlines() or [""])[0]
        answer.send(ProcessError(f"a process failed: {type(error).__name__}: {first_line}"))
    else:
        answer.send(detections)
    answer.close()
    sys.stdout.flush()
