"""Scoring a network while it trains: COCO's AP on some pictures of a set, shared by the processes that train.

What `training.loop.validation.Evaluator` asks for. One scale and no flip, however the recipe evaluates in the end: that
takes a fraction of the time, and orders checkpoints as well.
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
from evaluation.report.map_figure import SHOWN, draw_map_figure
from evaluation.scoring.datasets import Record, ShardSet
from evaluation.scoring.detect import detect_people, partition_by_work
from evaluation.scoring.metrics import coco_ap
from evaluation.scoring.results import to_coco_results
from evaluation.scoring.truth import Truth, add_truth, count_people
from pipeline.errors import InputError
from pipeline.sample import Size

if TYPE_CHECKING:
    from pipeline.maps import InferenceFunction
    from training.config import Config
    from training.distributed.file_barrier import FileBarrier
    from training.loop.validation import Score


def spread(total: int, number: int | None) -> list[int]:
    """Indices of `number` things among `total`, as evenly spread as can be; of all if that is all, or for None."""
    number = min(number or total, total)
    return [(2 * i + 1) * total // (2 * number) for i in range(number)]


class DuringTraining:
    """An evaluator for `training.loop.trainer.train`.

    Attributes:
        basis: hash of the pictures and of the recipe's way of finding people.
    """

    def __init__(self, config: Config, shards: Path) -> None:
        """Choose pictures of a set of shards; InputError where it is missing, damaged or empty."""
        self.set = ShardSet(shards)
        if not len(self.set):
            raise InputError(f"{shards}: holds no pictures to evaluate on")
        self.indices = spread(len(self.set), config.training.eval_pictures)
        self.target = config.data.target
        self.config = config.evaluation.model_copy(update={"scales": (1.0,), "flip": False})
        hashes = [shard.sha256 for shard in self.set.manifest.shards]
        known = json.dumps([hashes, self.indices, self.config.model_dump(mode="json")])
        self.basis = hashlib.sha256(known.encode()).hexdigest()

    def __call__(
        self,
        network: InferenceFunction,
        barrier: FileBarrier,
        stopped: Callable[[], bool],
        progress: Callable[[int, int], object],
    ) -> Score | None:
        """Score a network; arguments, result and errors as `training.loop.validation.Evaluator` has them."""
        from training.loop.validation import Score

        start = time.monotonic()
        mine, sheet = self._look(network, barrier, stopped, progress)
        parts = [json.loads(part) for part in barrier.all_gather(json.dumps(mine).encode())]
        errors = [part["error"] for part in parts if part["error"]]
        if errors:
            raise InputError(errors[0])
        if not all(part["done"] for part in parts):
            return None
        truth: Truth = {}
        for part in parts:
            for image_id, people in part["truth"]:
                add_truth(truth, image_id, people)
        results = sorted((one for part in parts for one in part["results"]), key=lambda one: one["image_id"])
        return Score(coco_ap(truth, results), len(truth), time.monotonic() - start, sheet)

    def _look(
        self,
        network: InferenceFunction,
        barrier: FileBarrier,
        stopped: Callable[[], bool],
        progress: Callable[[int, int], object],
    ) -> tuple[dict[str, Any], NDArray[np.uint8] | None]:
        """Find people in this process's pictures.

        Returns:
            What the others have to know: the truth of the pictures, the results, whether all were looked at, and what
            is wrong if anything is. And, on rank 0, the sheet of maps.
        """
        part: dict[str, Any] = {"truth": [], "results": [], "done": True, "error": ""}
        share = self._share(barrier)
        sheet = None
        try:
            for canvas, indices in self._by_canvas(share):
                predictor = Predictor(network, self.config, fixed_canvas=canvas)
                with_people: list[int] = []
                records = _until(stopped, self._records(indices, with_people))
                detections = detect_people(predictor, records, _counter(progress, len(part["truth"]), len(share)))
                part["truth"] += detections.truth.items()
                part["results"] += [
                    one for i, people in detections.people.items() for one in to_coco_results(i, people)
                ]
                if barrier.rank == 0 and sheet is None and with_people and not stopped():
                    shown = [with_people[i] for i in spread(len(with_people), SHOWN)]
                    sheet = draw_map_figure(predictor, self.set.records(shown), self.target)
        except InputError as error:
            part["error"] = str(error)
        part["done"] = len(part["truth"]) == len(share)
        return part, sheet

    def _share(self, barrier: FileBarrier) -> list[int]:
        """The pictures that this process looks at, by index into the set."""
        shares = partition_by_work([self._sizes[index] for index in self.indices], barrier.size)
        mine = shares[barrier.rank] if barrier.rank < len(shares) else []
        return sorted(self.indices[i] for i in mine)

    def _by_canvas(self, share: Sequence[int]) -> Iterator[tuple[Size, list[int]]]:
        """Pictures that lie and pictures that stand, each with one canvas for all of them, in all processes.

        Smaller canvases would do for some, but each new one compiles a graph, which takes longer than some padding.
        """
        groups: tuple[list[int], list[int]] = ([], [])
        for index in self.indices:
            height, width = self._sizes[index]
            groups[height > width].append(index)
        mine = set(share)
        for group in groups:
            canvases = [choose_letterbox(self._sizes[index], self.config.size).canvas for index in group]
            indices = [index for index in group if index in mine]
            if indices:
                yield (max(height for height, _ in canvases), max(width for _, width in canvases)), indices

    @cached_property
    def _sizes(self) -> list[Size]:
        return self.set.sizes()

    def _records(self, indices: Sequence[int], with_people: list[int]) -> Iterator[Record]:
        """Records of the set; indices of those with annotated people are appended to `with_people` on the way."""
        for index, record in zip(indices, self.set.records(indices), strict=True):
            if count_people(record.truth):
                with_people.append(index)
            yield record


def _until(stopped: Callable[[], bool], records: Iterable[Record]) -> Iterator[Record]:
    """The records that come before somebody says stop."""
    for record in records:
        if stopped():
            return
        yield record


def _counter(progress: Callable[[int, int], object], done: int, total: int) -> Callable[[], None]:
    """Counts one picture more with each call."""

    def count() -> None:
        nonlocal done
        done += 1
        progress(done, total)

    return count
