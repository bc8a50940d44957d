"""Synthetic dataset: valid COCO, the same bytes for the same seed, correct visibility, people inside their masks."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from pipeline.errors import InputError
from pipeline.skeleton import COCO_KEYPOINTS
from pipeline.synthetic import dataset, generate
from pipeline.synthetic.__main__ import main
from pipeline.synthetic.geometry import poses
from pipeline.synthetic.geometry.figures import BodyShape, Figure, build_figure, sample_body_shape
from pipeline.synthetic.geometry.heads import UNLABELLED, VISIBLE
from pipeline.synthetic.geometry.layout import sample_layout
from pipeline.synthetic.geometry.objects import box
from pipeline.synthetic.geometry.poses import Pose, sample_pose, sample_proportions
from pipeline.synthetic.rendering.annotations import annotate, annotate_person, mask_to_polygons, render_part_map
from pipeline.synthetic.scenes import render_scene, sample_scene_size

TRAIN, VAL = 150, 6
KEYPOINT_INDEX = {name: i for i, name in enumerate(COCO_KEYPOINTS)}


@pytest.fixture(scope="module")
def dataset_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("synthetic") / "demo"
    assert generate(out, train=TRAIN, val=VAL, size=192, seed=3, workers=1)
    return out


@pytest.fixture(scope="module")
def coco(dataset_folder: Path) -> COCO:
    return COCO(dataset_folder / "annotations" / "person_keypoints_train2017.json")


def file_hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def people(coco: COCO) -> list[dict[str, Any]]:
    return [annotation for annotation in coco.anns.values() if not annotation["iscrowd"]]


def standing(yaw: float) -> Pose:
    limbs = np.array([[[0.1, 0.25], [0.1, 0.25], [0.0, 0.08], [0.0, 0.08]]] * 2)
    return Pose("standing", yaw, 0.0, 0.0, 0.0, 0.0, (0.0, 0.0, 0.0), limbs)


def figure(yaw: float, seed: int = 0) -> Figure:
    shape = BodyShape(
        sample_proportions(np.random.default_rng(seed)), thickness=1.0, skirt=0.0, long_hair=False, hairline=0
    )
    return build_figure(standing(yaw), shape, 200.0).translated(128.0, 130.0)


def keypoints_of(yaw: float) -> dict[str, list[float]]:
    person = figure(yaw)
    annotation = annotate_person(person, 1, render_part_map([person], 256, 256))
    assert annotation is not None
    return dict(zip(COCO_KEYPOINTS, np.reshape(annotation["keypoints"], (17, 3)).tolist(), strict=True))


def test_the_number_of_workers_does_not_change_a_byte(dataset_folder: Path, tmp_path: Path) -> None:
    generate(tmp_path / "two", train=TRAIN, val=VAL, size=192, seed=3, workers=2)
    assert file_hashes(tmp_path / "two") == file_hashes(dataset_folder)


def test_a_picture_depends_on_seed_split_and_index_alone(dataset_folder: Path, tmp_path: Path) -> None:
    generate(tmp_path / "fewer", train=3, val=0, size=192, seed=3, workers=1)
    generate(tmp_path / "other", train=3, val=0, size=192, seed=4, workers=1)
    names = [f"{i:012d}.jpg" for i in (1, 2, 3)]
    for name in names:
        data = (tmp_path / "fewer" / "train2017" / name).read_bytes()
        assert data == (dataset_folder / "train2017" / name).read_bytes()
        assert data != (tmp_path / "other" / "train2017" / name).read_bytes()
    train = {hash_ for file, hash_ in file_hashes(dataset_folder).items() if file.startswith("train2017")}
    val = {hash_ for file, hash_ in file_hashes(dataset_folder).items() if file.startswith("val2017")}
    assert len(train) == TRAIN
    assert len(val) == VAL
    assert not train & val


def test_annotations_are_the_same_without_pictures(dataset_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "plain"
    generate(out, train=TRAIN, val=VAL, size=192, seed=3, workers=1, pictures=False)
    for name in dataset.SPLITS:
        path = Path("annotations") / f"person_keypoints_{name}.json"
        assert (out / path).read_bytes() == (dataset_folder / path).read_bytes()
        assert list((out / name).iterdir()) == []


def test_files_have_cocos_layout(dataset_folder: Path, coco: COCO) -> None:
    with (dataset_folder / "annotations" / "person_keypoints_val2017.json").open() as file:
        val = json.load(file)
    assert set(val) == {"info", "licenses", "images", "annotations", "categories"}
    assert len(val["images"]) == VAL
    (category,) = val["categories"]
    assert category["id"] == 1
    assert category["name"] == category["supercategory"] == "person"
    assert category["keypoints"] == list(COCO_KEYPOINTS)
    assert sorted(map(sorted, category["skeleton"]))[:3] == [[1, 2], [1, 3], [2, 3]]
    assert len(category["skeleton"]) == 19
    image_keys = {"license", "file_name", "coco_url", "height", "width", "date_captured", "flickr_url", "id"}
    assert all(set(image) == image_keys for image in coco.imgs.values())
    keys = {"segmentation", "area", "bbox", "num_keypoints", "iscrowd", "keypoints", "image_id", "category_id", "id"}
    assert all(set(annotation) == keys for annotation in coco.anns.values())
    assert len(coco.anns) == len(coco.dataset["annotations"])  # ids are unique
    assert not set(coco.imgs) & {image["id"] for image in val["images"]}


def test_images_have_the_annotated_sizes(dataset_folder: Path, coco: COCO) -> None:
    for image in coco.imgs.values():
        assert image["file_name"] == f"{image['id']:012d}.jpg"
        picture = cv2.imread(str(dataset_folder / "train2017" / image["file_name"]))
        assert picture.shape == (image["height"], image["width"], 3)
    shapes = {(image["height"], image["width"]) for image in coco.imgs.values()}
    assert shapes == {(192, 192), (144, 192), (192, 144), (128, 192)}


def test_masks_boxes_and_areas_agree(coco: COCO) -> None:
    for annotation in coco.anns.values():
        mask = coco.annToMask(annotation)
        assert int(mask.sum()) == annotation["area"]
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        left, top = int(columns[0]), int(rows[0])
        assert annotation["bbox"] == [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top]


def test_keypoints_are_inside_the_image_and_counted(coco: COCO) -> None:
    for annotation in coco.anns.values():
        image = coco.imgs[annotation["image_id"]]
        x, y, v = np.reshape(annotation["keypoints"], (17, 3)).T
        assert set(v) <= {0, 1, 2}
        assert annotation["num_keypoints"] == int((v > 0).sum())
        assert (x[v > 0] >= 0).all()
        assert (x[v > 0] <= image["width"] - 1).all()
        assert (y[v > 0] >= 0).all()
        assert (y[v > 0] <= image["height"] - 1).all()
        assert not x[v == 0].any()
        assert not y[v == 0].any()


def test_visible_keypoints_are_inside_the_persons_mask(coco: COCO) -> None:
    for annotation in people(coco):
        near = cv2.dilate(coco.annToMask(annotation), np.ones((5, 5), np.uint8))
        for x, y, v in np.reshape(annotation["keypoints"], (17, 3)).tolist():
            assert v != 2 or near[round(y), round(x)], (annotation["id"], x, y)


def test_all_cases_of_coco_occur(coco: COCO) -> None:
    found = Counter(annotation["image_id"] for annotation in people(coco))
    numbers = {found.get(image, 0) for image in coco.imgs}
    assert {0, 1, 2, 3, 4, 5, 6} <= numbers
    crowds = [annotation for annotation in coco.anns.values() if annotation["iscrowd"]]
    assert crowds
    assert all(isinstance(crowd["segmentation"]["counts"], list) for crowd in crowds)
    assert not any(any(crowd["keypoints"]) for crowd in crowds)
    trusted = [annotation for annotation in people(coco) if annotation["num_keypoints"]]
    visibility = Counter(v for annotation in trusted for v in annotation["keypoints"][2::3])
    total = sum(visibility.values())
    assert visibility[2] > 0.6 * total
    assert visibility[1] > 0.05 * total
    assert visibility[0] > 0.05 * total
    areas = [annotation["area"] for annotation in people(coco)]
    assert min(areas) < 200
    assert max(areas) > 4000


def test_some_people_have_too_few_keypoints_to_train_on() -> None:
    found = [
        annotation["num_keypoints"]
        for seed in range(300)
        for annotation in render_scene(np.random.default_rng(seed), 256, 256, with_image=False).annotations
    ]
    assert sum(0 < number < 5 for number in found) >= 2
    assert sum(number >= 5 for number in found) > 0.7 * len(found)


def test_small_people_have_no_keypoints_as_in_coco(coco: COCO) -> None:
    small = [annotation for annotation in people(coco) if annotation["area"] <= 32**2]
    assert small
    assert not any(any(annotation["keypoints"]) for annotation in small)
    assert all(annotation["num_keypoints"] == 0 for annotation in small)


def test_left_and_right_follow_the_facing_direction() -> None:
    front, back = keypoints_of(0.0), keypoints_of(math.pi)
    for joint in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle"):
        left, right = f"left_{joint}", f"right_{joint}"
        assert front[left][0] > front[right][0] + 5, (
            "the left side of a person who faces the camera is on the right of the image"
        )
        assert back[left][0] < back[right][0] - 5
        assert front[left][2] == front[right][2] == VISIBLE
    assert front["left_eye"][0] > front["nose"][0] > front["right_eye"][0]
    assert [front[name][2] for name in COCO_KEYPOINTS[:5]] == [VISIBLE] * 5
    assert [back[name][2] for name in COCO_KEYPOINTS[:3]] == [UNLABELLED] * 3
    assert back["left_ear"][2] == back["right_ear"][2] == VISIBLE


def test_profiles_hide_the_far_side() -> None:
    to_the_right = keypoints_of(math.pi / 2)  # the left side is turned away from the camera
    assert to_the_right["nose"][0] > to_the_right["right_ear"][0] + 5
    assert to_the_right["right_ear"][2] == VISIBLE
    assert to_the_right["left_ear"][2] == UNLABELLED
    assert to_the_right["right_shoulder"][2] == VISIBLE
    assert to_the_right["left_shoulder"][2] == 1
    assert to_the_right["left_hip"][2] == 1
    to_the_left = keypoints_of(-math.pi / 2)
    assert to_the_left["nose"][0] < to_the_left["left_ear"][0] - 5
    assert to_the_left["right_shoulder"][2] == 1


def test_an_object_in_front_hides_keypoints_and_reduces_the_mask() -> None:
    person = figure(0.0)
    hip = person.sides[:, poses.HIP].mean(axis=0)
    obstacle = box(np.random.default_rng(0), float(hip[0]), 256.0, 120.0)
    free, hidden = annotate([obstacle, person], 256, 256)[0], annotate([person, obstacle], 256, 256)[0]
    assert hidden["area"] < free["area"]
    v_free, v_hidden = free["keypoints"][2::3], hidden["keypoints"][2::3]
    ankles = [KEYPOINT_INDEX["left_ankle"], KEYPOINT_INDEX["right_ankle"]]
    assert [v_free[i] for i in ankles] == [2, 2]
    assert [v_hidden[i] for i in ankles] == [1, 1]
    assert v_hidden[KEYPOINT_INDEX["nose"]] == 2
    assert hidden["num_keypoints"] == free["num_keypoints"]


def test_keypoints_outside_the_image_are_not_labelled() -> None:
    person = figure(0.0).translated(0.0, 90.0)
    (annotation,) = annotate([person], 256, 256)
    keypoints = np.reshape(annotation["keypoints"], (17, 3))
    assert keypoints[KEYPOINT_INDEX["left_ankle"]].tolist() == [0, 0, 0]
    assert keypoints[KEYPOINT_INDEX["nose"]][2] == VISIBLE
    assert annotation["bbox"][1] + annotation["bbox"][3] <= 256
    assert annotate([person.translated(0.0, 400.0)], 256, 256) == []


def test_a_fully_covered_person_is_not_annotated() -> None:
    person = figure(0.0)
    assert len(annotate([person, person], 256, 256)) == 1


def test_polygons_reproduce_the_mask() -> None:
    part_map = render_part_map([figure(0.4)], 256, 256)
    mask = (part_map > 0).astype(np.uint8)
    back = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(mask_to_polygons(mask, 0, 0), 256, 256)))
    union = np.count_nonzero(mask | back)
    assert np.count_nonzero(mask & back) > 0.95 * union


def test_limb_lengths_do_not_depend_on_the_pose() -> None:
    rng = np.random.default_rng(5)
    for _ in range(50):
        pose, proportions = sample_pose(rng), sample_proportions(rng)
        skeleton = poses.pose_skeleton(pose, proportions)
        thigh = np.linalg.norm(skeleton.sides[:, poses.KNEE] - skeleton.sides[:, poses.HIP], axis=1)
        forearm = np.linalg.norm(skeleton.sides[:, poses.WRIST] - skeleton.sides[:, poses.ELBOW], axis=1)
        np.testing.assert_allclose(thigh, 0.240 * proportions.limbs)
        np.testing.assert_allclose(forearm, 0.150 * proportions.limbs)
        for axes in (skeleton.torso, skeleton.head_axes):
            np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-9)


def test_moving_a_figure_moves_all_of_it() -> None:
    rng = np.random.default_rng(1)
    person = build_figure(sample_pose(rng), sample_body_shape(rng), 100.0)
    translated = person.translated(3.0, 4.0).translated(7.0, -1.0)
    for name in ("points", "keypoints", "sides", "rings", "axes"):
        np.testing.assert_allclose(getattr(translated, name), np.add(getattr(person, name), (10.0, 3.0)))
    np.testing.assert_allclose(translated.landmark("mouth"), np.add(person.landmark("mouth"), (10.0, 3.0)))


def test_people_are_rendered_at_their_annotations() -> None:
    """The outlines of the people have more image edges than the same outlines shifted by 25 px."""
    ratios = []
    for seed in range(8):
        elements = sample_layout(np.random.default_rng(seed), 200, 200)
        scene = render_scene(np.random.default_rng(seed), 200, 200)
        assert scene.image is not None
        part_map = (render_part_map(elements, 200, 200) > 0).astype(np.uint8)
        outlines = cv2.morphologyEx(part_map, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
        edges = cv2.Canny(scene.image, 80, 200) > 0
        if outlines.any():
            shifted = np.roll(outlines, 25, axis=1)
            ratios.append(float(edges[outlines].mean() / max(edges[shifted].mean(), 1e-3)))
    assert np.median(ratios) > 1.5


@pytest.mark.parametrize(("height", "width"), [(40, 500), (500, 40), (33, 33), (1200, 900)])
def test_any_size_can_be_rendered(height: int, width: int) -> None:
    for seed in range(4):
        scene = render_scene(np.random.default_rng(seed), height, width)
        assert scene.image is not None
        assert scene.image.shape == (height, width, 3)
        assert scene.image.dtype == np.uint8


def test_the_longer_side_is_the_size() -> None:
    rng = np.random.default_rng(0)
    assert {max(sample_scene_size(rng, 256)) for _ in range(20)} == {256}


def test_a_complete_dataset_is_not_generated_again(tmp_path: Path) -> None:
    out = tmp_path / "d"
    assert generate(out, train=2, val=1, size=64, seed=0, workers=1)
    before = file_hashes(out)
    assert not generate(out, train=2, val=1, size=64, seed=0, workers=1)
    (out / "train2017" / f"{1:012d}.jpg").unlink()
    assert generate(out, train=2, val=1, size=64, seed=0, workers=1), "a picture was missing"
    assert file_hashes(out) == before
    assert generate(out, train=1, val=1, size=64, seed=0, workers=1), "other arguments"
    assert len(list((out / "train2017").iterdir())) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["d"], "no temporary folder is left"


def test_a_failed_run_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "_JPEG_QUALITY", "best")  # the JPEG encoder refuses this
    with pytest.raises(TypeError):
        generate(tmp_path / "d", train=1, val=0, size=64, seed=0, workers=1)
    assert list(tmp_path.iterdir()) == []


def test_foreign_folders_are_refused(tmp_path: Path) -> None:
    precious = tmp_path / "mine" / "thesis.txt"
    precious.parent.mkdir()
    precious.write_text("years of work")
    with pytest.raises(InputError, match=r"mine: not written by pipeline\.synthetic"):
        generate(precious.parent, train=1, val=1, size=64, seed=0, workers=1)
    with pytest.raises(InputError, match="is a file"):
        generate(precious, train=1, val=1, size=64, seed=0, workers=1)
    assert precious.read_text() == "years of work"


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    assert generate(tmp_path, train=0, val=0, size=64, seed=0, workers=1)
    assert COCO(tmp_path / "annotations" / "person_keypoints_val2017.json").anns == {}


@pytest.mark.parametrize("wrong", [{"train": -1}, {"val": 10**8}, {"size": 8}, {"seed": -1}])
def test_numbers_out_of_range_are_refused(tmp_path: Path, wrong: dict[str, int]) -> None:
    n = {"train": 1, "val": 1, "size": 64, "seed": 0} | wrong
    with pytest.raises(InputError, match=str(next(iter(wrong.values())))):
        generate(tmp_path / "d", train=n["train"], val=n["val"], size=n["size"], seed=n["seed"], workers=1)


def test_command_line(tmp_path: Path) -> None:
    run = CliRunner().invoke
    arguments = ["--out", str(tmp_path / "d"), "--train", "2", "--val", "1", "--size", "64", "--workers", "1"]
    shown = run(main, ["--help"])
    assert shown.exit_code == 0
    assert all(option in shown.output for option in ("--train", "--val", "--size", "--seed", "--no-pictures"))
    assert "2 training and 1 held-out pictures" in run(main, arguments).output
    assert "nothing to do" in run(main, arguments).output
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "file").touch()
    refused = run(main, ["--out", str(tmp_path / "foreign")])
    assert refused.exit_code == 2
    assert refused.output.startswith("Error: ")
    assert "not written by pipeline.synthetic" in refused.output
