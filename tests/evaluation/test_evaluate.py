"""The evaluate command: checkpoint or results, on shards or a COCO folder, to scores, results and pictures."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import cv2
import numpy as np
import psutil
import pytest
import simplejpeg
from click.testing import CliRunner

from evaluation.decoder.person import Person
from evaluation.evaluate import main
from evaluation.inference.predictor import Predictor
from evaluation.oracle import main as oracle_main
from evaluation.report.gallery import CROWDED, choose_images, write_pictures
from evaluation.report.outputs import summarize
from evaluation.scoring.datasets import CocoDataset, Record, ShardDataset, load_image
from evaluation.scoring.detect import detect_people
from evaluation.scoring.evaluation import score_detections
from evaluation.scoring.ground_truth import annotated_keypoints
from evaluation.scoring.metrics import ALL_PICTURES, AP_KEYS, PROTOCOLS, WITH_PEOPLE
from pipeline.annotations.annotated_image import PersonFilter
from pipeline.build.build_set import build
from pipeline.build.plan import BuildOptions
from pipeline.errors import InputError
from tests.support import coco_folder
from tests.support.coco_folder import ROOT
from tests.support.oracle import OracleNetwork, coco_annotations, plain_image, standing_person, two_people
from training.config import Config, EvaluationConfig, ModelConfig

SIZES = [(200, 300), (500, 375), (90, 120), (240, 240)]


def record(image_id, colour, size, keypoints):
    data = simplejpeg.encode_jpeg(plain_image(colour, size), quality=95, colorspace="BGR")
    truth = coco_annotations(keypoints, image_id)
    return Record(image_id, *size, truth, np.frombuffer(data, np.uint8), f"image {image_id}", "replace it")


def evaluate(predictor, records, on_image=lambda: None):
    return score_detections(detect_people(predictor, records, on_image))


@pytest.fixture(scope="module")
def known():
    """Image ids that are not in the order of the canvases; the last image has no people."""
    pictures = {(7 * i) % 11 + 1: (10 + 20 * i, size, two_people(size)) for i, size in enumerate(SIZES)}
    return pictures | {99: (100, (130, 170), np.zeros((0, 18, 3), np.float32))}


def oracle_predictor(known):
    oracle = OracleNetwork({colour: (size, people) for colour, size, people in known.values()}, 256)
    return Predictor(oracle, EvaluationConfig(size=256, batch_size=2))


def test_oracle_network_scores_high(known):
    done = []
    predictor = oracle_predictor(known)
    records = (record(image_id, *one) for image_id, one in known.items())
    evaluation = evaluate(predictor, records, lambda: done.append(1))
    assert evaluation.ap["AP"] > 0.9
    assert evaluation.ap["AR50"] == 1
    assert len(done) == len(known) == len(evaluation.people)
    assert [result["image_id"] for result in evaluation.results] == sorted(2 * [i for i in known if i != 99])
    summary = summarize(evaluation, set="here")
    assert list(summary)[:10] == list(AP_KEYS)
    assert (summary["images"], summary["people"], summary["found"], summary["set"]) == (5, 8, 8, "here")
    assert [one["images"] for one in summary["protocols"].values()] == [5, 4]
    assert set(summary["canvases"]) == {"384x256", "256x384", "256x256"}
    json.dumps(summary, allow_nan=False)


def test_background_false_positive_lowers_ap(known):
    colour, size, people = known[1]
    incomplete = people.copy()
    incomplete[0, 8:14, 2] = 0
    original = known | {1: (colour, size, incomplete)}
    colour, size, _ = known[99]
    modified = original | {99: (colour, size, standing_person(80, 60, 100)[None])}
    before, after = (
        evaluate(oracle_predictor(one), (record(image_id, *known[image_id]) for image_id in known))
        for one in (original, modified)
    )
    assert len(after.results) == len(before.results) + 1
    assert after.ap["AP"] < before.ap["AP"]
    assert after.ap["AR"] == before.ap["AR"]
    assert after.protocols[WITH_PEOPLE] == before.protocols[WITH_PEOPLE]
    assert after.protocols[WITH_PEOPLE].ap["AP"] > after.protocols[ALL_PICTURES].ap["AP"]


def test_duplicate_image_id_is_an_error(known):
    records = [record(1, *known[1]), record(1, *known[1])]
    with pytest.raises(InputError, match="image id 1 occurs twice"):
        evaluate(oracle_predictor(known), records)


def test_damaged_image_is_named():
    no_people = np.zeros((0, 18, 3), np.float32)
    good = record(5, 50, (40, 60), no_people)
    with pytest.raises(InputError, match=r"image 5: .*JPEG.*replace it"):
        load_image(replace(good, data=good.data[: len(good.data) // 2]))
    with pytest.raises(InputError, match="image 5: is 60x40 px, but 40x60 px in the annotations: replace it"):
        load_image(replace(good, height=60, width=40))


def test_chosen_images_are_varied_and_deterministic():
    people = [0] * 50 + [1] * 100 + [2] * 3 + [7] * 40
    chosen = choose_images(people, 24)
    assert chosen == choose_images(people, 24) == sorted(set(chosen))
    assert len(chosen) == 24
    kinds = [min(people[i], CROWDED) for i in chosen]
    assert kinds.count(2) == 3
    assert min(kinds.count(kind) for kind in (0, 1, CROWDED)) >= 4
    assert choose_images([0, 0, 3], 24) == [0, 1, 2]
    assert choose_images([0, 0, 3], 1) == [2]
    assert choose_images([], 5) == choose_images([1], 0) == []


def test_pictures_are_written_and_earlier_ones_removed(tmp_path):
    folder = tmp_path / "new" / "pictures"
    keypoints = standing_person(60, 50, 80)[None]
    truth = {3: (*coco_annotations(keypoints, 3), {"num_keypoints": 0, "keypoints": [0] * 51}), 12: ()}
    images = {3: plain_image(90, (100, 120)), 12: plain_image(200, (80, 60))}
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


def test_annotated_keypoints_leave_out_people_without_keypoints():
    keypoints = two_people((100, 200))
    truth = coco_annotations(keypoints, 1)
    assert np.allclose(annotated_keypoints(truth)[:, 0], keypoints[:, 0])
    assert annotated_keypoints([truth[0] | {"num_keypoints": 0}]).shape == (0, 18, 3)
    assert annotated_keypoints([]).shape == (0, 18, 3)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a run of a small random network, a COCO folder with 9 small images, and its shards."""
    import mindspore as ms

    from training.checkpoint.checkpoint import TrainingPosition, save_checkpoint
    from training.network.openpose import OpenPose

    root = tmp_path_factory.mktemp("evaluate")
    coco = coco_folder.write(root / "coco", coco_folder.mixed(9), "val")
    build([(coco, "val")], root / "shards", BuildOptions(PersonFilter(), keep_empty=True), workers=1)
    config = Config(
        model=ModelConfig(backbone="compact", feature_widths=(8, 8), stages=1, first_width=8, stage_width=8),
        evaluation=EvaluationConfig(
            size=64,
            batch_size=4,
            decoder={"peak_threshold": 0.0, "limb_threshold": 0.0, "min_keypoints": 1, "min_score": 0.0},
        ),
    )
    ms.set_seed(0)
    parameters = OpenPose(config.model).get_parameters()
    save_checkpoint(root / "run", parameters, config, TrainingPosition(2, 9, "", 1), keep=1)
    return root


