from __future__ import annotations

import gc
import itertools
import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

from pipeline.build.build_set import build
from pipeline.build.plan import BuildOptions
from pipeline.errors import InputError
from pipeline.loading.augment import AugmentConfig, fit_whole_image
from pipeline.loading.batches import create_batches
from pipeline.loading.collate import sample_rng, unpack_sample
from pipeline.loading.targets import TargetConfig, encode_maps
from pipeline.loading.warp import augment_sample
from pipeline.skeleton import COCO_KEYPOINTS, to_coco
from pipeline.storage.manifest import Manifest
from pipeline.storage.mindrecord_reader import read_rows
from pipeline.storage.records import EVAL_COLUMNS, TRAIN_COLUMNS, unpack
from tests.support import coco_folder

RECORDS = 23
SIZE = (64, 80)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A COCO folder of 23 small images of many sizes: with people, with crowds and without either."""
    return coco_folder.write(tmp_path_factory.mktemp("coco"), coco_folder.mixed(RECORDS))


@pytest.fixture(scope="module")
def shards(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sets") / "train"
    build([(source, "train")], out, BuildOptions(keep_empty=True, records_per_shard=9), workers=1)
    assert len(Manifest.load(out).shards) > 1
    return out


def make_batches(shards: Path, **changes):
    options = {
        "size": SIZE,
        "batch_size": 4,
        "max_people": 3,
        "seed": 5,
        "epoch": 2,
        "augment": AugmentConfig.for_size(64),
    }
    return create_batches(shards, **{**options, **changes})


def assert_equal(actual: dict, expected: dict) -> None:
    assert actual.keys() == expected.keys()
    for name, array in actual.items():
        np.testing.assert_array_equal(array, expected[name], err_msg=name)


def image_ids(batches) -> list[int]:
    return [int(image_id) for batch in batches for image_id in batch["image_id"]]


def test_shapes_and_types(shards: Path):
    batches = make_batches(shards, targets=TargetConfig())
    assert len(batches) == RECORDS // 4
    count = 0
    for batch in batches:
        count += 1
        found = {name: (array.shape, array.dtype.name) for name, array in batch.items()}
        assert found == {
            "image_id": ((4,), "int64"),
            "image": ((4, 64, 80, 3), "uint8"),
            "keypoints": ((4, 3, 18, 3), "float32"),
            "mask": ((4, 8, 10), "uint8"),
            "heatmaps": ((4, 19, 8, 10), "float32"),
            "pafs": ((4, 38, 8, 10), "float32"),
        }
        assert not batch["keypoints"][:, 1:].any()  # these images have at most one person
    assert count == len(batches)


def test_one_number_gives_a_square_and_targets_are_optional(shards: Path):
    batch = next(iter(make_batches(shards, size=72)))
    assert batch["image"].shape == (4, 72, 72, 3)
    assert set(batch) == {"image_id", "image", "keypoints", "mask"}


def test_the_same_batches_for_any_number_of_threads(shards: Path):
    one, two, four = (list(make_batches(shards, threads=threads, targets=TargetConfig())) for threads in (1, 2, 4))
    for batches in (two, four):
        for actual, expected in zip(one, batches, strict=True):
            assert_equal(actual, expected)


def test_iterating_twice_gives_the_same_batches(shards: Path):
    batches = make_batches(shards)
    for actual, expected in zip(batches, batches, strict=True):
        assert_equal(actual, expected)


def test_seed_and_epoch_change_order_and_augmentation(shards: Path):
    base = list(make_batches(shards))
    for change in ({"seed": 6}, {"epoch": 3}):
        other = list(make_batches(shards, **change))
        assert image_ids(other) != image_ids(base)
        images = {int(i): image for batch in base for i, image in zip(batch["image_id"], batch["image"], strict=True)}
        same = [
            np.array_equal(image, images[int(i)])
            for batch in other
            for i, image in zip(batch["image_id"], batch["image"], strict=True)
            if int(i) in images
        ]
        assert len(same) > 10
        assert not any(same)


def test_each_sample_has_its_own_random_numbers():
    keys = list(itertools.product((0, 1, 2**31 - 1), (0, 1, 70_000), (0, 1, 2**40, -1)))
    numbers = {key: tuple(sample_rng(*key).random(3)) for key in keys}
    assert len(set(numbers.values())) == len(keys)
    assert numbers[1, 0, 1] == tuple(sample_rng(1, 0, 1).random(3))


@pytest.mark.parametrize("ranks", [2, 3])
def test_interleaved_ranks_give_the_global_batches(shards: Path, ranks: int):
    whole = make_batches(shards, batch_size=2 * ranks)
    rank_batches = [make_batches(shards, batch_size=2, rank=rank, world_size=ranks) for rank in range(ranks)]
    assert {len(batches) for batches in rank_batches} == {len(whole)}
    for batch, *parts in zip(whole, *rank_batches, strict=True):
        for rank, part in enumerate(parts):
            assert_equal({name: array[rank::ranks] for name, array in batch.items()}, part)


def test_two_ranks_are_disjoint_and_cover_the_epoch(shards: Path):
    first, second = (image_ids(make_batches(shards, batch_size=2, rank=rank, world_size=2)) for rank in range(2))
    assert not set(first) & set(second)
    assert len(set(first) | set(second)) == RECORDS // 4 * 4
    assert set(image_ids(make_batches(shards, batch_size=1))) == set(range(100, 100 + RECORDS))


@pytest.mark.parametrize("start", [0, 2, 5, 9])
def test_start_resumes_within_the_epoch(shards: Path, start: int):
    whole = list(make_batches(shards))
    rest = make_batches(shards, start=start)
    assert len(rest) == max(0, len(whole) - start)
    for actual, expected in zip(rest, whole[start:], strict=True):
        assert_equal(actual, expected)
    assert len(make_batches(shards, start=start, stop=len(whole) - 1)) == max(0, len(whole) - 1 - start)


def test_without_augmentation_the_whole_image_is_fitted(shards: Path):
    manifest = Manifest.load(shards)
    rows = {int(row["image_id"]): row for row in read_rows(shards, manifest, TRAIN_COLUMNS, range(RECORDS))}
    for batch in make_batches(shards, augment=None, targets=TargetConfig()):
        for index, image_id in enumerate(batch["image_id"].tolist()):
            sample = unpack_sample(rows[image_id])
            fitted = augment_sample(sample, fit_whole_image(sample.image.shape[:2], SIZE), SIZE)
            np.testing.assert_array_equal(batch["image"][index], fitted.image)
            people = len(fitted.keypoints)
            np.testing.assert_array_equal(batch["keypoints"][index, :people], fitted.keypoints)
            assert not batch["keypoints"][index, people:].any()
            maps = encode_maps(fitted.keypoints, SIZE, TargetConfig())
            np.testing.assert_array_equal(batch["heatmaps"][index], maps.heatmaps)
            np.testing.assert_array_equal(batch["pafs"][index], maps.pafs)
            assert batch["mask"][index].all() == (not sample.ignore.any())


def test_real_images(coco_mini: Path, tmp_path: Path):
    build([(coco_mini, "train2017")], tmp_path / "set", BuildOptions(), workers=1)
    manifest = Manifest.load(tmp_path / "set")
    batches = make_batches(tmp_path / "set", size=184, max_people=manifest.max_people)
    assert len(set(image_ids(batches))) == manifest.records // 4 * 4
    batch = next(iter(batches))
    assert (batch["keypoints"][..., 2] > 0).any()
    assert batch["image"].std() > 20


def test_max_people_below_the_number_of_people_is_an_error(shards: Path):
    with pytest.raises(InputError, match="max_people is 0, but an image has 1 people"):
        make_batches(shards, max_people=0)


def test_too_few_records_for_a_step_are_an_error(shards: Path):
    with pytest.raises(InputError, match=r"23 records, but a step takes 24: batch size 8 on 3 ranks"):
        make_batches(shards, batch_size=8, world_size=3)


@pytest.mark.parametrize("size", [100, (64, 60), 0])
def test_a_size_that_is_not_a_multiple_of_the_stride_is_an_error(shards: Path, size):
    with pytest.raises(InputError, match="multiples of 8 px"):
        make_batches(shards, size=size)


def test_a_missing_set_is_an_error(tmp_path: Path):
    with pytest.raises(InputError, match="make shards"):
        make_batches(tmp_path)


@pytest.fixture
def damaged(shards: Path, tmp_path: Path) -> Path:
    """A copy of the set in which the bytes of one image are overwritten inside of its shard file."""
    copy = tmp_path / "train"
    shutil.copytree(shards, copy)
    jpeg = coco_folder.jpeg(48 + 12 % 5, 64 + 12 % 7, 112)  # of image 112
    for file in Manifest.load(copy).files(copy):
        content = file.read_bytes()
        at = content.find(jpeg)
        if at >= 0:
            file.chmod(0o600)
            file.write_bytes(content[:at] + bytes(len(jpeg)) + content[at + len(jpeg) :])
            return copy
    raise AssertionError("image 112 is in no shard")


@pytest.mark.parametrize("threads", [1, 3])
def test_the_error_names_the_damaged_image(damaged: Path, threads: int):
    before = threading.active_count()
    with pytest.raises(InputError, match=r"train/shard-\d+\.mindrecord: image 112: .*make shards") as caught:
        list(make_batches(damaged, batch_size=1, threads=threads))
    assert "\n" not in str(caught.value)
    assert threading.active_count() == before


def test_a_dropped_iterator_leaves_no_thread(shards: Path):
    before = threading.active_count()
    iterator = iter(make_batches(shards, threads=3))
    next(iterator)
    assert threading.active_count() > before
    del iterator
    gc.collect()
    assert threading.active_count() == before


@pytest.mark.parametrize("ranks", [1, 2, 3, 30])
def test_the_rows_of_all_ranks_are_every_record_once(shards: Path, source: Path, ranks: int):
    content = json.loads((source / "annotations" / "person_keypoints_train.json").read_text())
    manifest = Manifest.load(shards)
    shares = [range(rank, RECORDS, ranks) for rank in range(ranks)]
    parts = [[unpack(row) for row in read_rows(shards, manifest, EVAL_COLUMNS, share)] for share in shares]
    found = {annotation.image_id: (annotation, jpeg) for part in parts for annotation, jpeg in part}
    assert sum(map(len, parts)) == len(found) == RECORDS
    for image in content["images"]:
        annotation, jpeg = found[image["id"]]
        assert (annotation.file_name, annotation.height, annotation.width) == tuple(
            image[name] for name in ("file_name", "height", "width")
        )
        assert jpeg.tobytes() == (source / "train" / image["file_name"]).read_bytes()
        people = [each for each in content["annotations"] if each["image_id"] == image["id"]]
        assert len(annotation.truth) == len(people)
        trainable = [each for each in people if each["num_keypoints"] >= 5 and each["area"] > 1024]
        expected = np.array([each["keypoints"] for each in trainable], np.float32).reshape(-1, len(COCO_KEYPOINTS), 3)
        np.testing.assert_array_equal(to_coco(annotation.keypoints), expected)
