"""Which packages an existing environment lacks."""

from __future__ import annotations

from pipeline.system.requirements import find_missing, read_pins
from tests.support.coco_folder import ROOT

PINS = """# a comment
# another
click==8.1 \\
    --hash=sha256:11 \\
    --hash=sha256:22
old==1.0 ; python_full_version < '3.11' \\
    --hash=sha256:33
new==2.0 ; python_full_version >= '3.11' \\
    --hash=sha256:44
"""


def test_pins_keep_their_hashes_and_markers_decide() -> None:
    pins = read_pins(PINS, lambda marker: ">=" in marker)
    assert list(pins) == ["click", "new"]
    assert pins["click"] == "click==8.1 \\\n    --hash=sha256:11 \\\n    --hash=sha256:22\n"
    assert pins["new"].count("sha256:44") == 1


def test_only_absent_packages_are_missing() -> None:
    pins = read_pins(PINS, lambda _: True)
    assert list(find_missing(pins, lambda name: name == "click")) == ["old", "new"]
    assert find_missing(pins, lambda _: True) == {}


def test_pins_to_run_are_those_of_the_tests_without_their_tools() -> None:
    run, everything = (
        read_pins((ROOT / name).read_text(encoding="utf-8"), lambda _: True)
        for name in ("requirements-run.txt", "requirements.txt")
    )
    assert {"mindspore", "numpy", "onnxruntime", "click"} < run.keys()
    assert not {"pytest", "ruff", "mypy"} & run.keys()
    assert run.items() <= everything.items()