def call(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)


def network(made):
    return ["--ckpt", made / "run", "--device", "cpu"]


def test_command_writes_all_outputs(made, tmp_path):
    out = tmp_path / "out"
    result = call(*network(made), "--shards", made / "shards", "--out", out, "--num-pictures", 5)
    assert result.exit_code == 0, result.output
    numbers = json.loads((out / "eval.json").read_text())
    assert list(numbers)[:10] == list(AP_KEYS)
    assert all(-1 <= numbers[key] <= 1 for key in AP_KEYS)
    assert (numbers["images"], numbers["set"]) == (9, str(made / "shards"))
    assert tuple(numbers["protocols"]) == PROTOCOLS
    assert numbers["checkpoint"] == str(made / "run" / "checkpoints" / "step-0000002.ckpt")
    assert numbers["canvases"] == ["128x64"]
    assert json.loads((out / "results.json").read_text())
    assert len(list((out / "pictures").glob("found-*.jpg"))) == 5
    assert sorted(path.name for path in out.iterdir()) == ["eval.json", "pictures", "report", "results.json"]
    lines = result.stdout.splitlines()
    assert lines[0] == "Network run by onnxruntime with 1 input shape: 128x64"
    assert lines[1].split() == ["pictures", "people", *AP_KEYS]
    assert tuple(line.split("  ")[0] for line in lines[2:4]) == PROTOCOLS
    assert [line.split(": ")[0] for line in lines[4:]] == [
        f"{out / 'pictures'}/",
        str(out / "report" / "index.html"),
        str(out / "results.json"),
        str(out / "eval.json"),
    ]


