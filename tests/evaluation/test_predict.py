"""Tests of `evaluation.predict`: its loop with a simulated network, and the command line."""

from __future__ import annotations

import json
import shutil
import signal
import time

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from evaluation.inference.letterbox import PADDING_GREY
from evaluation.inference.predictor import Predictor
from evaluation.media.prediction import PredictionRun, predict_sources
from evaluation.media.sources import find_sources
from evaluation.media.video.reader import VideoReader
from evaluation.media.writers import CocoWriter
from evaluation.predict import OUTPUTS, main
from tests.support import tiny
from tests.support.oracle import OracleNetwork, plain_image, standing_person
from tests.support.videos import write_video
from training.config import EvaluationConfig
from training.recipes import parse_config

SIZE = 128
FRAMES = 23
FRAME = (96, 144)


def frame_colour(i):
    return 4 * i + 4


def walker(i):
    """Return one person who walks to the right, and no people in every fifth frame."""
    people = standing_person(40 + 3 * i, 48, 70)[None]
    return people if i % 5 != 4 else people[:0]


def prediction_run(out, known, outputs=OUTPUTS, coco=None, should_stop=lambda: False):
    predictor = Predictor(OracleNetwork(known, SIZE), EvaluationConfig(size=SIZE, batch_size=4))
    return PredictionRun(predictor, out, frozenset(outputs), coco, should_stop)


def run(folder, known, *arguments, should_stop=lambda: False):
    out = folder / "out"
    with CocoWriter(out) as coco:
        prediction = prediction_run(out, known, coco=coco, should_stop=should_stop)
        predict_sources(prediction, find_sources([str(folder / argument) for argument in arguments], out))
    return prediction


def read_coco_files(out):
    """Return the images of images.json by id, and the keypoints (P, 17, 3) of results.json by image id."""
    images = {image["id"]: image for image in json.loads((out / "images.json").read_text())["images"]}
    people = {image_id: [] for image_id in images}
    for result in json.loads((out / "results.json").read_text()):
        people[result["image_id"]].append(np.reshape(result["keypoints"], (17, 3)))
    return images, people


def read_openpose(path):
    """Return the keypoints (P, 18, 3) of a file in OpenPose's JSON format."""
    people = json.loads(path.read_text())["people"]
    return np.reshape([person["pose_keypoints_2d"] for person in people], (-1, 18, 3))


def drawn_pixels(image, base):
    """Return the (y, x) of the pixels that differ from the background colour."""
    return np.argwhere(np.abs(image.astype(int) - base).max(axis=2) > 60)


@pytest.fixture
def film():
    return {frame_colour(i): (FRAME, walker(i)) for i in range(FRAMES)}


def test_outputs_of_a_video_are_complete_and_in_order(tmp_path, film):
    write_video(tmp_path / "walk.avi", [plain_image(frame_colour(i), FRAME) for i in range(FRAMES)], codec="MJPG")
    prediction = run(tmp_path, film, "walk.avi")
    out = tmp_path / "out"
    assert (prediction.written, prediction.skipped.messages) == (FRAMES, [])
    files = sorted(path.name for path in (out / "openpose").iterdir())
    assert files == [f"walk_{i:012d}_keypoints.json" for i in range(FRAMES)]
    images, people = read_coco_files(out)
    for i in range(FRAMES):
        found = read_openpose(out / "openpose" / files[i])
        assert len(found) == len(walker(i)) == len(people[i + 1])
        assert np.abs(found[..., :2] - walker(i)[..., :2]).max(initial=0) < 1
        assert images[i + 1] == {
            "id": i + 1,
            "width": FRAME[1],
            "height": FRAME[0],
            "file_name": str(tmp_path / "walk.avi"),
            "frame": i,
        }
    reader = VideoReader(out / "overlays" / "walk.mp4")
    assert reader.fps == 12.5
    frames = list(reader)
    assert len(frames) == FRAMES
    for i, frame in enumerate(frames):
        assert frame.shape == (*FRAME, 3)
        seen = drawn_pixels(frame, frame_colour(i))
        assert (len(seen) > 0) == (len(walker(i)) > 0)
        if len(seen):
            assert abs(seen[:, 1].mean() - walker(i)[0, :, 0].mean()) < 3


