"""Imports go one way, and importing does nothing else."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.coco_folder import ROOT

PACKAGES = ("pipeline", "training", "evaluation")
SOURCES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
WITHOUT_MINDSPORE = (
    "pipeline.skeleton",
    "pipeline.maps",
    "pipeline.sample",
    "pipeline.annotations.coco",
    "pipeline.loading.targets",
    "evaluation.decoder.decode",
    "evaluation.report.outputs",
    "evaluation.scoring.analysis.diagnosis",
    "evaluation.report.page",
)


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@functools.cache
def imports(path: Path) -> frozenset[str]:
    """Every module that a file imports anywhere in it, with the names taken from it."""
    return frozenset(_imports(path))


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def users(prefix: str) -> set[str]:
    """Modules that import something below `prefix`."""
    return {
        module_name(path)
        for path in SOURCES
        if any(name == prefix or name.startswith(f"{prefix}.") for name in imports(path))
    }


def inside(package: str) -> set[str]:
    return {module_name(path) for path in SOURCES if module_name(path).split(".")[0] == package}


def test_there_is_something_to_check():
    assert len(SOURCES) > 40
    assert "training.network.openpose" in users("mindspore")


def test_arrows_go_one_way():
    assert not users("training") & inside("pipeline")
    assert not users("evaluation") & inside("pipeline")
    assert not users("tests")


def test_one_command_puts_training_and_evaluation_together():
    """`python -m training.train` hands the evaluator to the trainer, which knows it by its protocol alone.

    The command is the root from which everything hangs: no module of either package may import it in turn.
    """
    assert users("evaluation") & inside("training") == {"training.train"}
    train = ROOT / "training" / "train.py"
    assert {name for name in imports(train) if name.startswith("evaluation")} == {
        "evaluation.during_training.DuringTraining"
    }
    assert users("training.train") <= {"training.modelarts"}  # a command as well


def test_few_modules_of_evaluation_know_training():
    commands = {"evaluation.predict", "evaluation.evaluate", "evaluation.oracle"}
    known = {"evaluation.inference.backends", "evaluation.inference.predictor", "evaluation.during_training"} | commands
    assert users("training") & inside("evaluation") <= known


def test_mindspores_readers_are_used_in_one_place_and_its_networks_not_in_the_pipeline():
    assert users("mindspore.dataset") == {"pipeline.loading.batches"}
    assert not users("mindspore.nn") & inside("pipeline")
    assert users("mindspore") & inside("pipeline") <= {"pipeline.loading.batches"}


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_importing_says_nothing_parses_nothing_and_sets_nothing():
    """One process imports everything, with arguments that no command would accept."""
    code = """
import importlib, os, signal, sys
import mindspore as ms
def state():
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    context = [ms.get_context(name) for name in ("mode", "device_target", "save_graphs_path")]
    environment = {name: value for name, value in os.environ.items() if name != "LD_LIBRARY_PATH"}  # OpenCV sets it
    return handlers, context, signal.pthread_sigmask(signal.SIG_BLOCK, ()), environment, os.getcwd()
before = state()
for name in sys.argv[1].split(","):
    if not name.endswith("__main__"):
        importlib.import_module(name)
assert state() == before, (before, state())
"""
    names = ",".join(module_name(path) for path in SOURCES)
    before = set(ROOT.iterdir())
    result = run(code, names, "--no-such-option")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert set(ROOT.iterdir()) <= before


def test_what_needs_no_mindspore_does_without():
    code = """
import importlib, sys
sys.modules["mindspore"] = None
for name in sys.argv[1:]:
    importlib.import_module(name)
"""
    result = run(code, *WITHOUT_MINDSPORE)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_files_and_functions_are_short(path: Path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < 60, f"{node.name}: {node.end_lineno - node.lineno + 1} lines"