def test_command_writes_only_requested_outputs(made, tmp_path):
    checkpoint = next((made / "run" / "checkpoints").glob("*.ckpt"))
    numbers = tmp_path / "deep" / "numbers.json"
    options = ["--limit", 3, "--json", numbers, "--set", "evaluation.size=128", "--scales", "1,0.5", "--flip"]
    result = call("--ckpt", checkpoint, "--shards", made / "shards", *options, "--device", "cpu")
    assert result.exit_code == 0, result.output
    written = json.loads(numbers.read_text())
    assert written["images"] == 3
    assert [written["evaluation"][name] for name in ("size", "scales", "flip")] == [128, [1, 0.5], True]
    assert [path.name for path in tmp_path.rglob("*")] == ["deep", "numbers.json"]


def test_shards_and_coco_folder_give_the_same_results(made, tmp_path):
    call(*network(made), "--shards", made / "shards", "--save-results", tmp_path / "a.json")
    call(*network(made), "--coco", made / "coco", "--split", "val", "--save-results", tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    shards, folder = ShardDataset(made / "shards"), CocoDataset(made / "coco", "val")
    assert (shards.image_ids(), shards.sizes(), shards.ground_truth()) == (
        folder.image_ids(),
        folder.sizes(),
        folder.ground_truth(),
    )
    for one, other in zip(shards.records([4, 1]), folder.records([4, 1]), strict=True):
        assert (one.image_id, one.annotations, one.data.tobytes()) == (
            other.image_id,
            other.annotations,
            other.data.tobytes(),
        )


def test_a_part_of_the_dataset_does_not_overwrite_the_whole_evaluation(made, tmp_path):
    results = tmp_path / "r.json"
    call(*network(made), "--shards", made / "shards", "--save-results", results)
    for options in ([], ["--limit", 2]):
        shards = ["--shards", made / "shards", "--num-pictures", 0]
        assert call("--results", results, *shards, "--out", tmp_path / "out", *options).exit_code == 0
    images = [
        json.loads((tmp_path / "out" / name).read_text())["images"] for name in ("eval.json", "limit-2/eval.json")
    ]
    assert images == [9, 2]


def test_saved_results_have_the_scores_of_the_network(made, tmp_path):
    call(*network(made), "--shards", made / "shards", "--save-results", tmp_path / "r.json", "--json", tmp_path / "1")
    for number, source in enumerate((["--shards", made / "shards"], ["--coco", made / "coco", "--split", "val"])):
        again = call("--results", tmp_path / "r.json", *source, "--out", tmp_path / f"out{number}")
        assert again.exit_code == 0, again.output
        written = json.loads((tmp_path / f"out{number}" / "eval.json").read_text())
        first = json.loads((tmp_path / "1").read_text())
        assert written["results"] == str(tmp_path / "r.json")
        shared = ("protocols", "keypoints", "errors", "found", *AP_KEYS)
        assert {name: written[name] for name in shared} == {name: first[name] for name in shared}
        assert not (tmp_path / f"out{number}" / "results.json").exists()
    assert call("--results", tmp_path / "r.json", "--shards", made / "shards", "--limit", 2).exit_code == 0


def test_scoring_results_needs_neither_mindspore_nor_images(made, tmp_path):
    (tmp_path / "annotations").mkdir()
    name = "annotations/person_keypoints_val.json"
    (tmp_path / name).write_bytes((made / "coco" / name).read_bytes())
    (tmp_path / "r.json").write_text("[]")
    code = """
import sys
sys.modules["mindspore"] = None
from evaluation.evaluate import main
main()
"""
    arguments = ["--results", tmp_path / "r.json", "--coco", tmp_path, "--split", "val", "--out", tmp_path / "out"]
    result = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert f"{tmp_path / 'val'}: no such folder, no pictures written" in result.stdout
    assert "no pictures shown" in (tmp_path / "out" / "report" / "index.html").read_text()


@pytest.fixture(scope="module")
def shapes(made, tmp_path_factory):
    """Noise images of several shapes, so that the batches differ with the number of processes."""
    rng = np.random.default_rng(0)
    folder = coco_folder.write(tmp_path_factory.mktemp("shapes") / "coco", coco_folder.mixed(11), "val")
    path = folder / "annotations" / "person_keypoints_val.json"
    content = json.loads(path.read_text())
    for i, image in enumerate(content["images"]):
        height, width = [(80, 120), (120, 80), (90, 90), (80, 150)][i % 4]
        image |= {"height": height, "width": width}
        data = simplejpeg.encode_jpeg(rng.integers(0, 256, (height, width, 3), dtype=np.uint8), colorspace="BGR")
        (folder / "val" / image["file_name"]).write_bytes(data)
    for annotation in content["annotations"]:
        annotation.pop("segmentation", None)
    path.write_text(json.dumps(content))
    return ["--coco", folder, "--split", "val"]


def test_output_does_not_depend_on_the_number_of_processes(made, shapes, tmp_path):
    for processes in (1, 2, 3):
        files = ["--save-results", tmp_path / f"{processes}.json", "--json", tmp_path / f"n{processes}.json"]
        maps = ["--save-maps", tmp_path / f"maps{processes}"]
        result = call(*network(made), *shapes, "--nproc", processes, *files, *maps)
        assert result.exit_code == 0, result.output
    written = [(tmp_path / f"{processes}.json").read_bytes() for processes in (1, 2, 3)]
    assert written[0] == written[1] == written[2]
    assert len(json.loads(written[0])) > 20
    numbers = [json.loads((tmp_path / f"n{processes}.json").read_text()) for processes in (1, 2, 3)]
    for one in numbers:
        assert one.pop("seconds") > 0
        assert one.pop("images_per_s") > 0
        assert one.pop("save_maps") == str(tmp_path / f"maps{one.pop('processes')}")
    assert numbers[0] == numbers[1] == numbers[2]
    saved = [
        {path.name: path.read_bytes() for path in (tmp_path / f"maps{processes}").iterdir()} for processes in (1, 2, 3)
    ]
    assert len(saved[0]) == 12
    assert saved[0] == saved[1] == saved[2]


def test_saved_maps_are_those_decoded_and_do_not_depend_on_interruptions(made, shapes, tmp_path):
    one, two, numbers = tmp_path / "one", tmp_path / "two", tmp_path / "numbers.json"
    one.mkdir()
    (one / ".index.json.123").write_text("{")  # left by a run that was killed
    assert call(*network(made), *shapes, "--save-maps", one, "--limit", 4).exit_code == 0
    assert len(list(one.glob("*.npz"))) == 4
    before = (one / "index.json").read_bytes()
    resumed = call(*network(made), *shapes, "--save-maps", one, "--save-results", tmp_path / "1.json")
    assert resumed.exit_code == 0, resumed.output
    assert (one / "index.json").read_bytes() == before
    again = call(*network(made), *shapes, "--save-maps", one, "--save-results", tmp_path / "2.json", "--nproc", 2)
    assert f"{one}/: maps of 11 images" in again.output
    call(*network(made), *shapes, "--save-maps", two, "--save-results", tmp_path / "3.json")
    assert len({(tmp_path / f"{i}.json").read_bytes() for i in (1, 2, 3)}) == 1
    files = sorted(path.name for path in one.iterdir() if not path.name.startswith("."))
    assert len(files) == 12
    assert [(one / name).read_bytes() for name in files] == [(two / name).read_bytes() for name in files]
    decoded = [f"--set=evaluation.decoder.{name}=0" for name in ("peak_threshold", "limb_threshold", "min_score")]
    oracle = CliRunner().invoke(
        oracle_main, list(map(str, [*shapes, "--maps", one, "--json", numbers, *decoded])), catch_exceptions=False
    )
    assert oracle.exit_code == 0, oracle.output
    call("--results", tmp_path / "1.json", *shapes, "--json", tmp_path / "scores.json")
    scores = json.loads((tmp_path / "scores.json").read_text())
    compared = json.loads(numbers.read_text())["settings"]["--set"]
    assert [compared[key] for key in AP_KEYS] == [scores[key] for key in AP_KEYS]


def test_a_folder_of_maps_takes_one_network_input_and_dataset(made, tmp_path):
    folder = tmp_path / "maps"
    arguments = [*network(made), "--shards", made / "shards", "--limit", 2, "--save-maps", folder]
    assert call(*arguments).exit_code == 0
    other = coco_folder.write(tmp_path / "coco", coco_folder.mixed(4), "val")
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "000000000001.npz").write_bytes(b"")
    from_other = [*network(made), "--coco", other, "--split", "val", "--save-maps"]
    for refused, message in (
        ([*arguments, "--set", "evaluation.size=128"], "with size 64, not 128; give another folder"),
        ([*arguments, "--flip"], "with flip False, not True; give another folder"),
        ([*from_other, folder], "has other images or annotations"),
        ([*from_other, foreign], "has files but no index.json; give a new folder"),
        (["--results", foreign, "--coco", other, "--save-maps", folder], "--save-maps needs a network"),
    ):
        result = call(*refused)
        assert result.exit_code == 2
        assert message in result.stderr
    (folder / "index.json").write_text("{}")
    assert "index.json: damaged" in call(*arguments).stderr


