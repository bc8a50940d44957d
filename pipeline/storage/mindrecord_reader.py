"""Read rows of MindRecord shards by index: the only module that uses mindspore.dataset."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.storage.manifest import Manifest

Row = dict[str, NDArray[Any]]
"""The columns `TRAIN_COLUMNS` of a record, as MindDataset gives them."""

_BURST = 16
"""Rows that are taken from MindDataset at once, as many as it keeps ready: taken one by one, each costs its reader and
ours a change of context, and 0.15 to 0.3 ms of 3.3 ms a sample."""


def read_rows(folder: Path, manifest: Manifest, columns: Sequence[str], indices: Sequence[int]) -> Generator[Row]:
    """Read records of a set as MindDataset gives them.

    Args:
        folder: the set.
        manifest: of the set.
        columns: which columns to read.
        indices: of the records, counted through the shards in the manifest's order.

    Raises:
        InputError: MindRecord cannot read a shard.
    """
    import mindspore.dataset as ds

    if not len(indices):
        return
    files = [str(path) for path in manifest.files(folder)]
    try:
        # one reader gives 5,000 rows a second, and each further one only takes a core from the decoder
        dataset = ds.MindDataset(files, list(columns), sampler=ds.SubsetSampler(list(indices)), num_parallel_workers=1)
        # a dictionary made here takes half the time of MindSpore's own
        values = dataset.create_tuple_iterator(list(columns), num_epochs=1, output_numpy=True)
    except RuntimeError as error:
        raise InputError(f"{folder}: {_first_line(error)}: run make shards again") from error
    rows = (dict(zip(columns, row, strict=True)) for row in values)
    try:
        while burst := list(itertools.islice(rows, _BURST)):
            yield from burst
    except RuntimeError as error:
        raise InputError(f"{folder}: {_first_line(error)}: run make shards again") from error
    finally:
        values.stop()


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
