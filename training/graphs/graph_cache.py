"""The ONNX graph of a checkpoint, exported once and kept in a folder beside it.

On a CPU, onnxruntime evaluates a network several times as fast as MindSpore, and one graph accepts every image size.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import os
import shutil
import tempfile
from pathlib import Path

from pipeline.errors import InputError
from pipeline.system.files import file_sha256

CACHE = "onnx"
"""Name of the folder beside the checkpoints; it can be removed at any time."""

GRAPH = "network.onnx"


def onnxruntime_is_installed() -> bool:
    """Return whether onnxruntime can be imported."""
    return importlib.util.find_spec("onnxruntime") is not None


def cached_graph(checkpoint: Path) -> Path:
    """Return the ONNX graph of a checkpoint; it is exported if it is not yet in the cache.

    The name of a cached graph contains the hash of the checkpoint, so that a checkpoint that was replaced is never
    evaluated with the graph of its predecessor. Several processes may export the same graph: one of them is kept.

    Raises:
        InputError: the checkpoint is damaged, or the maps of its graph differ from its own by more than
            `training.graphs.export_graph.TOLERANCE`.
    """
    entry = checkpoint.parent / CACHE / f"{checkpoint.stem}-{file_sha256(checkpoint)[:16]}"
    graph = entry / GRAPH
    if _is_complete(graph):
        return graph
    shutil.rmtree(entry, ignore_errors=True)
    folder = _make_unfinished_folder(entry)
    if folder.parent != entry.parent:
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        _export(checkpoint, folder / GRAPH)
        return folder / GRAPH
    try:
        _export(checkpoint, folder / GRAPH)
        _remove_outdated(entry, checkpoint)
        with contextlib.suppress(OSError):  # another process was faster
            folder.rename(entry)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return graph


def _is_complete(graph: Path) -> bool:
    from training.graphs.metadata import GraphMetadata

    try:
        GraphMetadata.load(graph)
    except InputError:
        return False
    return True


def _make_unfinished_folder(entry: Path) -> Path:
    """Create a folder for a new graph: in the cache, or in the system's temporary folder if that cannot be written."""
    folder = entry.with_name(f".{entry.name}.{os.getpid()}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return Path(tempfile.mkdtemp(prefix="openpose-"))
    return folder


def _export(checkpoint: Path, out: Path) -> None:
    from training.checkpoint.checkpoint import load_checkpoint
    from training.graphs.export_graph import InputShape, export_checkpoint

    loaded = load_checkpoint(checkpoint)
    export_checkpoint(loaded, out, "onnx", InputShape(None, None, None), loaded.config.evaluation, all_stages=False)


def _remove_outdated(entry: Path, checkpoint: Path) -> None:
    """Remove graphs of checkpoints that were removed or replaced."""
    for other in entry.parent.iterdir():
        stem = other.name.rpartition("-")[0]
        exists = checkpoint.with_name(f"{stem}.ckpt").exists()
        if not other.name.startswith(".") and other != entry and (stem == checkpoint.stem or not exists):
            shutil.rmtree(other, ignore_errors=True)
