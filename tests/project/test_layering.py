"""The layers of the project: which folder may import which, that no files import each other in a circle, and that an
import does nothing else."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.coco_folder import ROOT

LAYERS = {
    "pipeline": (
        "pipeline.skeleton pipeline.sample pipeline.errors pipeline.config_base",
        "pipeline.maps",
        "pipeline.system",
        "pipeline.images",
        "pipeline.storage",
        "pipeline.annotations",
        "pipeline.loading pipeline.build",
        "pipeline.synthetic pipeline.visualization",
        "pipeline.shards pipeline.stats pipeline.verify pipeline.preview",
    ),
    "training": (
        "training.config",
        "training.recipes",
        "training.network training.distributed training.cloud",
        "training.loss",
        "training.optim",
        "training.checkpoint",
        "training.weights training.graphs",
        "training.loop",
        "training.options",
        "training.train training.export training.convert training.plot training.models",
        "training.modelarts",
    ),
    "evaluation": (
        "evaluation.decoder",
        "evaluation.inference",
        "evaluation.saved_maps",
        "evaluation.scoring",
        "evaluation.media evaluation.decoder_bench",
        "evaluation.report",
        "evaluation.options",
        "evaluation.during_training",
        "evaluation.evaluate evaluation.predict",
        "evaluation.oracle",
        "evaluation.tune",
    ),
}
"""Each package from its lowest layer to its commands: a module imports its own folder and layers below it, and of other
packages those to its left. The parts of one layer do not import each other."""

EXCEPTION = ("training.train", "evaluation.during_training")
"""The one import from left to right: the training command passes the evaluator to the trainer, which knows it as a
protocol only (`training.loop.validation.Evaluator`)."""

FOLDERS = {
    "pipeline.synthetic": "geometry rendering",
    "evaluation.media": "video",
    "evaluation.scoring": "analysis",
}
"""Folders within a folder, lowest first; all of them are below the modules beside them."""

SOURCES = [path for package in LAYERS for path in sorted((ROOT / package).rglob("*.py"))]
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
MAX_MODULES = 9
"""Modules in one folder, without its `__init__.py`."""


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


MODULES = {module_name(path): path for path in SOURCES}


def imported_modules(module: str) -> set[str]:
    """The modules of the project that a module imports."""
    found = set()
    for name in imports(MODULES[module]):
        parts = name.split(".")
        prefixes = (".".join(parts[:end]) for end in range(len(parts), 0, -1))
        found |= {next((prefix for prefix in prefixes if prefix in MODULES), module)} - {module}
    return {name for name in found if name.split(".")[0] in LAYERS}


def users(prefix: str) -> set[str]:
    """Modules that import something below `prefix`."""
    return {
        module
        for module, path in MODULES.items()
        if any(name == prefix or name.startswith(f"{prefix}.") for name in imports(path))
    }


def inside(package: str) -> set[str]:
    return {module for module in MODULES if module.split(".")[0] == package}


def layer(module: str) -> tuple[int, int, str]:
    """Number of the package, of the layer in it, and the layer's part (a folder or a module)."""
    package, *rest = module.split(".")
    part = ".".join([package, *rest[:1]])
    for number, line in enumerate(LAYERS[package]):
        if part in line.split():
            return list(LAYERS).index(package), number, part
    raise AssertionError(f"{module}: not in LAYERS")


def rank_in_folder(module: str) -> int:
    """Position of a nested folder in FOLDERS; modules beside the nested folders come after them."""
    folder, _, rest = module.partition(".")
    folder, rest = f"{folder}.{rest.partition('.')[0]}", rest.partition(".")[2]
    order = FOLDERS.get(folder, "").split()
    return order.index(rest.split(".")[0]) if rest.split(".")[0] in order else len(order)


def test_there_is_something_to_check():
    assert len(SOURCES) > 40
    assert "training.network.openpose" in users("mindspore")
    assert "pipeline.system.cpu" in imported_modules("pipeline.loading.batches")


@pytest.mark.parametrize("module", [name for name in MODULES if "." in name])
def test_imports_go_down_the_layers(module: str):
    package, number, part = layer(module)
    for name in imported_modules(module):
        if "." not in name or (module, name) == EXCEPTION:
            continue
        below = layer(name)
        if below[2] == part:
            assert rank_in_folder(name) <= rank_in_folder(module), f"{module} imports {name}"
        else:
            assert below[:2] < (package, number), f"{module} imports {name}"


def test_no_files_import_each_other_in_a_circle():
    """Removes modules that import nothing that is left; what cannot be removed is on a circle."""
    left = {module: imported_modules(module) for module in MODULES}
    while free := [module for module, names in left.items() if not names & left.keys()]:
        for module in free:
            del left[module]
    assert not left, f"circle among {', '.join(sorted(left))}"


def test_nothing_imports_the_tests():
    assert not users("tests")


def test_one_command_passes_the_evaluator_to_the_trainer():
    assert users("evaluation") & inside("training") == {EXCEPTION[0]}
    assert users("training.train") <= {"training.modelarts"}


def test_few_modules_of_evaluation_know_training():
    commands = {f"evaluation.{name}" for name in ("predict", "evaluate", "oracle", "options")}
    known = {"evaluation.inference.backends", "evaluation.inference.predictor", "evaluation.during_training"} | commands
    assert users("training") & inside("evaluation") <= known


def test_mindspores_readers_are_used_in_one_place_and_its_networks_not_in_the_pipeline():
    reader, writer = "pipeline.storage.mindrecord_reader", "pipeline.storage.mindrecord_writer"
    assert users("mindspore.dataset") == {reader}
    assert not users("mindspore.nn") & inside("pipeline")
    assert users("mindspore") & inside("pipeline") <= {reader, writer}  # the writer only where its extension is absent


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_importing_prints_nothing_parses_nothing_and_sets_nothing():
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
    before = set(ROOT.iterdir())
    result = run(code, ",".join(MODULES), "--no-such-option")
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


@pytest.mark.parametrize("folder", sorted({path.parent for path in SOURCES}), ids=lambda path: path.name)
def test_folders_hold_few_modules(folder: Path):
    modules = [path.name for path in folder.glob("*.py") if path.name != "__init__.py"]
    assert len(modules) <= MAX_MODULES, ", ".join(modules)
