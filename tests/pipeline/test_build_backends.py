"""Build shards on a Dask cluster: a scheduler and two workers on this machine, started by the documented commands."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner

from pipeline.build import backends as backend
from pipeline.build.plan import BuildOptions, make_plan
from pipeline.build.write_shard import write_shard
from pipeline.errors import InputError
from pipeline.shards import main
from pipeline.storage.manifest import Manifest
from tests.support.coco_folder import ROOT, mixed, write

pytest.importorskip("distributed", reason="the extra cluster is not installed")


def _command(coco: Path, out: Path, *more: object) -> list[str]:
    return ["--coco", str(coco), "--split", "train", "--out", str(out), "--records-per-shard", "4", *map(str, more)]


def _build(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline.shards", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)


def _hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def _dask(*arguments: object, scratch: Path, cwd: Path = ROOT) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "dask", *map(str, arguments), "--no-dashboard"]
    environment = {**os.environ, "DASK_TEMPORARY_DIRECTORY": str(scratch)}  # else the scheduler's is left in /tmp
    process = subprocess.Popen(command, cwd=cwd, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(timeout=60)


@contextlib.contextmanager
def _cluster(folder: Path, workers: int, cwd: Path = ROOT) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """Start a scheduler and workers; yield the address of the scheduler and the nanny processes of the workers."""
    address = f"127.0.0.1:{_free_port()}"
    host, port = address.split(":")
    with contextlib.ExitStack() as stack:
        stack.enter_context(_dask("scheduler", "--host", host, "--port", port, scratch=folder))
        options = ("--nworkers", 1, "--nthreads", 1)
        nannies = [
            stack.enter_context(_dask("worker", address, *options, scratch=folder, cwd=cwd)) for _ in range(workers)
        ]
        _wait_for(address, workers)
        yield address, nannies


def _wait_for(address: str, workers: int) -> None:
    from distributed import Client

    with Client(address, timeout=60, set_as_default=False) as client:
        if workers:
            client.wait_for_workers(workers, timeout=60)


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("coco"), mixed(96))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with _cluster(tmp_path_factory.mktemp("dask"), 2) as (address, _):
        yield address


def test_cluster_writes_the_same_bytes_as_local_processes(coco: Path, cluster: str, tmp_path: Path) -> None:
    result = _build(*_command(coco, tmp_path / "cluster", "--backend", "dask", "--scheduler", cluster))
    assert result.returncode == 0, result.stderr
    assert "into 12 shards, 2 in parallel" in result.stderr
    assert _build(*_command(coco, tmp_path / "local", "--workers", "2")).returncode == 0
    assert _hashes(tmp_path / "cluster") == _hashes(tmp_path / "local")
    again = _build(*_command(coco, tmp_path / "cluster", "--backend", "dask", "--scheduler", cluster))
    assert "complete and unchanged" in again.stdout


def test_paths_may_be_relative(coco: Path, cluster: str, tmp_path: Path) -> None:
    source, out = (os.path.relpath(path, ROOT) for path in (coco, tmp_path / "set"))
    result = _build(*_command(Path(source), Path(out), "--backend", "dask", "--scheduler", cluster))
    assert result.returncode == 0, result.stderr
    assert Manifest.load(tmp_path / "set").records == 48


def test_bad_images_are_reported_in_one_line(coco: Path, cluster: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "coco", mixed(8))
    (folder / "train" / mixed(8)["images"][1]["file_name"]).write_bytes(b"")
    result = _build(*_command(folder, tmp_path / "set", "--backend", "dask", "--scheduler", cluster))
    assert (result.returncode, result.stderr.splitlines()[-1][:21]) == (2, "Error: 1 bad picture:")


def test_a_killed_worker_is_replaced(coco: Path, tmp_path: Path) -> None:
    big = write(tmp_path / "coco", mixed(400))
    with _cluster(tmp_path / "dask", 1) as (address, (nanny,)):
        arguments = _command(big, tmp_path / "set", "--backend", "dask", "--scheduler", address)
        command = [sys.executable, "-m", "pipeline.shards", *arguments]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 60
        while not list((tmp_path / "set").glob("shard-*.json")) and time.monotonic() < deadline:
            time.sleep(0.01)
        worker = next(
            child
            for child in psutil.Process(nanny.pid).children(recursive=True)
            if "spawn_main" in str(child.cmdline())
        )
        worker.send_signal(signal.SIGKILL)
        out, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    assert "200 pictures" in out
    assert Manifest.load(tmp_path / "set").verify(tmp_path / "set", hash_all=True) == []


def test_missing_scheduler_or_workers_are_an_error(tmp_path: Path, coco: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "CONNECT_TIMEOUT", 1)
    folders = ([coco / "train"], tmp_path / "set")
    nowhere = f"127.0.0.1:{_free_port()}"
    with (
        pytest.raises(InputError, match=f"{nowhere}: no response from a Dask scheduler within 1 s"),
        _enter(nowhere, folders),
    ):
        pass
    with (
        _cluster(tmp_path, 0) as (address, _),
        pytest.raises(InputError, match="no worker connected within 1 s"),
        _enter(address, folders),
    ):
        pass


def _enter(scheduler: str, folders: tuple[list[Path], Path]) -> contextlib.AbstractContextManager[int]:
    return backend.dask_cluster(scheduler, *folders)


def test_worker_that_cannot_import_the_project_is_reported(tmp_path: Path, coco: Path) -> None:
    with _cluster(tmp_path, 1, cwd=tmp_path) as (address, _):
        result = _build(*_command(coco, tmp_path / "set", "--backend", "dask", "--scheduler", address))
    assert result.returncode == 2
    assert re.fullmatch(
        r"Error: worker tcp://\S+: .*No module named 'pipeline'.*: start it in this project's folder by .*\n",
        result.stderr,
    )


def test_worker_without_access_to_the_folders_is_reported(tmp_path: Path, coco: Path) -> None:
    (task, *_) = make_plan([(coco, "train")], BuildOptions(records_per_shard=4)).tasks
    with pytest.raises(InputError, match=r"worker on .*/nowhere does not exist: .* file system that all workers share"):
        write_shard(task, tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
    moved = coco.rename(tmp_path / "moved")
    try:
        with pytest.raises(InputError, match=r"worker on .*/train does not exist: "):
            write_shard(task, tmp_path)
    finally:
        moved.rename(coco)
    token = tmp_path / "written by another machine"
    assert "is a different folder here" in backend.find_worker_problem([coco / "train"], token)
    token.touch()
    assert backend.find_worker_problem([coco / "train"], token) == ""
    assert "nowhere does not exist" in backend.find_worker_problem([tmp_path / "nowhere"], token)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--backend", "dask"], "--backend dask and --scheduler HOST:PORT must be given together"),
        (["--scheduler", "127.0.0.1:8786"], "--backend dask and --scheduler HOST:PORT must be given together"),
        (
            ["--backend", "dask", "--scheduler", "127.0.0.1:1", "--workers", "2"],
            "--workers cannot be set with --scheduler",
        ),
        (["--backend", "dask", "--scheduler", "somewhere"], "--scheduler somewhere: expected HOST:PORT"),
    ],
)
def test_invalid_options_are_reported_in_one_line(
    arguments: list[str], message: str, coco: Path, tmp_path: Path
) -> None:
    result = CliRunner().invoke(main, _command(coco, tmp_path / "set", *arguments))
    assert result.exit_code == 2
    assert message in result.output


def test_missing_dask_is_reported_in_one_line(coco: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    arguments = _command(coco, tmp_path / "set", "--backend", "dask", "--scheduler", "127.0.0.1:1")
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert result.output == "Error: --backend dask: Dask is not installed: pip install .[cluster]\n"
