"""Fuzzed input files: every call must succeed or end with a one-line error."""

from __future__ import annotations

import functools
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from click.testing import CliRunner

from pipeline.annotations.annotated_image import PersonFilter
from pipeline.annotations.coco import annotation_file, read_annotations
from pipeline.images.decode import check_image, decode_image, decode_reduced
from pipeline.storage.manifest import FILE_NAME, Manifest
from pipeline.system.log_filters import silence_opencv
from tests.faults.input_tester import InputTester
from tests.faults.mutate import Generator, json_variant, mutate_bytes, mutate_tree
from tests.faults.report import FaultReport
from tests.faults.shard_sets import build_in_process, command_problem, create_source
from tests.support.coco_folder import ROOT, mixed, write
from tests.support.image_kinds import READABLE, UNREADABLE, with_frame, with_sampling

COMMAND_INTERVAL = 40
"""Every case with a multiple of this number is also tested with the command line."""


def annotations(seed: int, cases: int, folder: Path) -> FaultReport:
    """Read fuzzed COCO JSON files and render their ignore regions."""
    tester = InputTester()
    coco = write(folder / "coco", mixed(8))
    path = annotation_file(coco, "train")
    crowd = {"size": [50, 66], "counts": [100, 50, 3150]}
    content = mixed(8)
    content["annotations"][3]["segmentation"] = crowd

    def read() -> None:
        for picture in read_annotations(path, PersonFilter()).images:
            picture.annotation()

    def build() -> str | None:
        return command_problem(build_in_process(coco, folder / "set", "--on-bad-image", "skip"))

    for case in range(cases):
        path.write_bytes(json_variant(content, case, seed))
        tester.run(f"annotations (case {case})", read, *([build] if case % COMMAND_INTERVAL == 0 else []))
    return tester.result()


def _encoded_images() -> list[bytes]:
    return [make() for make in (*READABLE.values(), *UNREADABLE.values())]


_FRAMES = (0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)


def _with_other_frame(data: bytes, rng: Generator) -> bytes:
    """Return a JPEG with another process, precision or sampling in its header; other data unchanged."""
    if not data.startswith(b"\xff\xd8"):
        return data
    try:
        if rng.random() < 1 / 2:
            return with_frame(data, int(rng.choice(_FRAMES)), int(rng.choice([8, 12, 16])))
        return with_sampling(data, tuple(int(factor) for factor in rng.integers(0, 256, 3)))
    except (StopIteration, IndexError):
        return data


def _with_other_size(data: bytes, rng: Generator) -> bytes:
    """Return an image with another height and width in its header."""
    height, width = (int(rng.choice([0, 1, 9999, 30_000, 65_535])) for _ in range(2))
    start = data.find(b"\xff\xc0") if data.startswith(b"\xff\xd8") else -1
    if start >= 0:
        return data[: start + 5] + struct.pack(">HH", height, width) + data[start + 9 :]
    if data.startswith(b"\x89PNG"):
        head = b"IHDR" + struct.pack(">II", width, height) + data[24:29]
        return data[:12] + head + struct.pack(">I", zlib.crc32(head)) + data[33:]
    return data


def images(seed: int, cases: int, folder: Path) -> FaultReport:
    """Check and decode fuzzed images."""
    silence_opencv()
    tester = InputTester()
    originals = _encoded_images()
    coco = write(folder / "coco", mixed(1))
    (path,) = (coco / "train").iterdir()

    def build() -> str | None:
        return command_problem(build_in_process(coco, folder / "set", "--force"))

    for case in range(cases):
        rng = np.random.default_rng((seed, case))
        data = originals[case % len(originals)]
        if case >= len(originals):
            change = (_with_other_size, _with_other_frame, *[mutate_bytes] * 4)[int(rng.integers(6))]
            data = change(data, rng)
        path.write_bytes(data)
        tester.run(f"checked image (case {case})", lambda: check_image(path.read_bytes()))
        tester.run(f"strictly decoded image (case {case})", lambda: decode_image(path.read_bytes(), strict=True))
        tester.run(f"image decoded at a fraction (case {case})", lambda: decode_reduced(path.read_bytes(), 8))
        more = [build] if case % COMMAND_INTERVAL == 0 else []
        tester.run(f"decoded image (case {case})", lambda: decode_image(path.read_bytes()), *more)
    return tester.result()


