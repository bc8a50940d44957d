"""Evaluation during training: same scores for any number of processes, and errors raised in every process."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from numpy.typing import NDArray

from evaluation import during_training as during
from evaluation.during_training import CocoEvaluator, evenly_spaced_indices
from evaluation.inference.predictor import Predictor
from evaluation.scoring.datasets import ShardDataset
from evaluation.scoring.detect import detect_people
from evaluation.scoring.evaluation import score_detections
from evaluation.scoring.metrics import AP_KEYS
from pipeline.build.build_set import build
from pipeline.build.plan import BuildOptions
from pipeline.errors import InputError
from tests.support import coco_folder, tiny
from tests.support.oracle import OracleNetwork, coco_annotations, plain_image, standing_person, two_people
from training.distributed.file_barrier import FileBarrier
from training.distributed.world import World
from training.recipes import override_config

SIZES = [(200, 300), (300, 200), (180, 240), (240, 240), (200, 310)]
NUM_IMAGES = 14


def people_of(index, size):
    """Return two people, or none for every seventh image."""
    return two_people(size) if index % 7 else np.zeros((0, 18, 3), np.float32)


@pytest.fixture(scope="module")
def known():
    """Colour, size and people by image id."""
    sizes = [SIZES[i % len(SIZES)] for i in range(NUM_IMAGES)]
    return {100 + 7 * i: (5 + 8 * i, size, people_of(i, size)) for i, size in enumerate(sizes)}


@pytest.fixture(scope="module")
def val(known, tmp_path_factory):
    """The images as shards."""
    folder = tmp_path_factory.mktemp("val")
    images = [coco_folder.image(image_id, *size) for image_id, (_, size, _) in known.items()]
    annotations = [one for image_id, (_, _, people) in known.items() for one in coco_annotations(people, image_id)]
    content = {"images": images, "annotations": annotations, "categories": [coco_folder.CATEGORY]}
    coco_folder.write(folder / "coco", content, "val", pictures=False)
    for entry in images:
        colour, size, _ = known[entry["id"]]
        data = simplejpeg.encode_jpeg(plain_image(colour, size), quality=95, colorspace="BGR")
        (folder / "coco" / "val" / entry["file_name"]).write_bytes(data)
    build([(folder / "coco", "val")], folder / "shards", BuildOptions(keep_empty=True), workers=1)
    return folder / "shards"


@pytest.fixture
def oracle(known):
    """A network that outputs the exact targets, except for one image, where the person is in the wrong place."""
    outputs = {colour: (size, people) for colour, size, people in known.values()}
    colour, size, _ = known[107]
    outputs[colour] = (size, standing_person(0.5 * size[1], 0.5 * size[0], 0.5 * size[0])[None])
    return OracleNetwork(outputs, 256)


def recipe(*overrides):
    settings = ("training.eval_every=10", "evaluation.size=256", "evaluation.batch_size=3", "evaluation.scales=[1, 2]")
    return override_config(tiny.recipe(), [*settings, "evaluation.flip=true", *overrides])


def never():
    return False


def ignore(done, total):
    pass


@dataclass(frozen=True)
class Threads(World):
    """Processes simulated by threads; a barrier simulates the collective operations."""

    exchanged: dict[int, NDArray[np.int64]] = field(default_factory=dict)
    barrier: threading.Barrier = field(default_factory=lambda: threading.Barrier(1))

    def all_gather(self, values):
        self.exchanged[self.rank] = values
        self.barrier.wait(60)
        together = np.concatenate([self.exchanged[rank] for rank in range(self.size)])
        self.barrier.wait(60)
        return together


def together(evaluator, network, size, folder, stopped=never):
    """Return the score or the error of each of `size` processes."""
    exchanged, barrier, outcomes = {}, threading.Barrier(size), {}

    def run(rank):
        try:
            files = FileBarrier(folder, Threads("CPU", rank, size, exchanged=exchanged, barrier=barrier))
            outcomes[rank] = evaluator(network, files, stopped, ignore)
        except InputError as error:
            outcomes[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(folder.glob(".*")) == []
    return [outcomes[rank] for rank in range(size)]


ALONE = FileBarrier(Path("nowhere"), World("CPU"))


def test_scores_equal_an_evaluation_at_one_scale(val, oracle):
    score = CocoEvaluator(recipe(), val)(oracle, ALONE, never, ignore)
    dataset = ShardDataset(val)
    config = recipe("evaluation.scales=[1]", "evaluation.flip=false").evaluation
    detections = detect_people(Predictor(oracle, config), dataset.records(range(len(dataset))))
    assert score.metrics == score_detections(detections).ap
    assert list(score.metrics) == list(AP_KEYS)
    assert 0.7 < score.ap < 0.99
    assert score.is_defined
    assert score.image_count == NUM_IMAGES
    assert score.seconds > 0


@pytest.mark.parametrize("size", [2, 3, 20])
def test_scores_do_not_depend_on_the_number_of_processes(val, oracle, size, tmp_path):
    evaluator = CocoEvaluator(recipe(), val)
    alone = evaluator(oracle, ALONE, never, ignore)
    scores = together(evaluator, oracle, size, tmp_path)
    assert all(score.metrics == alone.metrics for score in scores)
    assert {score.image_count for score in scores} == {NUM_IMAGES}
    assert [score.map_figure is not None for score in scores] == [rank == 0 for rank in range(size)]


def test_two_canvases_for_images_of_all_shapes(val, oracle):
    CocoEvaluator(recipe(), val)(oracle, ALONE, never, ignore)
    assert {shape[:3] for shape in oracle.batches} == {(3, 256, 448), (3, 384, 256)}


def test_evenly_spaced_subset(val, oracle):
    progress = []
    evaluator = CocoEvaluator(recipe("training.eval_pictures=4"), val)
    score = evaluator(oracle, ALONE, never, lambda *now: progress.append(now))
    assert score.image_count == 4
    assert progress == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert evaluator.indices == [1, 5, 8, 12]
    assert evenly_spaced_indices(5000, 500)[:3] == [5, 15, 25]
    assert evenly_spaced_indices(3, 10) == evenly_spaced_indices(3, None) == [0, 1, 2]
    assert evenly_spaced_indices(7, 1) == [3]


def test_basis_depends_on_images_and_inference_settings(val):
    basis = CocoEvaluator(recipe(), val).basis
    assert CocoEvaluator(recipe("training.lr=1e-4", "evaluation.flip=false"), val).basis == basis
    assert CocoEvaluator(recipe("training.eval_pictures=4"), val).basis != basis
    assert CocoEvaluator(recipe("evaluation.decoder.smooth=1"), val).basis != basis


def test_stop_request_ends_the_evaluation_in_every_process(val, oracle, tmp_path):
    evaluator = CocoEvaluator(recipe(), val)
    assert evaluator(oracle, ALONE, lambda: True, ignore) is None
    callers = []

    def stop_first_process():
        callers.append(threading.current_thread())
        return threading.current_thread() is callers[0] and len(callers) > 3

    assert together(evaluator, oracle, 2, tmp_path, stop_first_process) == [None, None]


def test_non_finite_output_is_raised_in_every_process(val, oracle, tmp_path):
    def broken(images):
        pafs, heatmaps = oracle(images)
        return pafs, heatmaps if images.shape[1] > images.shape[2] else heatmaps * np.float32(np.nan)

    errors = together(CocoEvaluator(recipe(), val), broken, 2, tmp_path)
    assert all(isinstance(error, InputError) and "the network's output is not finite" in str(error) for error in errors)


def test_score_is_undefined_without_people(val, oracle, known, monkeypatch):
    monkeypatch.setattr(during, "evenly_spaced_indices", lambda total, number: [0])
    score = CocoEvaluator(recipe(), val)(oracle, ALONE, never, ignore)
    assert not score.is_defined
    assert score.map_figure is None


def test_invalid_dataset_is_an_error(tmp_path, tiny_shards):
    with pytest.raises(InputError, match=r"nowhere.*make shards"):
        CocoEvaluator(recipe(), tmp_path / "nowhere")
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(InputError, match=r"manifest\.json"):
        CocoEvaluator(recipe(), tmp_path)


def test_figure_shows_targets_beside_outputs(val, oracle):
    """The outputs of an oracle network equal the targets."""
    sheet = CocoEvaluator(recipe("training.eval_pictures=3"), val)(oracle, ALONE, never, ignore).map_figure
    assert sheet.dtype == np.uint8
    people, found, target_heatmaps, heatmaps, target_pafs, pafs = np.split(sheet[34:120], 6, axis=1)
    np.testing.assert_array_equal(target_heatmaps, heatmaps)
    np.testing.assert_array_equal(target_pafs, pafs)
    assert (people != heatmaps).any()
    assert (found != people).any()
    assert (heatmaps != pafs).any()