def test_camera_is_processed_like_a_video(tmp_path, film, monkeypatch):
    write_video(tmp_path / "film.avi", [plain_image(frame_colour(i), FRAME) for i in range(6)], codec="MJPG")
    open_file = cv2.VideoCapture
    monkeypatch.setattr(
        cv2, "VideoCapture", lambda number: open_file(str(tmp_path / "film.avi")) if number == 3 else None
    )
    out = tmp_path / "out"
    with CocoWriter(out) as coco:
        predict_sources(prediction_run(out, film, coco=coco), find_sources(["3"], out))
    assert len(list((out / "openpose").glob("camera3_00000000000?_keypoints.json"))) == 6
    assert (out / "overlays" / "camera3.mp4").exists()
    assert read_coco_files(out)[0][1]["file_name"] == "camera 3"


def test_missing_camera_is_skipped(tmp_path):
    prediction = prediction_run(tmp_path / "out", {})
    predict_sources(prediction, find_sources(["9999"], tmp_path))
    assert prediction.skipped.messages == ["Skipped camera 9999: no such camera"]


def test_outputs_of_images_of_many_sizes_have_the_right_names(tmp_path):
    known = {}
    for i, (name, size) in enumerate(
        [("a/x.png", (90, 120)), ("b/x.png", (120, 90)), ("b/000000000099.jpg", (200, 300)), ("c.jpg", (64, 64))]
    ):
        known[20 + 20 * i] = (size, standing_person(0.5 * size[1], 0.5 * size[0], 0.8 * size[0])[None])
        (tmp_path / name).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / name), plain_image(20 + 20 * i, size))
    prediction = run(tmp_path, known, "a", "b", "c.jpg")
    out = tmp_path / "out"
    assert prediction.skipped.messages == []
    assert sorted(path.name for path in (out / "overlays").iterdir()) == [
        "000000000099.jpg",
        "c.jpg",
        "x-2.png",
        "x.png",
    ]
    images, people = read_coco_files(out)
    assert {image["file_name"]: image_id for image_id, image in images.items()} == {
        str(tmp_path / "b/000000000099.jpg"): 99,
        str(tmp_path / "a/x.png"): 100,
        str(tmp_path / "b/x.png"): 101,
        str(tmp_path / "c.jpg"): 102,
    }
    for name, image_id, key in (("x", 100, 20), ("x-2", 101, 40), ("000000000099", 99, 60), ("c", 102, 80)):
        size, true = known[key]
        assert np.abs(read_openpose(out / "openpose" / f"{name}_keypoints.json") - true)[..., :2].max() < 1
        assert len(people[image_id]) == 1
        assert (images[image_id]["height"], images[image_id]["width"]) == size
        overlay = next((out / "overlays").glob(f"{name}.*"))
        assert len(drawn_pixels(cv2.imread(str(overlay)), key)) > 100


