"""Tests of the predictor, with a simulated network that outputs exact maps and with a small real one."""

from __future__ import annotations

import numpy as np
import pytest

from evaluation.decoder.decode import DecodeConfig
from evaluation.inference.letterbox import apply_letterbox, choose_letterbox
from evaluation.inference.predictor import Predictor, decode_people
from pipeline.errors import InputError
from pipeline.maps import NUM_HEATMAPS, NUM_PAFS, Maps
from tests.support.oracle import OracleNetwork, plain_image, standing_person
from training.config import Config, DecoderConfig, EvaluationConfig, ModelConfig
from training.recipes import override_config

SIZES = [(200, 300), (300, 200), (90, 120), (600, 900), (200, 310), (150, 600), (64, 64)]

TINY = Config(
    model=ModelConfig(backbone="compact", feature_widths=(8, 8), stages=1, first_width=8, stage_width=8),
    evaluation=EvaluationConfig(size=64, batch_size=2),
)


def known_images(sizes):
    """Return colour -> (size, people): one person at a different position in each image, none in every fifth."""
    known = {}
    for i, (height, width) in enumerate(sizes):
        people = standing_person((0.35 + 0.04 * i) * width, 0.5 * height, 0.8 * height)[None]
        known[10 + 12 * i] = ((height, width), people if i % 5 != 4 else people[:0])
    return known


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_people_are_found_in_the_right_image_at_the_right_position(batch_size):
    known = known_images(SIZES)
    predictor = Predictor(OracleNetwork(known, 192), EvaluationConfig(size=192, batch_size=batch_size))
    found = predictor.predict_people([plain_image(colour, size) for colour, (size, _) in known.items()])
    assert len(found) == len(known)
    for people, (size, true) in zip(found, known.values(), strict=True):
        assert len(people) == len(true)
        for person, keypoints in zip(people, true, strict=True):
            error = np.abs(person.keypoints[:, :2] - keypoints[:, :2])[person.found]
            assert error.max() * choose_letterbox(size, 192).scale.max() < 1.5


