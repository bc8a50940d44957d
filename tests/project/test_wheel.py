"""The wheel: built, installed into a new environment, and used from a folder outside the source tree."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests.support import coco_folder, tiny
from tests.support.coco_folder import ROOT

SCRIPTS = set(re.findall(r"^(openpose-\w+) = ", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE))
COMMANDS = (
    *("shards", "stats", "verify", "preview"),
    *("train", "export", "convert", "plot"),
    *("evaluate", "predict", "oracle", "tune"),
)


def run(*command: object, cwd: Path, code: int = 0) -> str:
    """Run a command without this tree on its path; returns its standard output."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run(
        [str(word) for word in command], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == code, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the tracked folders so that the source tree stays clean."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pipeline", "training", "evaluation", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, source / name)
    out = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    run(*pip, "--disable-pip-version-check", "--wheel-dir", out, source, cwd=out)
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def scripts(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of console scripts of a new environment that holds the wheel and sees this one's dependencies."""
    environment = tmp_path_factory.mktemp("environment") / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", environment, cwd=environment.parent)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    site = environment / "lib" / version / "site-packages"
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    install = [sys.executable, "-m", "pip", "--python", environment / "bin" / "python", "install", "--quiet"]
    run(*install, "--disable-pip-version-check", "--no-deps", "--no-index", wheel, cwd=environment.parent)
    return environment / "bin"


def test_the_wheel_holds_every_module_recipe_and_template(wheel: Path):
    held = set(zipfile.ZipFile(wheel).namelist())
    folders = ("pipeline", "training", "evaluation")
    expected = {str(path.relative_to(ROOT)) for name in folders for path in (ROOT / name).rglob("*.py")}
    expected |= {str(path.relative_to(ROOT)) for path in (ROOT / "evaluation").rglob("*.[hc][ts][ms]*")}
    expected |= {f"training/configs/{path.name}" for path in (ROOT / "configs").glob("*.yaml")}
    assert expected <= held, sorted(expected - held)
    assert not [name for name in held if name.startswith(("tests", "configs"))]


def test_every_script_is_a_command(scripts: Path):
    assert {f"openpose-{name}" for name in COMMANDS} == SCRIPTS
    for name in SCRIPTS:
        assert (scripts / name).is_file()


def test_recipes_are_found_outside_the_source_tree(scripts: Path, tmp_path: Path):
    code = "from training.recipes import RECIPE_FOLDER, recipe_names; print(RECIPE_FOLDER, *recipe_names())"
    folder, *names = run(scripts / "python", "-c", code, cwd=tmp_path).split()
    assert Path(folder).is_relative_to(scripts.parent)
    assert "openpose" in names


def test_from_pictures_to_detections(scripts: Path, tmp_path: Path):
    """Shards, statistics, training by a recipe of the wheel, evaluation, export and prediction, in a foreign folder."""
    coco = coco_folder.write(tmp_path / "coco", coco_folder.mixed(16))
    run(scripts / "openpose-shards", "--coco", coco, "--split", "train", "--keep-empty", "--out", "set", cwd=tmp_path)
    assert "16" in run(scripts / "openpose-stats", "set", cwd=tmp_path)
    run(scripts / "openpose-verify", "set", cwd=tmp_path)
    small = {f"{section}.{field}": value for section, fields in tiny.RECIPE.items() for field, value in fields.items()}
    small |= {"training.epochs": 1, "training.max_steps": 2, "training.warmup_steps": 0, "training.eval_every": None}
    settings = [f"--set={field}={json.dumps(value)}" for field, value in small.items()]
    cpu = ("--device", "cpu")
    run(scripts / "openpose-train", "--config=demo", "--shards=set", "--out=run", *cpu, *settings, cwd=tmp_path)
    run(scripts / "openpose-evaluate", "--ckpt=run", "--shards=set", "--out=run", *cpu, cwd=tmp_path)
    run(scripts / "openpose-export", "--ckpt=run", "--format=onnx", *cpu, cwd=tmp_path)
    run(scripts / "openpose-predict", coco / "train", "--ckpt=run", "--out=found", *cpu, cwd=tmp_path)
    assert (tmp_path / "found" / "results.json").is_file()
    assert (tmp_path / "run" / "report" / "index.html").is_file()