def test_unreadable_sources_are_skipped_with_one_message_each(tmp_path, capfd):
    (tmp_path / "text\n.jpg").write_text("not a picture")
    cv2.imwrite(str(tmp_path / "good.jpg"), plain_image(50, (64, 64)))
    whole = cv2.imencode(".jpg", np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))[1].tobytes()
    (tmp_path / "cut.jpg").write_bytes(whole[:100])
    (tmp_path / "text.mp4").write_text("not a video")
    (tmp_path / "notes.txt").write_text("not for us")
    write_video(tmp_path / "cut.avi", [plain_image(90, FRAME) for _ in range(30)], codec="MJPG")
    data = (tmp_path / "cut.avi").read_bytes()
    (tmp_path / "cut.avi").write_bytes(data[: len(data) // 2])
    known = {50: ((64, 64), standing_person(32, 32, 50)[None]), 90: (FRAME, walker(0))}
    names = ["good.jpg", "text\n.jpg", "cut.jpg", "text.mp4", "cut.avi", "notes.txt"]
    prediction = run(tmp_path, known, *names)
    lines = capfd.readouterr().err.splitlines()
    skipped = [line for line in lines if line.startswith("Skipped ")]
    assert len(skipped) == len(prediction.skipped.messages) == 5
    for name, message in (
        (r"text\n.jpg", "not an image: expected JPEG"),
        ("cut.jpg", "damaged JPEG"),
        ("text.mp4", "not a video that OpenCV can read"),
        ("cut.avi", "of 30 frames"),
        ("notes.txt", "not an image or video"),
    ):
        prefix = f"Skipped {tmp_path / name}: "
        assert any(line.startswith(prefix) and message in line for line in skipped), (name, lines)
    overlays = sorted(path.name for path in (tmp_path / "out" / "overlays").iterdir())
    assert overlays == ["cut.mp4", "good.jpg"]
    assert 0 < len(list(VideoReader(tmp_path / "out" / "overlays" / "cut.mp4"))) < 30


def test_image_that_is_deleted_during_the_run_is_skipped(tmp_path):
    class DeletingOracle(OracleNetwork):
        def __call__(self, images):
            (tmp_path / "x.jpg").unlink()
            return super().__call__(images)

    cv2.imwrite(str(tmp_path / "x.jpg"), plain_image(50, (64, 64)))
    prediction = prediction_run(tmp_path / "out", {}, ["overlay"])
    prediction.predictor.network = DeletingOracle({50: ((64, 64), standing_person(32, 32, 50)[None])}, SIZE)
    predict_sources(prediction, find_sources([str(tmp_path / "x.jpg")], tmp_path / "out"))
    assert prediction.skipped.messages == [
        f"Skipped {tmp_path / 'x.jpg'}: has changed: cannot be read: No such file or directory"
    ]


def test_only_the_selected_outputs_are_written(tmp_path, film):
    write_video(tmp_path / "walk.avi", [plain_image(frame_colour(i), FRAME) for i in range(6)], codec="MJPG")
    cv2.imwrite(str(tmp_path / "x.png"), plain_image(frame_colour(0), FRAME))
    for output in ("overlay", "openpose"):
        out = tmp_path / output
        predict_sources(prediction_run(out, film, [output]), find_sources([str(tmp_path)], tmp_path))
        written = {path.suffix for path in out.rglob("*") if path.is_file()}
        assert written == ({".png", ".mp4"} if output == "overlay" else {".json"})


def test_frames_already_read_are_processed_after_a_stop(tmp_path, film):
    write_video(tmp_path / "walk.avi", [plain_image(frame_colour(i % FRAMES), FRAME) for i in range(400)], codec="MJPG")
    write_video(tmp_path / "next.avi", [plain_image(frame_colour(0), FRAME)], codec="MJPG")
    openpose_files = tmp_path / "out" / "openpose"
    prediction = run(
        tmp_path,
        film,
        "walk.avi",
        "next.avi",
        should_stop=lambda: openpose_files.is_dir() and any(openpose_files.iterdir()),
    )
    assert 4 <= prediction.written < 100
    assert len(list(VideoReader(tmp_path / "out" / "overlays" / "walk.mp4"))) == prediction.written
    assert len(read_coco_files(tmp_path / "out")[0]) == prediction.written == len(list(openpose_files.iterdir()))
    assert prediction.skipped.messages == []


def test_few_frames_of_a_long_video_are_prefetched(tmp_path):
    """Frames are read at most a few batches ahead of the writer, so memory is bounded."""
    write_video(tmp_path / "long.avi", [plain_image(50, (64, 64)) for _ in range(300)], codec="MJPG")
    prediction = prediction_run(tmp_path / "out", {50: ((64, 64), standing_person(32, 32, 50)[None][:0])}, ["openpose"])
    read, max_ahead = 0, 0

    def should_stop():
        nonlocal read, max_ahead
        read += 1
        max_ahead = max(max_ahead, read - prediction.written)
        return False

    prediction.should_stop = should_stop
    predict_sources(prediction, find_sources([str(tmp_path)], tmp_path / "out"))
    assert prediction.written == 300
    assert max_ahead < 60


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    """Export a small network with random weights to an ONNX graph."""
    import mindspore as ms

    from training.checkpoint.checkpoint import TrainingPosition, load_checkpoint, save_checkpoint
    from training.graphs.export_graph import InputShape, export_checkpoint
    from training.network.openpose import OpenPose

    ms.set_seed(5)
    run = tmp_path_factory.mktemp("run")
    recipe = parse_config({**tiny.RECIPE, "evaluation": {"size": 64, "batch_size": 2}}, source="tiny")
    path = save_checkpoint(run, OpenPose(recipe.model).get_parameters(), recipe, TrainingPosition(9, 1, "", 1), keep=1)
    out = run / "tiny.onnx"
    export_checkpoint(load_checkpoint(path), out, "onnx", InputShape(2, 64, 64), recipe.evaluation, all_stages=False)
    return out


def call(*arguments):
    with tiny.restore_signal_mask():
        return CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)


def test_command_prints_the_outputs(tmp_path, graph):
    cv2.imwrite(str(tmp_path / "x.png"), plain_image(PADDING_GREY, (64, 64)))
    out = tmp_path / "out"
    result = call(tmp_path, "--ckpt", graph, "--out", out)
    assert (result.exit_code, result.stderr) == (0, "")
    assert [line.split(": ")[0] for line in result.stdout.splitlines()] == [
        f"{out}/overlays/",
        f"{out}/openpose/",
        f"{out}/results.json",
    ]
    assert sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()) == [
        "images.json",
        "openpose/x_keypoints.json",
        "outputs.json",
        "overlays/x.png",
        "results.json",
    ]
    before = (out / "openpose" / "x_keypoints.json").stat().st_mtime_ns
    again = call(tmp_path, "--ckpt", graph, "--out", out, "--write", "overlay")
    assert again.stdout == f"{out}/overlays/: images and videos with skeletons\n"
    assert (out / "openpose" / "x_keypoints.json").stat().st_mtime_ns == before