def test_damaged_image_in_a_worker_is_a_one_line_error(made, tmp_path):
    coco = coco_folder.write(tmp_path / "coco", coco_folder.mixed(4), "val")
    bad = sorted((coco / "val").iterdir())[2]
    bad.write_bytes(bad.read_bytes()[:200])
    result = call(*network(made), "--coco", coco, "--split", "val", "--nproc", 2)
    assert result.exit_code == 2
    assert result.stderr.strip().count("\n") == 0
    assert result.stderr.startswith(f"Error: {bad}: damaged JPEG")
    assert not workers_of(psutil.Process())


def test_killed_worker_ends_the_command_with_one_line(made, shapes):
    arguments = [sys.executable, "-m", "evaluation.evaluate", *network(made), *shapes, "--nproc", "2"]
    command = subprocess.Popen(list(map(str, arguments)), cwd=ROOT, stderr=subprocess.PIPE, text=True)
    workers = wait_for_workers(command.pid, 2)
    workers[0].send_signal(signal.SIGKILL)
    _, stderr = command.communicate(timeout=60)
    assert command.returncode == 1
    assert "was killed by SIGKILL before it was done" in stderr.splitlines()[-1]
    assert "Traceback" not in stderr
    assert not any(alive(worker) for worker in workers)


def test_workers_end_when_their_parent_is_killed(made, shapes):
    arguments = [sys.executable, "-m", "evaluation.evaluate", *network(made), *shapes, "--nproc", "2"]
    command = subprocess.Popen(list(map(str, arguments)), cwd=ROOT, stderr=subprocess.DEVNULL)
    workers = wait_for_workers(command.pid, 2)
    os.kill(command.pid, signal.SIGKILL)
    command.wait()
    _, left = psutil.wait_procs(workers, timeout=30)
    assert not [worker for worker in left if alive(worker)]


