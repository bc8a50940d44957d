"""Every command prints its help quickly, without importing large libraries."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.project.test_layering import SOURCES, module_name
from tests.support.coco_folder import ROOT

COMMANDS = sorted(
    module_name(path).removesuffix(".__main__")
    for path in SOURCES
    if path.name == "__main__.py" or '__name__ == "__main__"' in path.read_text(encoding="utf-8")
    if "system" not in path.parts  # its script installs click
)
LARGE_LIBRARIES = (
    "mindspore",
    "matplotlib",
    "joblib",
    "pycocotools",
    "cv2",
    "simplejpeg",
    "distributed",
    "onnxruntime",
)

_RUN_HELP = """
import contextlib, io, json, runpy, sys
help_results = {}
for name in sys.argv[1].split(","):
    sys.argv = [name, "--help"]
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        try:
            runpy.run_module(name, run_name="__main__", alter_sys=True)
            code = None
        except SystemExit as end:
            code = end.code
    help_results[name] = [code, out.getvalue(), sorted(name for name in sys.modules if "." not in name)]
print(json.dumps(help_results))
"""


@pytest.fixture(scope="module")
def help_results():
    """(exit code, output, imported modules) of --help by command; one process runs all commands."""
    result = subprocess.run(
        [sys.executable, "-c", _RUN_HELP, ",".join(COMMANDS)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stderr == ""
    return json.loads(result.stdout)


def test_documented_commands_exist():
    documented = {"pipeline.synthetic", "pipeline.shards", "pipeline.stats", "pipeline.verify", "pipeline.preview"}
    assert documented | {
        "training.train",
        "training.convert",
        "training.export",
        "evaluation.evaluate",
        "evaluation.predict",
    } <= set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help(help_results, command):
    code, text, modules = help_results[command]
    assert code == 0
    assert text.startswith("Usage: ")
    assert "--help" in text
    options = [line for line in text.splitlines() if line.startswith("  --")]
    assert options
    assert not set(LARGE_LIBRARIES) & set(modules)


def test_stats_do_not_import_large_libraries(tiny_shards: Path):
    code = """
import sys
from pipeline.stats import main
main([sys.argv[1]], standalone_mode=False)
print(sorted({name.split(".")[0] for name in sys.modules}), file=sys.stderr)
"""
    result = subprocess.run(
        [sys.executable, "-c", code, str(tiny_shards)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout.startswith(f"{tiny_shards}\n")
    assert not set(LARGE_LIBRARIES) & set(ast.literal_eval(result.stderr))


@pytest.mark.parametrize("command", ["training.train"])
def test_a_missing_or_unknown_option_is_reported(command):
    for arguments, message in (([], "Missing option"), (["--confg", "x"], "Did you mean '--config'")):
        result = subprocess.run(
            [sys.executable, "-m", command, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert result.returncode == 2
        assert message in result.stderr