def test_outputs_of_an_earlier_run_are_replaced_and_other_files_kept(tmp_path, graph):
    photos, out = tmp_path / "photos", tmp_path / "out"
    (photos / "a").mkdir(parents=True)
    for name in ("a/x.png", "y.jpg"):
        cv2.imwrite(str(photos / name), plain_image(PADDING_GREY, (64, 64)))
    write_video(photos / "walk.avi", [plain_image(9, (64, 64))] * 3, codec="MJPG")
    write_video(photos / "walk_b.avi", [plain_image(9, (64, 64))] * 2, codec="MJPG")
    assert call(photos, "--ckpt", graph, "--out", out).exit_code == 0
    mine = [out / "overlays" / "mine.png", out / "openpose" / "walk_b_notes.json"]
    for path in mine:
        path.write_text("of the user")
    (photos / "y.jpg").unlink()
    (photos / "walk.avi").unlink()
    again = call(photos, "--ckpt", graph, "--out", out, "--write", "overlay,openpose")
    assert again.stderr == f"{out}: outputs of an earlier run are replaced\n"
    assert sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()) == [
        "images.json",
        "openpose/a/x_keypoints.json",
        "openpose/walk_b_000000000000_keypoints.json",
        "openpose/walk_b_000000000001_keypoints.json",
        "openpose/walk_b_notes.json",
        "outputs.json",
        "overlays/a/x.png",
        "overlays/mine.png",
        "overlays/walk_b.mp4",
        "results.json",
    ]
    result = call(out / "overlays" / "a" / "x.png", "--ckpt", graph, "--out", out)
    assert result.exit_code == 2
    assert "is an output of an earlier run" in result.stderr
    assert (out / "overlays" / "a" / "x.png").exists()


