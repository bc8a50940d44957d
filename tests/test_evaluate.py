"""From a checkpoint and shards to numbers, results and pictures."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import simplejpeg
from click.testing import CliRunner

from evaluation.evaluate import evaluate, load_picture, main, summarise
from evaluation.gallery import MANY, choose, true_keypoints, write_pictures
from evaluation.metrics import AP_KEYS
from evaluation.person import Person
from evaluation.predictor import Predictor
from pipeline.coco import Rules
from pipeline.errors import InputError
from pipeline.plan import Options
from pipeline.sample import Annotation
from pipeline.shards import build
from pipeline.skeleton import to_coco
from tests import coco_folder
from tests.oracle import Oracle, figure, picture
from training.config import Config, EvaluationConfig, ModelConfig

EMPTY = {"size": [0, 0], "counts": b""}
SIZES = [(200, 300), (500, 375), (90, 120), (240, 240)]


def truth_of(keypoints, image_id):
    """One COCO annotation for each of (P, 18, 3)."""
    annotations = []
    for i, person in enumerate(keypoints):
        low, high = person[:, :2].min(axis=0), person[:, :2].max(axis=0)
        annotations.append(
            {
                "id": 10 * image_id + i,
                "image_id": image_id,
                "category_id": 1,
                "iscrowd": 0,
                "num_keypoints": 17,
                "area": float(0.6 * np.prod(high - low)),
                "bbox": [*low.tolist(), *(high - low).tolist()],
                "keypoints": to_coco(person).reshape(-1).tolist(),
            }
        )
    return tuple(annotations)


def record(image_id, colour, size, keypoints):
    data = simplejpeg.encode_jpeg(picture(colour, size), quality=95, colorspace="BGR")
    annotation = Annotation(image_id, f"{image_id}.jpg", *size, keypoints, EMPTY, truth=truth_of(keypoints, image_id))
    return annotation, np.frombuffer(data, np.uint8)


def two_people(size):
    height, width = size
    return np.stack([figure(0.3 * width, 0.5 * height, 0.8 * height), figure(0.7 * width, 0.55 * height, 0.6 * height)])


@pytest.fixture(scope="module")
def known():
    """Image ids that are not in the order of the canvases; the last picture has nobody."""
    pictures = {(7 * i) % 11 + 1: (10 + 20 * i, size, two_people(size)) for i, size in enumerate(SIZES)}
    return pictures | {99: (100, (130, 170), np.zeros((0, 18, 3), np.float32))}


def oracle_predictor(known):
    oracle = Oracle({colour: (size, people) for colour, size, people in known.values()}, 256)
    return Predictor(oracle, EvaluationConfig(size=256, batch_size=2))


def test_a_network_that_knows_the_answer_scores_nearly_everything(known):
    done = []
    predictor = oracle_predictor(known)
    records = (record(image_id, *one) for image_id, one in known.items())
    evaluation = evaluate(predictor, records, lambda: done.append(1))
    assert evaluation.ap["AP"] > 0.9
    assert evaluation.ap["AR50"] == 1
    assert len(done) == len(known) == len(evaluation.people)
    assert [result["image_id"] for result in evaluation.results] == sorted(2 * [i for i in known if i != 99])
    summary = summarise(evaluation, predictor, shards="here")
    assert list(summary)[:10] == list(AP_KEYS)
    assert (summary["images"], summary["people"], summary["found"], summary["shards"]) == (5, 8, 8, "here")
    assert set(summary["canvases"]) == {"384x256", "256x384", "256x256"}
    json.dumps(summary, allow_nan=False)


def test_people_found_where_nobody_is_cost(known):
    colour, size, people = known[1]
    unsure = people.copy()
    unsure[0, 8:14, 2] = 0
    shy = known | {1: (colour, size, unsure)}
    colour, size, _ = known[99]
    liar = shy | {99: (colour, size, figure(80, 60, 100)[None])}
    honest, lied = (
        evaluate(oracle_predictor(one), (record(image_id, *known[image_id]) for image_id in known))
        for one in (shy, liar)
    )
    assert len(lied.results) == len(honest.results) + 1
    assert lied.ap["AP"] < honest.ap["AP"]
    assert lied.ap["AR"] == honest.ap["AR"]


def test_an_image_id_that_comes_twice_is_an_error(known):
    records = [record(1, *known[1]), record(1, *known[1])]
    with pytest.raises(InputError, match="image id 1 comes twice"):
        evaluate(oracle_predictor(known), records)


def test_a_bad_picture_is_an_error_that_names_it(known):
    annotation, data = record(5, 50, (40, 60), np.zeros((0, 18, 3), np.float32))
    with pytest.raises(InputError, match=r"image 5: .*JPEG.*make shards"):
        load_picture((annotation, data[: len(data) // 2]))
    other, _ = record(6, 50, (60, 40), np.zeros((0, 18, 3), np.float32))
    with pytest.raises(InputError, match="image 6: has 60x40 px, its annotation says 40x60"):
        load_picture((other, data))


def test_chosen_pictures_are_varied_and_always_the_same():
    people = [0] * 50 + [1] * 100 + [2] * 3 + [7] * 40
    chosen = choose(people, 24)
    assert chosen == choose(people, 24) == sorted(set(chosen))
    assert len(chosen) == 24
    kinds = [min(people[i], MANY) for i in chosen]
    assert kinds.count(2) == 3
    assert min(kinds.count(kind) for kind in (0, 1, MANY)) >= 4
    assert choose([0, 0, 3], 24) == [0, 1, 2]
    assert choose([0, 0, 3], 1) == [2]
    assert choose([], 5) == choose([1], 0) == []


def test_pictures_are_written_whole_and_earlier_ones_removed(tmp_path):
    folder = tmp_path / "new" / "pictures"
    keypoints = figure(60, 50, 80)[None]
    truth = {3: (*truth_of(keypoints, 3), {"num_keypoints": 0, "keypoints": [0] * 51}), 12: ()}
    images = {3: picture(90, (100, 120)), 12: picture(200, (80, 60))}
    folder.mkdir(parents=True)
    (folder / "found-000000000777.jpg").write_bytes(b"old")
    (folder / "000000000777.jpg").write_bytes(b"mine")
    written = write_pictures(folder, images, truth, {3: [Person(keypoints[0], 1.0)], 12: []})
    assert sorted(path.name for path in folder.iterdir()) == [
        "000000000777.jpg",
        "found-000000000003.jpg",
        "found-000000000012.jpg",
    ]
    drawn = cv2.imread(str(written[0]))
    assert drawn.shape == (100, 2 * 120 + 6, 3)
    assert (np.abs(drawn[:, :120].astype(int) - 90) > 40).any()
    assert np.abs(drawn[:, :120].astype(int) - drawn[:, -120:]).mean() < 3
    assert np.ptp(cv2.imread(str(written[1]))[:, :56]) < 3


def test_true_keypoints_leave_out_people_without_any():
    keypoints = two_people((100, 200))
    truth = truth_of(keypoints, 1)
    assert np.allclose(true_keypoints(truth)[:, 0], keypoints[:, 0])
    assert true_keypoints([truth[0] | {"num_keypoints": 0}]).shape == (0, 18, 3)
    assert true_keypoints([]).shape == (0, 18, 3)


@pytest.fixture(scope="module")
def run_and_shards(tmp_path_factory):
    """A run folder with a small random network, and a set of 9 small pictures, some without people."""
    import mindspore as ms

    from training.checkpoint import Position, save_checkpoint
    from training.network import OpenPose

    root = tmp_path_factory.mktemp("evaluate")
    coco = coco_folder.write(root / "coco", coco_folder.mixed(9), "val")
    build([(coco, "val")], root / "shards", Options(Rules(), keep_empty=True), workers=1)
    config = Config(
        model=ModelConfig(backbone="compact", feature_widths=(8, 8), stages=1, first_width=8, stage_width=8),
        evaluation=EvaluationConfig(size=64, batch_size=4),
    )
    ms.set_seed(0)
    parameters = OpenPose(config.model).get_parameters()
    save_checkpoint(root / "run", parameters, config, Position(2, 9, "", 1), keep=1)
    return root / "run", root / "shards"


def call(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)


def test_the_command_writes_numbers_results_and_pictures(run_and_shards, tmp_path):
    run, shards = run_and_shards
    out = tmp_path / "out"
    result = call("--ckpt", run, "--shards", shards, "--out", out, "--num-pictures", 5, "--device", "cpu")
    assert result.exit_code == 0, result.output
    numbers = json.loads((out / "eval.json").read_text())
    assert list(numbers)[:10] == list(AP_KEYS)
    assert all(-1 <= numbers[key] <= 1 for key in AP_KEYS)
    assert (numbers["images"], numbers["keep_empty"]) == (9, True)
    assert numbers["checkpoint"] == str(run / "checkpoints" / "step-0000002.ckpt")
    assert numbers["canvases"] == ["128x64"]
    assert isinstance(json.loads((out / "results.json").read_text()), list)
    assert len(list((out / "pictures").glob("found-*.jpg"))) == 5
    assert sorted(path.name for path in out.iterdir()) == ["eval.json", "pictures", "results.json"]
    lines = result.stdout.splitlines()
    assert lines[0].split() == list(AP_KEYS)
    assert [line.split(": ")[0] for line in lines[2:]] == [
        f"{out / 'pictures'}/",
        str(out / "results.json"),
        str(out / "eval.json"),
    ]


def test_the_command_writes_only_what_it_is_asked_for(run_and_shards, tmp_path):
    run, shards = run_and_shards
    checkpoint = next((run / "checkpoints").iterdir())
    numbers = tmp_path / "deep" / "numbers.json"
    options = ["--limit", 3, "--json", numbers, "--set", "evaluation.size=128", "--device", "cpu"]
    result = call("--ckpt", checkpoint, "--shards", shards, *options)
    assert result.exit_code == 0, result.output
    assert json.loads(numbers.read_text())["images"] == 3
    assert json.loads(numbers.read_text())["evaluation"]["size"] == 128
    assert [path.name for path in tmp_path.rglob("*")] == ["deep", "numbers.json"]


def test_mistakes_are_one_line_that_says_what_to_do(run_and_shards, tmp_path):
    run, shards = run_and_shards
    (tmp_path / "file").write_text("no checkpoint")
    for ckpt, folder, more, said in (
        (tmp_path / "none", shards, [], f"{tmp_path / 'none'}: no checkpoint here; make one with: make train"),
        (tmp_path / "file", shards, [], "damaged or not a MindSpore checkpoint"),
        (run, tmp_path, [], "run make shards"),
        (run, shards, ["--set", "model.stages=3"], "takes evaluation"),
        (run, shards, ["--set", "evaluation.size=big"], "evaluation.size: 'big'"),
        (run, shards, ["--json", tmp_path], "is a folder"),
        (run, shards, ["--out", tmp_path / "file"], "cannot be made"),
    ):
        result = call("--ckpt", ckpt, "--shards", folder, "--device", "cpu", *more)
        assert result.exit_code == 2, (said, result.output)
        assert said in result.output
        assert result.stderr.strip().count("\n") == 0, result.stderr
        assert "Error: " in result.stderr
