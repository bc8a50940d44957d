"""Evaluation during training, and the best checkpoint by it.

Training knows of evaluation what stands here and no more: `python -m training.train` hands the evaluator in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.maps import InferenceFunction
from training.checkpoint.checkpoint import (
    BestScore,
    DamagedCheckpointError,
    TrainingPosition,
    load_checkpoint,
    save_best,
)
from training.checkpoint.run_folder import best_checkpoint_path, evaluated_steps
from training.config import Config
from training.distributed.file_barrier import FileBarrier
from training.distributed.world import World
from training.loop.evaluation_network import EvaluationNetwork
from training.loop.state import TrainState


@dataclass(frozen=True)
class Score:
    """What an evaluation came to.

    Attributes:
        numbers: COCO's ten by name, 0..1, or -1 where no annotation defines one.
        image_count: how many were looked at.
        seconds: that it took.
        map_figure: pictures with the maps that the network answers, (H, W, 3) uint8 BGR; None on ranks other than 0.
    """

    numbers: dict[str, float]
    image_count: int
    seconds: float
    map_figure: NDArray[np.uint8] | None = None

    @property
    def ap(self) -> float:
        """Average precision."""
        return self.numbers["AP"]

    @property
    def is_defined(self) -> bool:
        """Whether there was anybody to find."""
        return self.ap >= 0


class Evaluator(Protocol):
    """Scores a network in training on pictures that it does not learn from."""

    @property
    def basis(self) -> str:
        """Names the pictures and the way of finding people: scores with the same basis can be compared."""
        ...

    def __call__(
        self,
        network: InferenceFunction,
        barrier: FileBarrier,
        stopped: Callable[[], bool],
        progress: Callable[[int, int], object],
    ) -> Score | None:
        """Score a network; every process calls this and gets the same numbers.

        Args:
            network: the same in every process.
            barrier: the processes, which share the pictures.
            stopped: whether this process was asked to stop, looked at between pictures.
            progress: called with the pictures done and to do, of this process.

        Returns:
            The score; None if any process was asked to stop before its pictures were done.

        Raises:
            InputError: a picture or what the network answers is no use; in every process.
        """
        ...


class Validation:
    """Evaluates a run's network when it is due, and keeps the checkpoint of the best.

    Attributes:
        best: step and AP of the best so far, None before there is any; what rank 0 says counts.
    """

    def __init__(self, run: Path, config: Config, evaluator: Evaluator | None, total: int, world: World) -> None:
        """`total` is the number of updates of the whole run; without an evaluator nothing is ever due."""
        self.run = run
        self.config = config
        self.evaluator = evaluator
        self.total = total
        self.world = world
        self.barrier = FileBarrier(run, world)
        self.evaluation_network: EvaluationNetwork | None = None
        self.best: tuple[int, float] | None = None

    def resume(self) -> list[str]:
        """Take up the best checkpoint of the run so far; returns what there is to say about it."""
        path = best_checkpoint_path(self.run)
        if self.evaluator is None or self.world.rank or not path.is_file():
            return []
        try:
            checkpoint = load_checkpoint(path)
        except DamagedCheckpointError as error:
            return [f"Warning: {error}"]
        if checkpoint.best_score is None or checkpoint.best_score.basis != self.evaluator.basis:
            return [
                f"{path}: chosen by other pictures or another way of finding people; the next evaluation replaces it"
            ]
        self.best = (checkpoint.step, checkpoint.best_score.ap)
        return []

    def is_due(self, step: int) -> bool:
        """Whether the network of a step is to be evaluated."""
        every = self.config.training.eval_every
        return bool(self.evaluator and every and step and (step % every == 0 or step == self.total))

    def was_missed(self, step: int) -> bool:
        """Whether a run that goes on after `step` ended before this step's evaluation did; the same on all ranks."""
        missing = self.is_due(step) and step not in evaluated_steps(self.run)
        return bool(self.world.all_gather(np.array([missing], dtype=np.int64))[0])

    def evaluate(
        self, train_state: TrainState, stopped: Callable[[], bool], progress: Callable[[int, int], object]
    ) -> Score | None:
        """Score the network as it is now; arguments, result and errors as those of an Evaluator."""
        assert self.evaluator is not None
        self.evaluation_network = self.evaluation_network or EvaluationNetwork(self.config.model)
        self.evaluation_network.copy_weights(train_state.inference_weights(), self.world)
        return self.evaluator(self.evaluation_network.infer, self.barrier, stopped, progress)

    def save_if_best(self, score: Score, train_state: TrainState, position: TrainingPosition) -> bool:
        """Write the network as the best if none before came to as much; every process calls this and waits for it.

        Returns:
            Whether it is the best.

        Raises:
            InputError: the checkpoint cannot be written.
        """
        assert self.evaluator is not None
        better = self.world.rank == 0 and score.is_defined and (self.best is None or score.ap > self.best[1])
        if better:
            mark = BestScore(score.ap, self.evaluator.basis)
            save_best(self.run, train_state.parameters(), self.config, position, mark)
        if self.barrier.all_gather(b"better" if better else b"")[0]:
            self.best = (position.step, score.ap)
            return True
        return False
