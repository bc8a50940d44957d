"""Training on ModelArts, with a substitute for moxing whose object store is a local folder."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipeline.errors import InputError
from pipeline.storage.manifest import Manifest
from tests.support import tiny
from tests.support.coco_folder import mixed, write
from training.checkpoint.run_folder import checkpoint_path, list_checkpoints
from training.cloud.modelarts_environment import device_count, host_options
from training.cloud.object_store import FolderMirror, scan_folder
from training.modelarts import find_or_build_shards, main

MOXING = """
import os, shutil
from pathlib import Path

class file:
    @staticmethod
    def _path(place):
        return Path(os.environ["STORE"], place.removeprefix("obs://")) if place.startswith("obs://") else Path(place)

    @staticmethod
    def exists(place):
        return file._path(place).exists()

    @staticmethod
    def copy(source, target):
        file._path(target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file._path(source), file._path(target))

    @staticmethod
    def copy_parallel(source, target):
        shutil.copytree(file._path(source), file._path(target), dirs_exist_ok=True)

    @staticmethod
    def remove(place):
        file._path(place).unlink()
"""
PLATFORM = ("MA_NUM_GPUS", "DEVICE_NUM", "RANK_SIZE", "RANK_ID", "VC_WORKER_HOSTS", "VC_TASK_INDEX")


@pytest.fixture
def store(tmp_path, monkeypatch):
    """Local folder that the substitute for moxing uses as object store."""
    modules, folder = tmp_path / "modules", tmp_path / "store"
    modules.mkdir()
    folder.mkdir()
    (modules / "moxing.py").write_text(MOXING)
    monkeypatch.setenv("STORE", str(folder))
    monkeypatch.setenv("PYTHONPATH", str(modules))
    monkeypatch.syspath_prepend(modules)
    for name in PLATFORM:
        monkeypatch.delenv(name, raising=False)
    yield folder
    sys.modules.pop("moxing", None)


def start(recipe: Path, data: str, run: str, cache: Path, *more: str) -> subprocess.Popen[str]:
    """Start a job as ModelArts does: the boot file by its path, from another folder."""
    options = [f"--data_url={data}", f"--train_url={run}", f"--config={recipe}", f"--cache={cache}", "--device=cpu"]
    command = [sys.executable, str(tiny.ROOT / "training" / "modelarts.py"), *options, *more]
    return subprocess.Popen(command, cwd=cache.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, err = process.communicate(timeout=300)
    return process.returncode, err


def test_a_job_builds_shards_trains_and_resumes_on_another_machine(store, tiny_recipe, tiny_shards, tmp_path):
    coco = shutil.copytree(tiny_shards.parent / "coco", store / "bucket" / "coco")
    (coco / "annotations" / "person_keypoints_val2017.json").unlink()  # of no pictures
    more = ("--set", "training.checkpoint_every=2", "--set", "training.keep=1")
    place = ("obs://bucket/coco", "obs://bucket/run/")
    job = start(tiny_recipe, *place, tmp_path / "one", *more, "--set=training.max_steps=3", "--num_gpus=8")
    code, err = finish(job)
    assert code == 0, err
    assert err.startswith("Ignored unknown options: --num_gpus=8\n")
    run = store / "bucket" / "run"
    assert list(tiny.losses(run)) == [1, 2, 3]
    assert [path.name for path in list_checkpoints(run)] == ["step-0000003.ckpt"]
    assert scan_folder(run).keys() == scan_folder(tmp_path / "one" / "run").keys()

    code, err = finish(start(tiny_recipe, *place, tmp_path / "two", *more, "--set=training.max_steps=5"))
    assert code == 0, err
    assert "Resuming after step 3" in err
    assert list(tiny.losses(run)) == [1, 2, 3, 4, 5]
    assert [path.name for path in list_checkpoints(run)] == ["step-0000005.ckpt"]


def test_a_terminated_job_has_uploaded_its_checkpoint(store, tiny_recipe, tiny_shards, tmp_path):
    shutil.copytree(tiny_shards, store / "shards" / "train")
    run = store / "run"
    job = start(tiny_recipe, "obs://shards", "obs://run", tmp_path / "cache", "--set=training.epochs=5000")
    deadline = time.monotonic() + 180
    while not list_checkpoints(run) and job.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    sent = list_checkpoints(run)
    assert sent, "no checkpoint is uploaded during training"
    job.send_signal(signal.SIGTERM)
    code, err = finish(job)
    assert code == 0, err
    last = max(tiny.losses(run))
    assert f"Stopped after step {last} of 60000" in err
    assert list_checkpoints(run)[-1].name == f"step-{last:07d}.ckpt"


def test_a_failed_run_is_uploaded_and_its_exit_code_returned(store, tiny_recipe, tiny_shards, tmp_path):
    """A local data folder is used in place, without a copy."""
    more = ("--set=training.lr=10", "--set=training.schedule=steps")
    code, err = finish(start(tiny_recipe, str(tiny_shards), "obs://run", tmp_path / "cache", *more))
    assert code == 3, err
    assert tiny.losses(store / "run")
    assert not (tmp_path / "cache" / "data").exists()


def test_initial_weights_from_the_object_store(store, tiny_recipe, tiny_run, tiny_shards, tmp_path):
    (store / "weights").mkdir()
    shutil.copy(checkpoint_path(tiny_run, 48), store / "weights" / "tiny.ckpt")
    more = ("--init=obs://weights/tiny.ckpt", "--set=training.max_steps=1")
    code, err = finish(start(tiny_recipe, str(tiny_shards), "obs://run", tmp_path / "cache", *more))
    assert code == 0, err
    assert (tmp_path / "cache" / "init" / "tiny.ckpt").is_file()
    assert tiny.losses(store / "run")[1] < tiny.losses(tiny_run)[1]


def test_local_folders_need_no_moxing(tiny_recipe, tiny_shards, tmp_path, monkeypatch):
    monkeypatch.setenv("DEVICE_NUM", "1")
    monkeypatch.setenv("RANK_TABLE_FILE", "/nowhere/rank_table.json")
    run = tmp_path / "run"
    code, err = finish(start(tiny_recipe, str(tiny_shards), str(run), tmp_path / "cache", "--set=training.max_steps=1"))
    assert code == 0, err
    assert [path.name for path in list_checkpoints(run)] == ["step-0000001.ckpt"]
    assert not (tmp_path / "cache").exists()


def call(*more: str, data: object = "obs://data", run: object = "obs://run", **environment: str):
    return CliRunner().invoke(main, [f"--data_url={data}", f"--train_url={run}", *more], env=environment)


def test_errors_are_one_line(store, tiny_shards, tmp_path):
    cache = f"--cache={tmp_path / 'cache'}"
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    for result, message in (
        (call(cache), "obs://data: no such folder"),
        (call(cache, "--init=obs://no.ckpt", data=tiny_shards), "obs://no.ckpt: no such file"),
        (call(cache, data=tmp_path / "empty"), f"{tmp_path / 'empty'}: expected shards (manifest.json, or train/ and"),
        (call(f"--cache={tmp_path / 'file'}"), f"{tmp_path / 'file' / 'data'}: Not a directory"),
        (call(cache, data=tiny_shards, run=tmp_path / "run", DEVICE_NUM="x"), "DEVICE_NUM=x: expected a number"),
    ):
        assert result.exit_code == 2, result.output
        assert result.stderr.startswith(f"Error: {message}"), result.stderr
        assert len(result.stderr.splitlines()) == 1


def test_the_object_store_requires_moxing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "moxing", None)
    result = call(f"--cache={tmp_path / 'cache'}")
    assert result.exit_code == 2
    assert result.stderr == "Error: obs://data: requires moxing, which is not installed here; use a local folder\n"


def test_only_the_first_process_of_a_host_starts_training():
    result = call(RANK_ID="9", RANK_SIZE="8")
    assert result.exit_code == 0
    assert (
        result.stderr == "Process with RANK_ID=9 exits: the first process of this host starts training on all devices\n"
    )


def test_devices_and_hosts_are_read_from_the_environment():
    assert device_count({}, 1) == 1
    assert device_count({"MA_NUM_GPUS": "8", "RANK_SIZE": "16"}, 2) == 8
    assert device_count({"DEVICE_NUM": "4", "RANK_SIZE": "1"}, 1) == 4
    assert device_count({"RANK_SIZE": "16"}, 2) == 8
    with pytest.raises(
        InputError, match="RANK_SIZE=1: expected a number of devices, at least 2; correct it or use --nproc"
    ):
        device_count({"RANK_SIZE": "1"}, 2)
    assert host_options({"VC_WORKER_HOSTS": "one", "VC_TASK_INDEX": "0"}) == []
    assert host_options({"VC_WORKER_HOSTS": "a,b", "VC_TASK_INDEX": "1"}) == ["--hosts", "a,b", "--node-rank", "1"]


def test_shards_are_found_or_built(tiny_shards, tmp_path):
    splits = ("train2017", "val2017")
    assert find_or_build_shards(tiny_shards, tmp_path, splits) == (tiny_shards, None)
    assert find_or_build_shards(tiny_shards.parent, tmp_path, splits) == (tiny_shards, None)
    coco = write(tmp_path / "coco", mixed(8), "train2017")
    built = tmp_path / "built"
    assert find_or_build_shards(coco, built, splits) == (built / "train", None)
    write(coco, mixed(4), "val2017")
    assert find_or_build_shards(coco, built, splits) == (built / "train", built / "val")
    assert find_or_build_shards(built, tmp_path, splits) == (built / "train", built / "val")
    assert [Manifest.load(built / name).records for name in ("train", "val")] == [4, 4]


def test_a_mirror_uploads_new_files_and_deletes_removed_ones(store, tmp_path):
    folder, there = tmp_path / "run", store / "run"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_text("came from the store")
    mirror = FolderMirror(folder, "obs://run/")
    (folder / "checkpoints" / "step-1").write_text("one")
    (folder / "checkpoints" / ".step-2").write_text("half of t")
    assert mirror.sync() == []
    assert sorted(scan_folder(there)) == ["checkpoints/step-1"]

    (folder / "checkpoints" / "step-1").unlink()
    (folder / "checkpoints" / "step-2").write_text("two")
    os.utime(folder / "config.yaml", ns=(1, 1))
    assert mirror.sync() == []
    assert sorted(scan_folder(there)) == ["checkpoints/step-2", "config.yaml"]


def test_failed_uploads_are_reported_and_retried(store, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    mirror = FolderMirror(folder, "obs://run")
    (folder / "old").write_text("old")
    assert mirror.sync() == []
    (folder / "old").unlink()
    (folder / "new").write_text("new")
    shutil.rmtree(store)
    store.write_text("a file where the store should be")
    (problem,) = mirror.sync()
    assert problem.startswith("obs://run/new: upload failed: ")
    store.unlink()
    (store / "run").mkdir(parents=True)
    (store / "run" / "old").touch()
    assert mirror.sync() == []
    assert sorted(scan_folder(store / "run")) == ["new"]