def test_a_list_of_outputs_never_removes_files_elsewhere(tmp_path, graph):
    cv2.imwrite(str(tmp_path / "x.png"), plain_image(PADDING_GREY, (64, 64)))
    (tmp_path / "out").mkdir()
    (tmp_path / "precious.txt").touch()
    (tmp_path / "out" / "outputs.json").write_text(
        '{"overlay": ["../precious.txt", 3], "coco": 5, "openpose": ["a/../.."]}'
    )
    assert call(tmp_path / "x.png", "--ckpt", graph, "--out", tmp_path / "out").exit_code == 0
    assert (tmp_path / "precious.txt").exists()


def test_the_network_of_the_demo_is_said_to_know_drawn_people_only(tmp_path, graph):
    cv2.imwrite(str(tmp_path / "x.png"), plain_image(PADDING_GREY, (64, 64)))
    for path in graph.parent.glob("tiny.onnx*"):
        shutil.copy(path, tmp_path)
    for folder, expected in (("shards/demo/train", True), ("/home/me/shards/coco/train", False)):
        (tmp_path / "run.json").write_text(json.dumps({"shards": {"folder": folder}}))
        result = call(
            tmp_path / "x.png", "--ckpt", tmp_path / "tiny.onnx", "--out", tmp_path / folder.replace("/", "-")
        )
        assert result.exit_code == 0
        assert ("drawn people of make demo only" in result.stderr) == expected


def test_ten_people_in_a_panorama_are_found_with_a_larger_aspect(tmp_path):
    size = (96, 960)
    people = np.stack([standing_person(48 + 96 * i, 50, 76) for i in range(10)])
    cv2.imwrite(str(tmp_path / "wide.png"), plain_image(60, size))
    found = []
    for max_aspect in (2.0, 10.0):
        oracle = OracleNetwork({60: (size, people)}, SIZE, max_aspect=max_aspect)
        config = EvaluationConfig(size=SIZE, batch_size=1, max_aspect=max_aspect)
        out = tmp_path / f"out{max_aspect}"
        with CocoWriter(out) as coco:
            prediction = PredictionRun(Predictor(oracle, config), out, frozenset(OUTPUTS), coco, lambda: False)
            predict_sources(prediction, find_sources([str(tmp_path / "wide.png")], out))
        found.append(sum(len(one) for one in read_coco_files(out)[1].values()))
        advice = list(prediction.advice())
        assert [("960x96 px" in line, "evaluation.max_aspect=10" in line) for line in advice] == (
            [(True, True)] if max_aspect == 2 else []
        )
    assert found[1] == 10


def test_coco_files_have_the_order_of_the_names(tmp_path):
    known = {}
    for i in range(12):
        size = [(64, 64), (64, 128), (128, 64)][i % 3]
        known[20 * i + 10] = (size, standing_person(32, 32, 50)[None])
        cv2.imwrite(str(tmp_path / f"{i:02d}.png"), plain_image(20 * i + 10, size))
    (tmp_path / "05.png").write_text("damaged")
    run(tmp_path, known, ".")
    images = json.loads((tmp_path / "out" / "images.json").read_text())["images"]
    names = [image["file_name"] for image in images]
    assert names == sorted(names)
    assert len(names) == 11
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [result["image_id"] for result in results] == [image["id"] for image in images]


def test_command_counts_skipped_sources(tmp_path, graph):
    (tmp_path / "x.jpg").write_text("text")
    (tmp_path / "y.jpg").write_text("text")
    result = call(tmp_path, "--ckpt", graph, "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert sorted(result.stderr.splitlines()) == [
        "2 skipped",
        f"Skipped {tmp_path / 'x.jpg'}: not an image: expected JPEG, PNG, WebP, BMP or TIFF",
        f"Skipped {tmp_path / 'y.jpg'}: not an image: expected JPEG, PNG, WebP, BMP or TIFF",
    ]


