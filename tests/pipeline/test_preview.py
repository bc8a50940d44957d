from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from pipeline.build.build_set import build
from pipeline.build.plan import BuildOptions
from pipeline.loading.targets import encode_maps
from pipeline.preview import main
from pipeline.skeleton import KEYPOINT_INDEX
from pipeline.visualization.contact_sheet import contact_sheet
from pipeline.visualization.targets import draw_heatmaps, draw_ignore_mask, draw_keypoints, draw_pafs
from tests.support import coco_folder


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("preview")
    coco_folder.write(folder / "coco", coco_folder.mixed(6))
    build([(folder / "coco", "train")], folder / "set", BuildOptions(keep_empty=True), workers=1)
    return folder / "set"


def run(*arguments: object):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_a_sheet_has_four_images_per_sample(shards: Path, tmp_path: Path):
    out = tmp_path / "new" / "sheet.png"
    result = run(shards, "--out", out, "--count", 4, "--size", 64, "--columns", 2)
    assert result.exit_code == 0, result.output
    assert "4 samples" in result.output
    sheet = cv2.imread(str(out))
    assert sheet.shape == (24 + 2 * (320 + 24 + 12), 2 * 4 * (320 + 12), 3)
    assert sheet.std() > 10


def test_the_sheet_depends_on_seed_epoch_and_augmentation(shards: Path, tmp_path: Path):
    sheets = []
    for name, options in (("a", ()), ("b", ()), ("c", ("--seed", 1)), ("d", ("--epoch", 1)), ("e", ("--no-augment",))):
        assert run(shards, "--out", tmp_path / f"{name}.png", "--size", 64, *options).exit_code == 0
        sheets.append((tmp_path / f"{name}.png").read_bytes())
    assert sheets[0] == sheets[1]
    assert len(set(sheets)) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--out", "sheet.jpg"), "ends in .png"),
        (("--out", "sheet.png", "--size", "100"), "multiples of 8"),
    ],
)
def test_invalid_arguments_give_one_line_errors(shards: Path, arguments, message):
    result = run(shards, *arguments)
    assert result.exit_code == 2
    assert message in result.output
    assert len(result.output.strip().splitlines()) == 1


def test_missing_shards_are_an_error(tmp_path: Path):
    result = run(tmp_path, "--out", tmp_path / "sheet.png")
    assert result.exit_code == 2
    assert "make shards" in result.output


def test_overlays_show_keypoints_maps_and_mask():
    image = np.full((64, 96, 3), 100, dtype=np.uint8)
    keypoints = np.zeros((1, 18, 3), dtype=np.float32)
    keypoints[0, KEYPOINT_INDEX["left_shoulder"]] = 20, 30, 2
    keypoints[0, KEYPOINT_INDEX["left_elbow"]] = 70, 30, 2
    keypoints[0, KEYPOINT_INDEX["nose"]] = 40, 5, 0
    maps = encode_maps(keypoints, (64, 96))
    people, heatmaps, pafs = (
        draw_keypoints(image, keypoints),
        draw_heatmaps(image, maps.heatmaps),
        draw_pafs(image, maps.pafs),
    )
    assert people[30, 45, 1] == people[30, 45].max() > 150  # green: a left limb
    assert (people[3:8, 38:43] == 100).all()  # unlabelled keypoints are not drawn
    assert heatmaps[30, 20].max() > 150 > heatmaps[30, 45].max()
    assert pafs[30, 45, 2] == pafs[30, 45].max() > 150  # red: points to the right
    assert pafs[5, 5].max() < 60
    mask = np.ones((8, 12), dtype=np.uint8)
    mask[2, 3] = 0
    changed = (draw_ignore_mask(image, mask) != image).any(axis=2)
    assert changed[16:24, 24:32].all()
    assert changed.sum() == 64
    assert (image == 100).all()


def test_a_sheet_without_people():
    batch = {
        "image_id": np.array([3]),
        "image": np.zeros((1, 32, 40, 3), np.uint8),
        "keypoints": np.zeros((1, 2, 18, 3), np.float32),
        "mask": np.ones((1, 4, 5), np.uint8),
    }
    maps = encode_maps(np.zeros((0, 18, 3), np.float32), (32, 40))
    sheet = contact_sheet({**batch, "heatmaps": maps.heatmaps[None], "pafs": maps.pafs[None]}, columns=1)
    assert sheet.shape == (24 + 7 * 32 + 24 + 12, 4 * (7 * 40 + 12), 3)
