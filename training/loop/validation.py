"""Evaluation during training, and selection of the best checkpoint.

The package `training` depends on `evaluation` only through the protocol `Evaluator`; the command `training.train`
passes the implementation.
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
    """Result of an evaluation.

    Attributes:
        metrics: COCO's ten metrics by name, 0 to 1, or -1 if no annotation defines one.
        image_count: number of evaluated images.
        seconds: duration in seconds.
        map_figure: images with the maps that the network outputs, (H, W, 3) uint8 BGR; None on ranks other than 0.
    """

    metrics: dict[str, float]
    image_count: int
    seconds: float
    map_figure: NDArray[np.uint8] | None = None

    @property
    def ap(self) -> float:
        """Average precision, or -1 without annotated people."""
        return self.metrics["AP"]

    @property
    def is_defined(self) -> bool:
        """True if there are annotated people, without whom no precision is defined."""
        return self.ap >= 0


class Evaluator(Protocol):
    """Evaluates a network in training on validation images."""

    @property
    def basis(self) -> str:
        """Identifier of the images and the evaluation settings; only scores with the same basis are comparable."""
        ...

    def __call__(
        self,
        network: InferenceFunction,
        barrier: FileBarrier,
        stopped: Callable[[], bool],
        progress: Callable[[int, int], object],
    ) -> Score | None:
        """Evaluate a network; a collective call that returns the same metrics in every process.

        Args:
            network: the network, with the same weights in every process.
            barrier: the processes, which share the images.
            stopped: returns True if this process was requested to stop; called between images.
            progress: called with the number of images done and the total number of images of this process.

        Returns:
            The score; None if any process was requested to stop before it finished.

        Raises:
            InputError: an image or an output of the network is invalid; raised in every process.
        """
        ...


class Validation:
    """Evaluates the network of a run at the configured steps, and keeps the best checkpoint.

    Attributes:
        best: step and AP of the best evaluation so far, None before the first; authoritative on rank 0.
    """

    def __init__(self, run: Path, config: Config, evaluator: Evaluator | None, total_steps: int, world: World) -> None:
        """`total_steps` is the number of updates of the whole run; without an evaluator, no step is evaluated."""
        self.run = run
        self.config = config
        self.evaluator = evaluator
        self.total_steps = total_steps
        self.world = world
        self.barrier = FileBarrier(run, world)
        self.evaluation_network: EvaluationNetwork | None = None
        self.best: tuple[int, float] | None = None

    def resume(self) -> list[str]:
        """Load the score of the best checkpoint in the run folder; return lines to print."""
        path = best_checkpoint_path(self.run)
        if self.evaluator is None or self.world.rank or not path.is_file():
            return []
        try:
            checkpoint = load_checkpoint(path)
        except DamagedCheckpointError as error:
            return [f"Warning: {error}"]
        if checkpoint.best_score is None or checkpoint.best_score.basis != self.evaluator.basis:
            return [f"{path}: selected with other images or evaluation settings; the next evaluation replaces it"]
        self.best = (checkpoint.step, checkpoint.best_score.ap)
        return []

    def is_due(self, step: int) -> bool:
        """Return True if the network is to be evaluated after `step` updates."""
        every = self.config.training.eval_every
        return bool(self.evaluator and every and step and (step % every == 0 or step == self.total_steps))

    def was_missed(self, step: int) -> bool:
        """Return True if a resumed run was stopped before it evaluated `step`; a collective call."""
        missing = self.is_due(step) and step not in evaluated_steps(self.run)
        return bool(self.world.all_gather(np.array([missing], dtype=np.int64))[0])

    def evaluate(
        self, train_state: TrainState, stopped: Callable[[], bool], progress: Callable[[int, int], object]
    ) -> Score | None:
        """Evaluate the current weights; arguments, result and errors are those of `Evaluator`."""
        assert self.evaluator is not None
        self.evaluation_network = self.evaluation_network or EvaluationNetwork(self.config.model)
        self.evaluation_network.copy_weights(train_state.inference_weights(), self.world)
        return self.evaluator(self.evaluation_network.infer, self.barrier, stopped, progress)

    def save_if_best(self, score: Score, train_state: TrainState, position: TrainingPosition) -> bool:
        """Save the current weights as the best checkpoint if no earlier score was as high; a collective call.

        Returns:
            True if they were saved.

        Raises:
            InputError: the checkpoint cannot be written.
        """
        assert self.evaluator is not None
        better = self.world.rank == 0 and score.is_defined and (self.best is None or score.ap > self.best[1])
        if better:
            best_score = BestScore(score.ap, self.evaluator.basis)
            save_best(self.run, train_state.parameters(), self.config, position, best_score)
        if self.barrier.all_gather(b"better" if better else b"")[0]:
            self.best = (position.step, score.ap)
            return True
        return False