def test_batches_have_one_canvas_size_and_are_filled_up():
    known = known_images(SIZES)
    oracle = OracleNetwork(known, 192)
    predictor = Predictor(oracle, EvaluationConfig(size=192, batch_size=4))
    predictor.predict_people([plain_image(colour, size) for colour, (size, _) in known.items()] * 3)
    assert {shape[0] for shape in oracle.batches} == {4}
    assert {shape[1:3] for shape in oracle.batches} == predictor.canvases
    per_canvas = {}
    for size in SIZES:
        canvas = choose_letterbox(size, 192).canvas
        per_canvas[canvas] = per_canvas.get(canvas, 0) + 3
    assert len(oracle.batches) == sum(-(-count // 4) for count in per_canvas.values())


def test_maps_cover_the_image_and_keep_the_order():
    known = known_images(SIZES)
    predictor = Predictor(OracleNetwork(known, 192), EvaluationConfig(size=192, batch_size=2))
    maps = predictor.predict_maps([plain_image(colour, size) for colour, (size, _) in known.items()])
    for one, (size, true) in zip(maps, known.values(), strict=True):
        assert one.grid == tuple(-(-side // 8) for side in choose_letterbox(size, 192).scaled_size)
        assert (one.heatmaps[:-1].max() > 0.8) == (len(true) > 0)


def test_no_images_give_no_people():
    predictor = Predictor(OracleNetwork({}, 192), EvaluationConfig())
    assert predictor.predict_people([]) == []
    assert predictor.predict_maps([]) == []


def test_stream_prefetches_few_images():
    known = {50: ((64, 64), np.zeros((0, 18, 3), np.float32))}
    predictor = Predictor(OracleNetwork(known, 64), EvaluationConfig(size=64, batch_size=2))
    read = 0

    def items():
        nonlocal read
        for i in range(200):
            read += 1
            yield i

    stream = predictor.predict_stream(items(), lambda _: plain_image(50, (64, 64)))
    done = 0
    for _ in stream:
        done += 1
        assert read - done <= 5 * 2 + 2
    assert done == 200


def test_items_without_an_image_are_skipped():
    predictor = Predictor(
        OracleNetwork({50: ((64, 64), standing_person(32, 32, 50)[None])}, 64), EvaluationConfig(size=64)
    )
    found = list(predictor.predict_stream(range(9), lambda item: None if item % 3 else plain_image(50, (64, 64))))
    assert [(item, len(people)) for item, people in found] == [(0, 1), (3, 1), (6, 1)]


def test_errors_of_loading_are_passed_on():
    predictor = Predictor(OracleNetwork({}, 64), EvaluationConfig(size=64))

    def load(item):
        raise InputError(f"image {item}: damaged")

    with pytest.raises(InputError, match="image 3: damaged"):
        list(predictor.predict_stream([3], load))


def test_nonfinite_output_is_an_input_error():
    heatmaps = np.zeros((NUM_HEATMAPS, 8, 8), np.float32)
    heatmaps[0, 2, 2] = np.nan
    maps = Maps(heatmaps, np.zeros((NUM_PAFS, 8, 8), np.float32))
    with pytest.raises(InputError, match=r"earlier checkpoint.*1 of"):
        decode_people(maps, choose_letterbox((64, 64), 64), DecodeConfig())


def test_decoder_settings_come_from_the_recipe():
    config = EvaluationConfig(size=192, decoder=DecoderConfig(min_keypoints=18))
    people = standing_person(100, 100, 160)[None]
    people[0, 4, 2] = 0
    known = {50: ((200, 200), people)}
    assert Predictor(OracleNetwork(known, 192), config).predict_people([plain_image(50, (200, 200))]) == [[]]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A run folder with random weights."""
    import mindspore as ms

    from training.checkpoint.checkpoint import TrainingPosition, save_checkpoint
    from training.network.openpose import OpenPose

    ms.set_seed(3)
    run = tmp_path_factory.mktemp("run")
    network = OpenPose(TINY.model)
    save_checkpoint(run, network.get_parameters(), TINY, TrainingPosition(7, 1, "", 1), keep=1)
    return run


def test_batched_and_single_inference_agree(checkpoint):
    from training.checkpoint.checkpoint import load_checkpoint
    from training.network.openpose import OpenPose

    predictor = Predictor.load(str(checkpoint), "cpu")
    assert predictor.config == TINY.evaluation
    rng = np.random.default_rng(0)
    sizes = [(64, 80), (70, 64), (128, 150), (64, 64), (100, 90)]
    images = [rng.integers(0, 256, (*size, 3), np.uint8) for size in sizes]
    batched = predictor.predict_maps(images)
    single = [predictor.predict_maps([image])[0] for image in images]
    for one, other in zip(batched, single, strict=True):
        assert np.abs(one.heatmaps - other.heatmaps).max() < 1e-5
        assert np.abs(one.pafs - other.pafs).max() < 1e-5
    assert np.abs(batched[0].heatmaps[:, :8, :8] - batched[3].heatmaps).max() > 1e-3

    import mindspore as ms

    network = OpenPose(TINY.model)
    network.set_train(False)
    ms.load_param_into_net(network, load_checkpoint(predictor.source).tensors)
    letterbox = choose_letterbox((64, 80), 64)
    pafs, heatmaps = network(ms.Tensor(np.stack([apply_letterbox(images[0], letterbox)] * 2)))
    assert np.abs(heatmaps[-1].asnumpy()[0, :, :8, :10] - batched[0].heatmaps).max() < 1e-5
    assert np.abs(pafs[-1].asnumpy()[0, :, :8, :10] - batched[0].pafs).max() < 1e-5


def test_overrides_change_only_the_evaluation_section(checkpoint):
    predictor = Predictor.load(checkpoint, "cpu", ["evaluation.size=96", "evaluation.decoder.smooth=0.5"])
    assert (predictor.config.size, predictor.config.batch_size, predictor.decode_config.smooth) == (96, 2, 0.5)
    assert predictor.source == checkpoint / "checkpoints" / "step-0000007.ckpt"
    for override, message in (
        ("model.stages=2", "evaluation"),
        ("evaluation.size=1", "evaluation.size: 1"),
        ("evaluation.sizes=64", "did you mean size"),
        ("evaluation.decoder.smoth=1", "did you mean smooth"),
        ("evaluation", "--set"),
    ):
        with pytest.raises(InputError, match=message):
            Predictor.load(checkpoint, "cpu", [override])


def test_recipe_and_decoder_have_the_same_fields():
    """The recipe's section repeats the decoder's fields, because training may not import evaluation."""
    from dataclasses import fields

    from evaluation.decoder.decode import RANGES

    section = DecoderConfig.model_fields
    assert list(section) == [field.name for field in fields(DecodeConfig)]
    for field in fields(DecodeConfig):
        limits = {type(limit).__name__: limit for limit in section[field.name].metadata}
        assert (limits["Ge"].ge, limits["Le"].le) == RANGES[field.name], field.name
        assert section[field.name].default == field.default, field.name


def test_overriding_a_recipe_leaves_the_rest():
    changed = override_config(TINY, ["evaluation.size=128", "training.lr=2e-4"])
    assert changed.evaluation.size == 128
    assert changed.training.lr == 2e-4
    assert changed.model == TINY.model
    assert override_config(TINY, []) == TINY