def test_image_with_a_missing_end_is_used_with_a_warning(tmp_path, graph):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    whole = cv2.imencode(".jpg", noise)[1].tobytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    result = call(tmp_path, "--ckpt", graph, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    (warning,) = result.stderr.splitlines()
    assert warning.startswith(f"Warning: {tmp_path / 'cut.jpg'}: damaged JPEG: ")
    assert warning.endswith("; the rest of it is used")
    assert (tmp_path / "out" / "overlays" / "cut.jpg").is_file()


def test_scales_and_flip_override_the_recipe(tmp_path, graph):
    cv2.imwrite(str(tmp_path / "x.png"), plain_image(PADDING_GREY, (64, 64)))
    result = call(tmp_path, "--ckpt", graph, "--out", tmp_path / "out", "--scales", "0.5,1", "--flip")
    assert result.exit_code == 2
    assert "evaluation.scales=[0.5, 1.0]" in result.stderr
    assert call(tmp_path, "--ckpt", graph, "--out", tmp_path / "out", "--scales", "1", "--no-flip").exit_code == 0


def test_people_with_few_keypoints_are_left_out_by_default(tmp_path, graph):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "x.png"), noise)

    def keypoints_found(*options):
        keep_all = [f"--set=evaluation.decoder.{name}=0" for name in ("peak_threshold", "min_score")]
        out = tmp_path / "out"
        call(tmp_path / "x.png", "--ckpt", graph, "--out", out, "--write", "openpose", *keep_all, *options)
        people = json.loads((out / "openpose" / "x_keypoints.json").read_text())["people"]
        return sorted(np.count_nonzero(person["pose_keypoints_2d"][2::3]) for person in people)

    all_counts = keypoints_found("--min-keypoints", 1)
    assert min(all_counts) < 3
    assert keypoints_found() == [number for number in all_counts if number >= 3]
    assert keypoints_found("--set", "evaluation.decoder.min_keypoints=1") == all_counts


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("none.jpg", "--out", "out"), "none.jpg: no such file or folder"),
        (("empty", "--out", "out"), "empty: no image or video found"),
        (("x.png", "--out", "x.png"), "--out x.png: is a file"),
        (("x.png", "--out", "x.png/deep"), "cannot be written"),
        (("x.png", "--out", "out", "--write", "pdf"), "'pdf': expected one or more of overlay,openpose,coco"),
        (("x.png", "--out", "out", "--scales", "1;2"), "'1;2': expected numbers separated by commas"),
        (("x.png", "--out", "out", "--scales", "99"), "different factors from 0.1 to 4.0"),
        (("x.png", "--out", "out", "--set", "model.stages=3"), "only evaluation.… can be set"),
    ],
)
def test_invalid_arguments_give_one_line_and_write_nothing(arguments, message, tmp_path, graph, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    cv2.imwrite(str(tmp_path / "x.png"), plain_image(PADDING_GREY, (64, 64)))
    result = call(*arguments, "--ckpt", graph)
    assert result.exit_code == 2, result.output
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert message in line
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["empty", "x.png"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_finishes_the_files(number, tmp_path, graph):
    write_video(tmp_path / "long.avi", [plain_image(i % 200, (64, 64)) for i in range(6000)], codec="MJPG")
    out = tmp_path / "out"
    command = [str(tmp_path / "long.avi"), "--ckpt", str(graph), "--out", str(out)]
    process = tiny.start([tiny.sys.executable, "-m", "evaluation.predict", *command])
    deadline = time.monotonic() + 60
    while not (out / "openpose").is_dir() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + number, stderr
    assert "Stopping; images and frames already read are still processed" in stderr
    frames = list(VideoReader(out / "overlays" / "long.mp4"))
    assert 0 < len(frames) < 6000
    assert len(read_coco_files(out)[0]) == len(frames) == len(list((out / "openpose").iterdir()))
    assert f"{out}/openpose/: {len(frames)} files" in stdout
    assert not list(out.rglob(".*"))
