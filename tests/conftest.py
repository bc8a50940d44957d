"""Fixtures that more than one test module uses."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def coco_mini() -> Path:
    """A COCO folder of 80 real pictures; in the environment variable COCO_MINI or beside the project in shared/."""
    folder = Path(os.environ.get("COCO_MINI", ROOT.parent / "shared" / "coco-mini"))
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent: set COCO_MINI to a COCO folder with annotations/ and train2017/")
    return folder