def alive(process):
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def workers_of(process):
    return [child for child in process.children() if "spawn_main" in " ".join(child.cmdline())]


def wait_for_workers(pid, number):
    """Return the worker processes when all have started."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        workers = workers_of(psutil.Process(pid))
        if len(workers) == number:
            return workers
        time.sleep(0.02)
    raise AssertionError("the workers did not start")


def test_invalid_arguments_are_one_line_errors(made, tmp_path):
    run, shards = made / "run", made / "shards"
    (tmp_path / "file").write_text("no checkpoint")
    (tmp_path / "empty.json").write_text("[]")
    valid = ["--ckpt", run, "--shards", shards]
    for arguments, message in (
        (["--ckpt", tmp_path / "none", "--shards", shards], "no checkpoint in this folder; train one with: make train"),
        (["--ckpt", tmp_path / "file", "--shards", shards], "damaged or not a MindSpore checkpoint"),
        (["--ckpt", run, "--shards", tmp_path], "run make shards"),
        (["--ckpt", run, "--coco", tmp_path], "person_keypoints_val2017.json: no such file"),
        (["--ckpt", run], "give either --shards DIR or --coco DIR"),
        ([*valid, "--coco", tmp_path], "give either --shards DIR or --coco DIR"),
        (["--shards", shards], "give either --ckpt FILE_OR_RUN or --results FILE"),
        ([*valid, "--results", tmp_path / "empty.json"], "give either --ckpt FILE_OR_RUN or --results FILE"),
        (["--results", tmp_path / "none.json", "--shards", shards], "none.json: no such file"),
        (["--results", tmp_path / "file", "--shards", shards], "file: not JSON"),
        ([*valid, "--set", "model.stages=3"], "only evaluation.… can be set for a trained network"),
        ([*valid, "--set", "evaluation.size=big"], "evaluation.size: 'big'"),
        ([*valid, "--json", tmp_path], "is a folder"),
        ([*valid, "--out", tmp_path / "file"], "cannot be created"),
    ):
        result = call(*arguments, "--device", "cpu")
        assert result.exit_code == 2, (message, result.output)
        assert message in result.output
        assert result.stderr.strip().count("\n") == 0, result.stderr
        assert "Error: " in result.stderr


def test_missing_image_is_named(made, tmp_path):
    coco = coco_folder.write(tmp_path / "coco", coco_folder.mixed(2), "val")
    gone = sorted((coco / "val").iterdir())[0]
    gone.unlink()
    result = call(*network(made), "--coco", coco, "--split", "val")
    assert result.exit_code == 2
    assert f"{gone}: no such file, but {coco / 'annotations'}" in result.stderr
