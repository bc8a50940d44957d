"""Fixtures shared by several test modules."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.support import tiny
from tests.support.coco_folder import real_coco


@pytest.fixture(scope="session")
def coco_mini() -> Path:
    """COCO folder with 80 real images."""
    folder = real_coco()
    if folder is None:
        pytest.skip("no real images: set COCO_MINI to a COCO folder with annotations/ and train2017/")
    return folder


@pytest.fixture(scope="session")
def tiny_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shard set of small synthetic images for `tiny.RECIPE`."""
    from pipeline.build.build_set import build
    from pipeline.build.plan import BuildOptions
    from pipeline.synthetic import generate

    folder = tmp_path_factory.mktemp("tiny")
    generate(folder / "coco", train=tiny.RECORDS, val=0, size=192, workers=1)
    build([(folder / "coco", "train2017")], folder / "train", BuildOptions(keep_empty=True), workers=1)
    return folder / "train"


@pytest.fixture(scope="session")
def tiny_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Path of a file with `tiny.RECIPE`."""
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny.RECIPE))
    return path


@pytest.fixture(scope="session")
def tiny_run(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Finished run of `tiny.RECIPE` in one process; tests must not change it."""
    run = tmp_path_factory.mktemp("runs") / "tiny"
    assert tiny.train_in_process(tiny.recipe(), tiny_shards, run) == 0
    return run
