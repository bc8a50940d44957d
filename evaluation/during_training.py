"""Evaluation during training: COCO AP on part of a dataset, shared by the training processes.

This is the `training.loop.validation.Evaluator` of `python -m training.train`. It uses one scale and no flip, whatever
the configuration says for the final evaluation: this takes a fraction of the time and ranks checkpoints equally well.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from evaluation.inference.letterbox import choose_letterbox
from evaluation.inference.predictor import Predictor
from evaluation.report.map_figure import NUM_IMAGES, draw_map_figure
from evaluation.scoring.datasets import Record, ShardDataset
from evaluation.scoring.detect import detect_people, partition_by_work
from evaluation.scoring.ground_truth import GroundTruth, add_annotations, count_people
from evaluation.scoring.metrics import coco_ap
from evaluation.scoring.results import to_coco_results
from pipeline.errors import InputError
from pipeline.sample import Size

if TYPE_CHECKING:
    from pipeline.maps import InferenceFunction
    from training.config import Config
    from training.distributed.file_barrier import FileBarrier
    from training.loop.validation import Score


def evenly_spaced_indices(total: int, number: int | None) -> list[int]:
    """Return `number` evenly spaced indices below `total`; all indices if `number` is None or not below `total`."""
    number = min(number or total, total)
    return [(2 * i + 1) * total // (2 * number) for i in range(number)]


class CocoEvaluator:
    """Evaluator for `training.loop.trainer.train`.

    Attributes:
        basis: hash of the images and of the settings of inference; scores with the same basis are comparable.
    """

    def __init__(self, config: Config, shards: Path) -> None:
        """Select images of a sharded dataset; raise InputError if it is missing, damaged or empty."""
        self.dataset = ShardDataset(shards)
        if not len(self.dataset):
            raise InputError(f"{shards}: contains no images to evaluate on")
        self.indices = evenly_spaced_indices(len(self.dataset), config.training.eval_pictures)
        self.target = config.data.target
        self.config = config.evaluation.model_copy(update={"scales": (1.0,), "flip": False})
        hashes = [shard.sha256 for shard in self.dataset.manifest.shards]
        hashed = json.dumps([hashes, self.indices, self.config.model_dump(mode="json")])
        self.basis = hashlib.sha256(hashed.encode()).hexdigest()

    def __call__(
        self,
        network: InferenceFunction,
        barrier: FileBarrier,
        stopped: Callable[[], bool],
        progress: Callable[[int, int], object],
    ) -> Score | None:
        """Score a network; arguments, result and errors are those of `training.loop.validation.Evaluator`."""
        from training.loop.validation import Score

        start = time.monotonic()
        own_part, figure = self._detect_share(network, barrier, stopped, progress)
        parts = [json.loads(part) for part in barrier.all_gather(json.dumps(own_part).encode())]
        errors = [part["error"] for part in parts if part["error"]]
        if errors:
            raise InputError(errors[0])
        if not all(part["done"] for part in parts):
            return None
        ground_truth: GroundTruth = {}
        for part in parts:
            for image_id, people in part["annotations"]:
                add_annotations(ground_truth, image_id, people)
        results = sorted(
            (result for part in parts for result in part["results"]), key=lambda result: result["image_id"]
        )
        return Score(coco_ap(ground_truth, results), len(ground_truth), time.monotonic() - start, figure)

    def _detect_share(
        self,
        network: InferenceFunction,
        barrier: FileBarrier,
        stopped: Callable[[], bool],
        progress: Callable[[int, int], object],
    ) -> tuple[dict[str, Any], NDArray[np.uint8] | None]:
        """Detect people in the images of this process.

        Returns:
            The data that the other processes need: `annotations` (pairs of image id and annotations), `results`,
            `done` (True if all images were processed) and `error` (a message, or an empty string). On rank 0 also the
            map figure.
        """
        part: dict[str, Any] = {"annotations": [], "results": [], "done": True, "error": ""}
        share = self._share(barrier)
        figure = None
        try:
            for canvas, indices in self._by_canvas(share):
                predictor = Predictor(network, self.config, fixed_canvas=canvas)
                with_people: list[int] = []
                records = _until(stopped, self._records(indices, with_people))
                on_image = _progress_callback(progress, len(part["annotations"]), len(share))
                detections = detect_people(predictor, records, on_image)
                part["annotations"] += detections.ground_truth.items()
                for image_id, people in detections.people.items():
                    part["results"] += to_coco_results(image_id, people)
                if barrier.rank == 0 and figure is None and with_people and not stopped():
                    shown = [with_people[i] for i in evenly_spaced_indices(len(with_people), NUM_IMAGES)]
                    figure = draw_map_figure(predictor, self.dataset.records(shown), self.target)
        except InputError as error:
            part["error"] = str(error)
        part["done"] = len(part["annotations"]) == len(share)
        return part, figure

    def _share(self, barrier: FileBarrier) -> list[int]:
        """Return the dataset indices of the images of this process."""
        shares = partition_by_work([self._sizes[index] for index in self.indices], barrier.size)
        positions = shares[barrier.rank] if barrier.rank < len(shares) else []
        return sorted(self.indices[i] for i in positions)

    def _by_canvas(self, share: Sequence[int]) -> Iterator[tuple[Size, list[int]]]:
        """Yield landscape and portrait images separately, each group with one canvas that all processes share.

        Some images would fit on a smaller canvas. But each canvas size compiles a graph, which takes longer than the
        computation on the additional padding.
        """
        groups: tuple[list[int], list[int]] = ([], [])
        for index in self.indices:
            height, width = self._sizes[index]
            groups[height > width].append(index)
        in_share = set(share)
        for group in groups:
            size, max_aspect = self.config.size, self.config.max_aspect
            canvases = [choose_letterbox(self._sizes[index], size, max_aspect=max_aspect).canvas for index in group]
            indices = [index for index in group if index in in_share]
            if indices:
                yield (max(height for height, _ in canvases), max(width for _, width in canvases)), indices

    @cached_property
    def _sizes(self) -> list[Size]:
        return self.dataset.sizes()

    def _records(self, indices: Sequence[int], with_people: list[int]) -> Iterator[Record]:
        """Yield records of the dataset; append the indices of those with annotated people to `with_people`."""
        for index, record in zip(indices, self.dataset.records(indices), strict=True):
            if count_people(record.annotations):
                with_people.append(index)
            yield record


def _until(stopped: Callable[[], bool], records: Iterable[Record]) -> Iterator[Record]:
    """Yield records until `stopped` returns True."""
    for record in records:
        if stopped():
            return
        yield record


def _progress_callback(progress: Callable[[int, int], object], done: int, total: int) -> Callable[[], None]:
    """Return a callback that counts images and calls `progress` with the new count and `total`."""

    def count_image() -> None:
        nonlocal done
        done += 1
        progress(done, total)

    return count_image