SNIPPETS = (
    "a: &a [x, x, x]\nb: &b [*a, *a, *a]\nc: &c [*b, *b, *b]\nd: [*c, *c, *c]\n",
    "&a [*a]",
    "training: &t {lr: 1e-3}\nmodel:\n  <<: *t\n",
    "!!python/object/apply:os.system ['true']",
    "model: !!python/name:os.system",
    "training: {lr: 2001-99-99}",
    "training: {lr: !!int x}",
    "data: !!binary ///",
    "? [a, b]\n: c",
    "{}: 1",
    "---\na: 1\n---\nb: 2\n",
    "[" * 3000,
    "a: " * 3000,
    "\t\n\x07",
    "model: {stages: 0o9}",
    "training: {epochs: " + "9" * 5000 + "}",
)
OVERRIDES = ("training.lr=2e-4", "training.lr=[", "model=3", "a.b.c=1", "=", "training.lr", "data.size=1:2:3", "a=*b")


def recipes(seed: int, cases: int, folder: Path) -> FaultReport:
    """Load fuzzed recipes, some of them with overrides."""
    from tests.support.tiny import restore_signal_mask
    from training.recipes import load_config
    from training.train import main

    tester = InputTester()
    texts = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "configs").glob("*.yaml"))]
    path = folder / "recipe.yaml"
    options = ["--config", str(path), "--shards", str(folder / "none"), "--out", str(folder / "run")]

    def command() -> str | None:
        with restore_signal_mask():
            return command_problem(CliRunner().invoke(main, options), (2,))

    for case in range(cases):
        rng = np.random.default_rng((seed, case))
        path.write_bytes(_mutate_recipe(texts[case % len(texts)], rng))
        overrides = [OVERRIDES[int(rng.integers(len(OVERRIDES)))]] if rng.random() < 1 / 4 else []
        more = [command] if case % COMMAND_INTERVAL == 0 else []
        tester.run(f"recipe (case {case})", functools.partial(load_config, path, overrides), *more)
    return tester.result()


def _mutate_recipe(text: str, rng: Generator) -> bytes:
    kind = rng.random()
    if kind < 1 / 8:
        return SNIPPETS[int(rng.integers(len(SNIPPETS)))].encode()
    if kind < 1 / 2:
        return mutate_bytes(text.encode(), rng, [snippet.encode() for snippet in SNIPPETS])
    tree = mutate_tree(yaml.safe_load(text), rng)
    return json.dumps(tree).encode("utf-8") if rng.random() < 1 / 2 else _to_yaml(tree)


def _to_yaml(tree: Any) -> bytes:
    return str(yaml.safe_dump(tree, allow_unicode=False)).encode("utf-8", "surrogatepass")


def manifests(seed: int, cases: int, folder: Path) -> FaultReport:
    """Load fuzzed manifests as training does; test some with `verify` and `stats`."""
    from pipeline.stats import main as stats
    from pipeline.verify import main as verify

    tester = InputTester()
    coco = create_source(folder / "coco")
    shards = folder / "set"
    build_in_process(coco, shards)
    content = json.loads((shards / FILE_NAME).read_bytes())

    def command() -> str | None:
        verified = command_problem(CliRunner().invoke(verify, [str(shards)]), (0, 1))
        return verified or command_problem(CliRunner().invoke(stats, [str(shards)]))

    for case in range(cases):
        if case == cases // 2:
            del content["fingerprint"]  # without it, the content hash is not checked
        (shards / FILE_NAME).write_bytes(json_variant(content, case, seed))
        more = [command] if case % COMMAND_INTERVAL == 0 else []
        tester.run(f"manifest (case {case})", lambda: Manifest.load(shards, hash_modified=True), *more)
    return tester.result()


def results(seed: int, cases: int, folder: Path) -> FaultReport:
    """Read fuzzed COCO keypoint results, and score the valid ones."""
    from evaluation.evaluate import main
    from evaluation.scoring.datasets import CocoDataset
    from evaluation.scoring.evaluation import score_results
    from evaluation.scoring.results import read_results

    tester = InputTester()
    coco = write(folder / "coco", mixed(8))
    ground_truth = CocoDataset(coco, "train").ground_truth()
    content = [
        {"image_id": one["image_id"], "category_id": 1, "keypoints": one["keypoints"], "score": 0.5}
        for people in ground_truth.values()
        for one in people
    ]
    path = folder / "results.json"
    options = ["--results", str(path), "--coco", str(coco), "--split", "train", "--out", str(folder / "out")]

    def command() -> str | None:
        return command_problem(CliRunner().invoke(main, options))

    for case in range(cases):
        path.write_bytes(json_variant(content, case, seed))
        more = [command] if case % COMMAND_INTERVAL == 0 else []
        tester.run(
            f"results (case {case})", lambda: score_results(ground_truth, read_results(path, ground_truth)), *more
        )
    return tester.result()
