"""The source runs no code from its input: no pickle, eval, shell call or unsafe YAML loader."""

from __future__ import annotations

import ast
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.build.build_set import build
from pipeline.build.plan import BuildOptions
from pipeline.errors import InputError
from pipeline.system.files import write_atomically
from tests.project.test_layering import SOURCES, imports, module_name
from tests.support.coco_folder import mixed, write

MODULES = ("pickle", "dill", "cloudpickle", "marshal", "shelve", "torch")
CALLS = (
    "eval",
    "exec",
    "compile",
    "__import__",
    "os.system",
    "os.popen",
    "ms.load_checkpoint",
    "yaml.unsafe_load",
)


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_source_runs_no_code_from_input(path: Path) -> None:
    roots = {name.partition(".")[0] for name in imports(path)}
    assert not roots & set(MODULES)
    for name, call in _calls(path):
        assert name not in CALLS, f"line {call.lineno}"
        options = {keyword.arg: keyword.value for keyword in call.keywords}
        assert "shell" not in options, f"line {call.lineno}"
        assert "allow_pickle" not in options, f"line {call.lineno}"
        if name == "yaml.load":
            assert ast.unparse(call.args[1]) == "_Loader", f"line {call.lineno}"


def test_the_loader_of_recipes_is_a_safe_one() -> None:
    import yaml

    from training import recipes

    assert issubclass(recipes._Loader, yaml.SafeLoader)


def _calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def test_a_link_out_of_the_image_folder_is_rejected(tmp_path: Path) -> None:
    content = mixed(4)
    for entry in content["images"]:
        entry["file_name"] = f"deep/{entry['file_name']}"
    coco = write(tmp_path / "coco", content, pictures=False)
    (tmp_path / "outside").mkdir()
    write(tmp_path / "other", mixed(4))
    for picture in (tmp_path / "other" / "train").iterdir():
        picture.rename(tmp_path / "outside" / picture.name)
    (coco / "train" / "deep").symlink_to(tmp_path / "outside")
    with pytest.raises(InputError, match="a symbolic link points outside the image folder"):
        build([(coco, "train")], tmp_path / "set", BuildOptions(), workers=1)


def test_atomic_writes_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "a.json", "{}")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.json").stat().st_mode) == 0o640
