"""The make targets."""

from __future__ import annotations

import json
import os
import subprocess
import venv
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.support.coco_folder import ROOT, mixed, write

TARGETS = ("demo", "shards", "train", "eval", "export", "plot", "stats", "test", "check", "help")
MACHINES = ("HOSTS", "NODE_RANK", "MASTER", "MASTER_PORT")
VARIABLES = (
    "DATA",
    "VENV",
    "SHARDS",
    "CONFIG",
    "NPROC",
    *MACHINES,
    "RUN",
    "CKPT",
    "FORMAT",
    "WORKERS",
    "DEVICE",
    "RESUME",
    "QUICK",
    "INIT",
    "ARGS",
)
INHERITED = {"MAKEFLAGS", "MAKEOVERRIDES", "MAKELEVEL", "MFLAGS", "TRAIN", "VAL", *VARIABLES}


def make(*arguments: str, path: str = os.environ["PATH"]) -> subprocess.CompletedProcess[str]:
    # `make test` passes its own variables to every make that it starts
    environment = {name: value for name, value in os.environ.items() if name not in INHERITED}
    command = ["make", "-C", str(ROOT), *arguments]
    return subprocess.run(command, env=environment | {"PATH": path}, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def ready() -> None:
    if not (ROOT / ".venv" / "ready").exists():
        pytest.skip("the project's own .venv is absent: run make setup")


def test_help_is_the_default_target_and_lists_all_targets_and_variables() -> None:
    result = make()
    assert result.returncode == 0
    assert result.stdout == make("help").stdout
    for word in TARGETS + VARIABLES:
        assert f"  {word} " in result.stdout


@pytest.mark.parametrize(
    ("arguments", "recipe"),
    [
        ((), "configs/demo.yaml"),
        (("DATA=data/demo", "NPROC=2"), "configs/demo.yaml"),
        (("DATA=data/quick",), "configs/demo.yaml"),
        (("DATA=/data/coco",), "configs/openpose.yaml"),
        (("DATA=/data/coco", "NPROC=8"), "configs/openpose_8p.yaml"),
        (("DATA=/data/coco", "HOSTS=a b"), "configs/openpose_8p.yaml"),
        (("DATA=/data/coco", "CONFIG=configs/demo.yaml"), "configs/demo.yaml"),
    ],
)
def test_the_default_recipe_depends_on_data_and_processes(arguments: tuple[str, ...], recipe: str) -> None:
    assert f"[{recipe}]" in make("help", *arguments).stdout


@pytest.mark.usefixtures("ready")
def test_the_quick_demo_is_a_part_of_the_dataset_in_folders_of_its_own() -> None:
    commands = make("-n", "demo", "QUICK=1").stdout
    assert "pipeline.synthetic --out data/quick --train 600 --val 50" in commands
    assert "--set training.max_steps=300" in commands
    assert "runs/quick/report/index.html" in commands
    assert "data/demo" not in commands
    whole = make("-n", "demo").stdout
    assert "pipeline.synthetic --out data/demo" in whole
    assert "quick" not in whole
    assert "max_steps" not in whole


def test_host_options_are_passed_if_there_are_several_hosts() -> None:
    assert "--hosts" not in make("-n", "train").stdout
    several = make("-n", "train", "NPROC=8", "HOSTS=a b", "NODE_RANK=1", "MASTER=10.0.0.1", "MASTER_PORT=9000").stdout
    assert "--nproc 8 --hosts 'a b' --node-rank 1 --master 10.0.0.1 --master-port 9000" in " ".join(several.split())


def test_an_unsupported_python_is_reported_in_one_line(tmp_path: Path) -> None:
    old = tmp_path / "python3.8"
    old.write_text('#!/bin/sh\n[ "$1" = -V ] && echo Python 3.8.18\nexit 1\n')
    old.chmod(0o755)
    result = make("setup", f"PYTHON={old}", f"VENV={tmp_path / 'new'}")
    assert result.returncode == 2
    assert f"Error: PYTHON={old} is Python 3.8.18; expected Python 3.10, 3.11 or 3.12" in result.stderr


@pytest.fixture
def other_environment(tmp_path: Path) -> Path:
    """An environment that was made by somebody else, in a folder with a space; it sees the packages of `.venv`."""
    folder = tmp_path / "my env"
    venv.create(folder, with_pip=False, symlinks=True)
    (packages,) = (ROOT / ".venv").resolve().glob("lib/python*/site-packages")
    (own,) = folder.glob("lib/python*/site-packages")
    (own / "packages.pth").write_text(f"{packages}\n")
    return folder


@pytest.mark.usefixtures("ready")
def test_an_environment_of_others_is_used_and_left_as_it_is(other_environment: Path, tmp_path: Path) -> None:
    before = sorted(other_environment.rglob("*"))
    link = tmp_path / "link"
    link.symlink_to(other_environment)
    for folder in (other_environment, link):
        setup = make("setup", f"VENV={folder}")
        assert setup.returncode == 0, setup.stderr
        assert f": keeps mindspore {version('mindspore')}, numpy {version('numpy')}; nothing is missing" in setup.stdout
        result = make("stats", f"VENV={folder}", f"SHARDS={tmp_path / 'none'}")
        assert "run make shards" in result.stderr
    assert [path for path in sorted(other_environment.rglob("*")) if "__pycache__" not in path.parts] == before
    path = f"{other_environment / 'bin'}{os.pathsep}{os.environ['PATH']}"
    active = make("setup", "VENV=", path=path)
    assert f"{other_environment}: keeps " in active.stdout


@pytest.mark.usefixtures("ready")
def test_an_environment_that_lacks_packages_is_reported_before_a_command_runs(
    other_environment: Path, tmp_path: Path
) -> None:
    (file,) = other_environment.glob("lib/python*/site-packages/packages.pth")
    (tmp_path / "only pip").mkdir()
    (tmp_path / "only pip" / "pip").symlink_to(Path(file.read_text().strip()) / "pip")
    file.write_text(f"{tmp_path / 'only pip'}\n")
    result = make("stats", f"VENV={other_environment}", f"SHARDS={tmp_path}")
    assert result.returncode == 2
    assert "lacks annotated-types, " in result.stderr
    assert "make setup VENV=" in result.stderr
    file.unlink()
    assert "has no pip; run: " in make("stats", f"VENV={other_environment}", f"SHARDS={tmp_path}").stderr


@pytest.mark.usefixtures("ready")
def test_a_missing_coco_folder_is_reported_in_one_line(tmp_path: Path) -> None:
    result = make("shards", f"DATA={tmp_path}")
    assert result.returncode == 2
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error")]
    assert errors == [
        f"Error: DATA={tmp_path}: no annotations/person_keypoints_SPLIT.json for SPLIT in: train2017 val2017; "
        "set DATA to COCO folders, separated by colons, and TRAIN and VAL to their splits"
    ]
    write(tmp_path, mixed(4), "val2017")
    for variable in ("TRAIN=train2014", "VAL=val2014"):
        result = make("shards", f"DATA={tmp_path}", variable, f"SHARDS={tmp_path / 'shards'}")
        assert result.returncode == 2
        assert f"for SPLIT in: {variable.partition('=')[2]}; " in result.stderr
    assert not (tmp_path / "shards").exists()


@pytest.mark.usefixtures("ready")
def test_several_folders_and_splits_make_one_set(tmp_path: Path) -> None:
    newer = write(tmp_path / "coco2017", mixed(4), "train2017")
    write(newer, mixed(4), "val2017")
    older = write(tmp_path / "coco2014", mixed(12), "train2014")
    shards = tmp_path / "shards"
    data = f"DATA={newer}:{older}"
    assert "[shards/coco2017+coco2014]" in make("help", data).stdout
    result = make("shards", data, "TRAIN=train2017 train2014", f"SHARDS={shards}", "WORKERS=1")
    assert result.returncode == 0, result.stderr
    sources = json.loads((shards / "train" / "manifest.json").read_text())["sources"]
    assert [(source["coco"], source["split"], source["records"]) for source in sources] == [
        (str(newer), "train2017", 2),
        (str(older), "train2014", 4),
    ]
    assert json.loads((shards / "val" / "manifest.json").read_text())["records"] == 4


@pytest.mark.usefixtures("ready")
def test_folders_have_names_with_spaces_and_chinese_letters(tmp_path: Path) -> None:
    data = write(tmp_path / "my data" / "图片 coco", mixed(20), "train2017")
    write(data, mixed(4), "val2017")
    shards, run = tmp_path / "my shards", tmp_path / "运行 1"
    variables = (f"DATA={data}", f"SHARDS={shards}", f"RUN={run}")
    assert "[shards/图片 coco]" in make("help", f"DATA={data}").stdout
    for target in ("shards", "stats", "verify", "preview"):
        result = make(target, *variables, "WORKERS=1")
        assert result.returncode == 0, result.stderr
    for name in ("train", "val"):
        assert f"{shards / name}\n" in make("stats", *variables).stdout
    assert (shards / "preview.png").is_file()
    command = " ".join(make("-n", "train", *variables).stdout.split())
    assert f"--val '{shards}'/val" in command
    assert f"--out '{run}'" in command


@pytest.mark.usefixtures("ready")
def test_one_set_of_own_annotations_can_be_trained_and_looked_at(tmp_path: Path) -> None:
    """As `python -m pipeline.shards --annotations … --out shards/mine` makes it; its run is not that of the demo."""
    folder = write(tmp_path / "coco", mixed(20), "train2017")
    made = make("shards", f"DATA={folder}", f"SHARDS={tmp_path / 'sets'}", "WORKERS=1")
    assert made.returncode == 0, made.stderr
    shards = (tmp_path / "sets" / "train").rename(tmp_path / "mine")
    listing = make("help", f"SHARDS={shards}").stdout
    assert "[runs/mine]" in listing
    assert "[configs/openpose.yaml]" in listing
    assert f"\n{shards}\n" in make("stats", f"SHARDS={shards}").stdout
    settings = "--set training.max_steps=1 --set training.batch_size=2"
    variables = (f"SHARDS={shards}", f"RUN={tmp_path / 'run'}", "CONFIG=configs/demo.yaml", f"ARGS={settings}")
    train = make("train", *variables)
    assert train.returncode == 0, train.stderr


@pytest.mark.usefixtures("ready")
def test_verify_fails_without_shards(tmp_path: Path) -> None:
    result = make("verify", f"SHARDS={tmp_path / 'shards'}")
    assert result.returncode == 2
    assert "no manifest.json: run make shards" in result.stdout


@pytest.mark.usefixtures("ready")
@pytest.mark.parametrize(
    ("target", "command"),
    [("train", "make shards"), ("eval", "make shards"), ("export", "make train"), ("stats", "make shards")],
)
def test_a_missing_earlier_step_is_reported_with_its_command(target: str, command: str, tmp_path: Path) -> None:
    result = make(target, f"SHARDS={tmp_path / 'shards'}", f"RUN={tmp_path / 'run'}")
    assert result.returncode == 2
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error")]
    assert len(errors) == 1
    assert command in errors[0]
    assert "Traceback" not in result.stderr


@pytest.mark.usefixtures("ready")
def test_shards_and_training_work_with_real_images(coco_mini: Path, tmp_path: Path) -> None:
    variables = (f"DATA={coco_mini}", f"SHARDS={tmp_path / 'shards'}", f"RUN={tmp_path / 'run'}")
    shards = make("shards", *variables)
    assert shards.returncode == 0, shards.stderr
    settings = "--set training.max_steps=2 --set training.log_every=1 --set training.batch_size=4"
    train = make("train", *variables, "CONFIG=configs/demo.yaml", f"ARGS={settings}")
    assert train.returncode == 0, train.stderr
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2]
