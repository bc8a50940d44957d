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
    """A COCO folder of 23 small pictures of many sizes: people, crowds and nobody."""
    return coco_folder.write(tmp_path_factory.mktemp("coco"), coco_folder.mixed(RECORDS))


@pytest.fixture(scope="module")
def shards(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sets") / "train"
    build([(source, "train")], out, BuildOptions(keep_empty=True, records_per_shard=9), workers=1)
    assert len(Manifest.load(out).shards) > 1
    return out


def make(shards: Path, **changes):
    options = {
        "size": SIZE,
        "batch_size": 4,
        "max_people": 3,
        "seed": 5,
        "epoch": 2,
        "augment": AugmentConfig.for_size(64),
    }
    return create_batches(shards, **{**options, **changes})


def assert_equal(ours: dict, theirs: dict) -> None:
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        np.testing.assert_array_equal(array, theirs[name], err_msg=name)


def ids(batches) -> list[int]:
    return [int(image_id) for batch in batches for image_id in batch["image_id"]]


def test_shapes_and_types(shards: Path):
    batches = make(shards, targets=TargetConfig())
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
        assert not batch["keypoints"][:, 1:].any()  # nobody has company in these pictures
    assert count == len(batches)


def test_a_square_from_one_number_and_no_targets_unless_asked(shards: Path):
    batch = next(iter(make(shards, size=72)))
    assert batch["image"].shape == (4, 72, 72, 3)
    assert set(batch) == {"image_id", "image", "keypoints", "mask"}


def test_the_same_batches_for_any_number_of_threads(shards: Path):
    one, two, four = (list(make(shards, threads=threads, targets=TargetConfig())) for threads in (1, 2, 4))
    for batches in (two, four):
        for ours, theirs in zip(one, batches, strict=True):
            assert_equal(ours, theirs)


def test_iterating_again_gives_the_same_again(shards: Path):
    batches = make(shards)
    for ours, theirs in zip(batches, batches, strict=True):
        assert_equal(ours, theirs)


def test_seed_and_epoch_change_order_and_augmentation(shards: Path):
    base = list(make(shards))
    for change in ({"seed": 6}, {"epoch": 3}):
        other = list(make(shards, **change))
        assert ids(other) != ids(base)
        pictures = {
            int(i): picture for batch in base for i, picture in zip(batch["image_id"], batch["image"], strict=True)
        }
        same = [
            np.array_equal(picture, pictures[int(i)])
            for batch in other
            for i, picture in zip(batch["image_id"], batch["image"], strict=True)
            if int(i) in pictures
        ]
        assert len(same) > 10
        assert not any(same)


def test_the_chance_of_a_sample_is_its_own():
    keys = list(itertools.product((0, 1, 2**31 - 1), (0, 1, 70_000), (0, 1, 2**40, -1)))
    draws = {key: tuple(sample_rng(*key).random(3)) for key in keys}
    assert len(set(draws.values())) == len(keys)
    assert draws[1, 0, 1] == tuple(sample_rng(1, 0, 1).random(3))


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_interleaved_are_the_epoch(shards: Path, ranks: int):
    whole = make(shards, batch_size=2 * ranks)
    parts = [make(shards, batch_size=2, rank=rank, world_size=ranks) for rank in range(ranks)]
    assert {len(part) for part in parts} == {len(whole)}
    for batch, *shares in zip(whole, *parts, strict=True):
        for rank, share in enumerate(shares):
            assert_equal({name: array[rank::ranks] for name, array in batch.items()}, share)


def test_two_ranks_are_disjoint_and_together_the_epoch(shards: Path):
    first, second = (ids(make(shards, batch_size=2, rank=rank, world_size=2)) for rank in range(2))
    assert not set(first) & set(second)
    assert len(set(first) | set(second)) == RECORDS // 4 * 4
    assert set(ids(make(shards, batch_size=1))) == set(range(100, 100 + RECORDS))


@pytest.mark.parametrize("start", [0, 2, 5, 9])
def test_start_resumes_exactly(shards: Path, start: int):
    whole = list(make(shards))
    rest = make(shards, start=start)
    assert len(rest) == max(0, len(whole) - start)
    for ours, theirs in zip(rest, whole[start:], strict=True):
        assert_equal(ours, theirs)
    assert len(make(shards, start=start, stop=len(whole) - 1)) == max(0, len(whole) - 1 - start)


def test_without_augmentation_the_whole_picture_is_fitted(shards: Path):
    manifest = Manifest.load(shards)
    rows = {int(row["image_id"]): row for row in read_rows(shards, manifest, TRAIN_COLUMNS, range(RECORDS))}
    for batch in make(shards, augment=None, targets=TargetConfig()):
        for place, image_id in enumerate(batch["image_id"].tolist()):
            sample = unpack_sample(rows[image_id])
            fitted = augment_sample(sample, fit_whole_image(sample.image.shape[:2], SIZE), SIZE)
            np.testing.assert_array_equal(batch["image"][place], fitted.image)
            people = len(fitted.keypoints)
            np.testing.assert_array_equal(batch["keypoints"][place, :people], fitted.keypoints)
            assert not batch["keypoints"][place, people:].any()
            maps = encode_maps(fitted.keypoints, SIZE, TargetConfig())
            np.testing.assert_array_equal(batch["heatmaps"][place], maps.heatmaps)
            np.testing.assert_array_equal(batch["pafs"][place], maps.pafs)
            assert batch["mask"][place].all() == (not sample.ignore.any())


def test_real_pictures(coco_mini: Path, tmp_path: Path):
    build([(coco_mini, "train2017")], tmp_path / "set", BuildOptions(), workers=1)
    manifest = Manifest.load(tmp_path / "set")
    batches = make(tmp_path / "set", size=184, max_people=manifest.max_people)
    seen = ids(batches)
    assert len(set(seen)) == manifest.records // 4 * 4
    batch = next(iter(batches))
    assert (batch["keypoints"][..., 2] > 0).any()
    assert batch["image"].std() > 20


def test_max_people_must_hold_everybody(shards: Path):
    with pytest.raises(InputError, match="max_people is 0, but an image has 1 people"):
        make(shards, max_people=0)


def test_too_few_records(shards: Path):
    with pytest.raises(InputError, match=r"23 records, but a step takes 24: batch size 8 on 3 ranks"):
        make(shards, batch_size=8, world_size=3)


@pytest.mark.parametrize("size", [100, (64, 60), 0])
def test_sizes_off_the_grid(shards: Path, size):
    with pytest.raises(InputError, match="multiples of 8 px"):
        make(shards, size=size)


def test_a_missing_set(tmp_path: Path):
    with pytest.raises(InputError, match="make shards"):
        make(tmp_path)


@pytest.fixture
def damaged(shards: Path, tmp_path: Path) -> Path:
    """A copy of the set in which one byte run of one picture, within its shard file, was overwritten."""
    copy = tmp_path / "train"
    shutil.copytree(shards, copy)
    picture = coco_folder.jpeg(48 + 12 % 5, 64 + 12 % 7, 112)  # of image 112
    for file in Manifest.load(copy).files(copy):
        content = file.read_bytes()
        at = content.find(picture)
        if at >= 0:
            file.chmod(0o600)
            file.write_bytes(content[:at] + bytes(len(picture)) + content[at + len(picture) :])
            return copy
    raise AssertionError("image 112 is in no shard")


@pytest.mark.parametrize("threads", [1, 3])
def test_a_bad_picture_is_named(damaged: Path, threads: int):
    before = threading.active_count()
    with pytest.raises(InputError, match=r"train/shard-\d+\.mindrecord: image 112: .*make shards") as caught:
        list(make(damaged, batch_size=1, threads=threads))
    assert "\n" not in str(caught.value)
    assert threading.active_count() == before


def test_a_dropped_iterator_leaves_no_thread(shards: Path):
    before = threading.active_count()
    iterator = iter(make(shards, threads=3))
    next(iterator)
    assert threading.active_count() > before
    del iterator
    gc.collect()
    assert threading.active_count() == before


@pytest.mark.parametrize("ranks", [1, 2, 3, 30])
def test_rows_dealt_to_ranks_are_every_record_once(shards: Path, source: Path, ranks: int):
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
