"""Every MindSpore operator in the graphs lists Ascend as a supported platform in its documentation."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

from tests.support.coco_folder import ROOT

IN_THE_GRAPH = sorted(
    path for folder in ("network", "loss", "optim", "distributed") for path in (ROOT / "training" / folder).glob("*.py")
)
NOT_OPERATORS = {"nn.Cell", "nn.CellList", "nn.Optimizer", "amp.auto_mixed_precision"}
"""Containers, base classes and functions on cells: their documentation lists no platforms, or none of its own."""


def operators_in(path: Path) -> set[str]:
    """Return the names of operators in a file, such as ops.exp, nn.Conv2d or amp.all_finite."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {ast.unparse(node).removeprefix("ms.") for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return {name for name in names if re.fullmatch(r"(nn|ops|amp)\.\w+", name)}


OPERATORS = sorted(set().union(*map(operators_in, IN_THE_GRAPH)) - NOT_OPERATORS)


def test_operators_are_found():
    assert {"nn.Conv2d", "nn.Adam", "ops.exp", "ops.AllReduce", "amp.all_finite"} <= set(OPERATORS)


@pytest.mark.parametrize("name", OPERATORS)
def test_operator_lists_ascend(name):
    import mindspore as ms

    documentation = functools.reduce(getattr, name.split("."), ms).__doc__ or ""
    platforms = re.search(r"Supported Platforms:\s*(.*)", documentation)
    assert platforms, f"{name}: no platforms in its documentation"
    assert "Ascend" in platforms[1]
