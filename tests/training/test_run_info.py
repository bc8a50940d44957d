"""run.json: description of a session, and preservation of earlier sessions when a run is resumed."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys

import mindspore
import numpy
import pytest
from mindspore import ops

from pipeline.storage.manifest import Manifest
from tests.support import tiny
from training.checkpoint.run_folder import checkpoint_path
from training.distributed import world as world_module
from training.distributed.world import World
from training.loop.run_info import (
    FILE_NAME,
    ROOT,
    add_session,
    describe_environment,
    gather_host_names,
    git_state,
    versions,
)


def test_run_json_describes_the_session(tiny_run, tiny_shards):
    info = json.loads((tiny_run / FILE_NAME).read_text())
    assert (info["step"], info["processes"], info["device"]) == (0, 1, "CPU")
    assert info["hosts"] == [platform.node()]
    assert info["config"] == tiny.recipe().model_dump(mode="json")
    assert info["shards"] == {
        "folder": str(tiny_shards),
        "records": tiny.RECORDS,
        "fingerprint": Manifest.read(tiny_shards).fingerprint,
    }
    assert info["versions"] == versions()
    assert info["earlier"] == []
    assert info["started"].endswith("+00:00")
    assert info["command"]


def test_versions_are_those_of_the_running_libraries():
    found = versions()
    assert found["mindspore"] == mindspore.__version__
    assert found["numpy"] == numpy.__version__
    assert found["python"] == platform.python_version()
    assert f'version = "{found["project"]}"' in (ROOT / "pyproject.toml").read_text()


def test_resumed_run_keeps_its_first_session(tiny_run, tiny_shards, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    checkpoint_path(run, 48).unlink()
    config = tiny.recipe(keep=1)
    assert tiny.train_in_process(config, tiny_shards, run, resume=True) == 0
    info = json.loads((run / FILE_NAME).read_text())
    assert (info["step"], info["config"]["training"]["keep"]) == (40, 1)
    first = json.loads((tiny_run / FILE_NAME).read_text())
    del first["earlier"]
    assert info["earlier"] == [first]


def test_earlier_sessions_are_in_order():
    info = None
    for step in (0, 10, 20):
        info = add_session(info, {"step": step})
    assert info == {"step": 20, "earlier": [{"step": 0}, {"step": 10}]}


def test_unreadable_run_json_is_renamed(tiny_run, tiny_shards, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    checkpoint_path(run, 48).unlink()
    (run / FILE_NAME).write_text("half a fi")
    assert tiny.train_in_process(tiny.recipe(), tiny_shards, run, resume=True) == 0
    assert json.loads((run / FILE_NAME).read_text())["earlier"] == []
    assert (run / "run.json.damaged").read_text() == "half a fi"


def test_host_names_are_gathered_by_rank(monkeypatch):
    """Two processes, the second on a machine with a name longer than 64 bytes."""
    world = World("CPU", rank=0, size=2)
    other = platform.node().encode().ljust(64, b"\0") + b"n" * 64

    class AllGather:
        def __call__(self, halves):
            return world_module.ms.Tensor(numpy.frombuffer(other, dtype=numpy.int32))

    monkeypatch.setattr(ops, "AllGather", AllGather)
    assert gather_host_names(world) == [platform.node(), "n" * 64]
    place = describe_environment(world, ["a", "b", "a"])
    assert (place["hosts"], place["processes"], place["device"]) == (["a", "b"], 2, "CPU")


@pytest.fixture
def repository(tmp_path):
    if not shutil.which("git"):
        pytest.skip("git is not installed")
    (tmp_path / "file").write_text("one")
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    for command in (("init", "-q"), ("add", "."), (*identity, "commit", "-qm", "first")):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    return tmp_path


def test_the_commit_and_whether_files_differ_from_it(repository):
    clean = git_state(repository)
    assert clean is not None
    assert len(clean["commit"]) == 40
    assert not clean["dirty"]
    (repository / "stranger").write_text("not of the tree")
    assert git_state(repository) == clean
    (repository / "file").write_text("two")
    assert git_state(repository) == {**clean, "dirty": True}


def test_folder_inside_another_repository_has_no_commit(repository, tmp_path_factory):
    (repository / "inner").mkdir()
    assert git_state(repository / "inner") is None
    assert git_state(tmp_path_factory.mktemp("outside")) is None


def test_without_git_there_is_no_commit(repository, monkeypatch):
    monkeypatch.setenv("PATH", str(repository))
    assert git_state(repository) is None


def test_run_json_holds_the_command_line(tiny_recipe, tiny_shards, tmp_path):
    command = tiny.command(tiny_recipe, tiny_shards, tmp_path / "run", "--set", "training.max_steps=1")
    process = tiny.start(command)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    info = json.loads((tmp_path / "run" / FILE_NAME).read_text())
    assert info["command"].endswith("-m training.train " + " ".join(command[3:]))
    assert info["command"].startswith(sys.executable)
