"""Input: files that are wrong in every way end in success or in one line."""

from __future__ import annotations

import functools
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg
import yaml
from click.testing import CliRunner

from pipeline.annotations.coco import PersonFilter, annotation_file, read_annotations
from pipeline.storage.images import check_image, decode_image
from pipeline.storage.manifest import FILE_NAME, Manifest
from pipeline.system.log_filters import silence_opencv
from tests.faults.report import Findings
from tests.faults.mutate import Chance, changed, damaged, json_variant
from tests.faults.sets import broken_promise, build_here, make_source
from tests.faults.input_tester import Trial
from tests.support.coco_folder import ROOT, jpeg, mixed, write

SAMPLED = 40
"""One case in so many also goes through the command that a user types."""


def annotations(seed: int, cases: int, folder: Path) -> Findings:
    """COCO json files: read, and every ignore region drawn; a sample through the command."""
    trial = Trial()
    coco = write(folder / "coco", mixed(8))
    path = annotation_file(coco, "train")
    crowd = {"size": [50, 66], "counts": [100, 50, 3150]}
    content = mixed(8)
    content["annotations"][3]["segmentation"] = crowd

    def read() -> None:
        for picture in read_annotations(path, PersonFilter())[0]:
            picture.annotation()

    def build() -> str | None:
        return broken_promise(build_here(coco, folder / "set", "--on-bad-image", "skip"))

    for case in range(cases):
        path.write_bytes(json_variant(content, case, seed))
        trial.run(f"annotations (case {case})", read, *([build] if case % SAMPLED == 0 else []))
    return trial.result()


def _pictures() -> list[bytes]:
    colour = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    encoded = [jpeg(48, 64), jpeg(1, 1), jpeg(48, 64) + b"\0" * 100]
    encoded.append(bytes(simplejpeg.encode_jpeg(colour[:, :, :1].copy(), colorspace="GRAY")))
    cmyk = np.ascontiguousarray(np.dstack([colour, colour[:, :, :1]]))
    encoded.append(bytes(simplejpeg.encode_jpeg(cmyk, colorspace="CMYK")))
    encoded.append(cv2.imencode(".jpg", colour, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes())
    for image in (colour, colour[:, :, 0], colour.astype(np.uint16) * 257, np.dstack([colour, colour[:, :, :1]])):
        encoded.append(cv2.imencode(".png", image)[1].tobytes())
    encoded.extend([b"", b"\0", b"GIF89a" + bytes(90), cv2.imencode(".bmp", colour)[1].tobytes()])
    return encoded


def _bomb(data: bytes, chance: Chance) -> bytes:
    """The picture with other sides in its header."""
    height, width = (int(chance.choice([0, 1, 9999, 30_000, 65_535])) for _ in range(2))
    start = data.find(b"\xff\xc0") if data.startswith(b"\xff\xd8") else -1
    if start >= 0:
        return data[: start + 5] + struct.pack(">HH", height, width) + data[start + 9 :]
    if data.startswith(b"\x89PNG"):
        head = b"IHDR" + struct.pack(">II", width, height) + data[24:29]
        return data[:12] + head + struct.pack(">I", zlib.crc32(head)) + data[33:]
    return data


def pictures(seed: int, cases: int, folder: Path) -> Findings:
    """Pictures: checked, decoded, decoded strictly; a sample through the command."""
    silence_opencv()
    trial = Trial()
    originals = _pictures()
    coco = write(folder / "coco", mixed(1))
    (path,) = (coco / "train").iterdir()

    def build() -> str | None:
        return broken_promise(build_here(coco, folder / "set", "--force"))

    for case in range(cases):
        chance = np.random.default_rng((seed, case))
        data = originals[case % len(originals)]
        if case >= len(originals):
            data = _bomb(data, chance) if chance.random() < 1 / 8 else damaged(data, chance)
        path.write_bytes(data)
        trial.run(f"checked picture (case {case})", lambda: check_image(path.read_bytes()))
        trial.run(f"strictly decoded picture (case {case})", lambda: decode_image(path.read_bytes(), strict=True))
        more = [build] if case % SAMPLED == 0 else []
        trial.run(f"decoded picture (case {case})", lambda: decode_image(path.read_bytes()), *more)
    return trial.result()


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


def recipes(seed: int, cases: int, folder: Path) -> Findings:
    """Recipes and overrides; a sample through the command."""
    from tests.support.tiny import kept_signals
    from training.recipes import load_config
    from training.train import main

    trial = Trial()
    texts = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "configs").glob("*.yaml"))]
    path = folder / "recipe.yaml"
    options = ["--config", str(path), "--shards", str(folder / "none"), "--out", str(folder / "run")]

    def command() -> str | None:
        with kept_signals():
            return broken_promise(CliRunner().invoke(main, options), (2,))

    for case in range(cases):
        chance = np.random.default_rng((seed, case))
        path.write_bytes(_recipe(texts[case % len(texts)], chance))
        overrides = [OVERRIDES[int(chance.integers(len(OVERRIDES)))]] if chance.random() < 1 / 4 else []
        more = [command] if case % SAMPLED == 0 else []
        trial.run(f"recipe (case {case})", functools.partial(load_config, path, overrides), *more)
    return trial.result()


def _recipe(text: str, chance: Chance) -> bytes:
    kind = chance.random()
    if kind < 1 / 8:
        return SNIPPETS[int(chance.integers(len(SNIPPETS)))].encode()
    if kind < 1 / 2:
        return damaged(text.encode(), chance, [snippet.encode() for snippet in SNIPPETS])
    tree = changed(yaml.safe_load(text), chance)
    return json.dumps(tree).encode("utf-8") if chance.random() < 1 / 2 else _dumped(tree)


def _dumped(tree: Any) -> bytes:
    return str(yaml.safe_dump(tree, allow_unicode=False)).encode("utf-8", "surrogatepass")


def manifests(seed: int, cases: int, folder: Path) -> Findings:
    """Manifests: loaded as training does; a sample through `verify` and `stats`."""
    from pipeline.stats import main as stats
    from pipeline.verify import main as verify

    trial = Trial()
    coco = make_source(folder / "coco")
    shards = folder / "set"
    build_here(coco, shards)
    content = json.loads((shards / FILE_NAME).read_bytes())

    def command() -> str | None:
        verified = broken_promise(CliRunner().invoke(verify, [str(shards)]), (0, 1))
        return verified or broken_promise(CliRunner().invoke(stats, [str(shards)]))

    for case in range(cases):
        if case == cases // 2:
            del content["fingerprint"]  # as a careful forger would
        (shards / FILE_NAME).write_bytes(json_variant(content, case, seed))
        more = [command] if case % SAMPLED == 0 else []
        trial.run(f"manifest (case {case})", lambda: Manifest.load(shards, hash_modified=True), *more)
    return trial.result()


def results(seed: int, cases: int, folder: Path) -> Findings:
    """COCO keypoint results: read, and scored where they are right; a sample through the command."""
    from evaluation.evaluate import main
    from evaluation.scoring.datasets import CocoDataset
    from evaluation.scoring.evaluation import score_results
    from evaluation.scoring.results import read_results

    trial = Trial()
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
        return broken_promise(CliRunner().invoke(main, options))

    for case in range(cases):
        path.write_bytes(json_variant(content, case, seed))
        more = [command] if case % SAMPLED == 0 else []
        trial.run(
            f"results (case {case})", lambda: score_results(ground_truth, read_results(path, ground_truth)), *more
        )
    return trial.result()
