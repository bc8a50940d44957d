"""From pictures to people: batches of canvases through a network, maps through the decoder, coordinates back.

A network is any function from pictures to maps, so that another back end is another function.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from evaluation.decode import DecodeConfig, decode
from evaluation.fit import GREY, Fit, Size, cut, fit_size, people_to_picture, place
from evaluation.flip import Network, flip_averaged
from evaluation.person import Person
from pipeline.errors import InputError
from pipeline.maps import Maps
from pipeline.quiet import quiet_mindspore

if TYPE_CHECKING:
    from training.checkpoint import Checkpoint
    from training.config import EvaluationConfig

Picture = NDArray[np.uint8]

Item = TypeVar("Item")
Given = TypeVar("Given")
Made = TypeVar("Made")

_THREADS = 2
"""That prepare pictures and decode maps while the network works; together they take a few ms a picture."""


@dataclass(frozen=True)
class _Placed(Generic[Item]):
    """A picture on its canvas, and whatever the caller calls it by."""

    item: Item
    fit: Fit
    canvas: Picture


class Predictor:
    """A network with the recipe's way of feeding it and of reading its maps.

    Attributes:
        network: pictures to maps.
        config: the recipe.
        source: what the network was read from.
        canvases: the sizes that pictures were put on so far; each compiled a graph.
    """

    def __init__(self, network: Network, config: EvaluationConfig, source: Path | None = None) -> None:
        self.network = flip_averaged(network) if config.flip else network
        self.source = source
        self.config = config
        self.decoder = DecodeConfig(**config.decoder.model_dump())
        self.canvases: set[Size] = set()

    @classmethod
    def load(cls, path: Path, device: str = "auto", overrides: Sequence[str] = ()) -> Predictor:
        """Set up the device and read a checkpoint; comes before anything else makes a tensor.

        Args:
            path: a checkpoint, or a run folder, of which the newest is taken.
            device: auto (Ascend where MindSpore loads it, else CPU), cpu or ascend.
            overrides: `evaluation.field=value`, on the recipe that the checkpoint carries.

        Raises:
            InputError: no checkpoint, a damaged one, an unknown or impossible override, or no such device.
        """
        checkpoint, config = read_checkpoint(path, device, overrides)
        return cls(mindspore_network(checkpoint), config, checkpoint.path)

    def maps(self, images: Iterable[Picture]) -> list[Maps]:
        """Each picture's maps, in the order given, on the part of the grid that the picture covers.

        Args:
            images: (H, W, 3) uint8 BGR each, of any sizes.
        """
        with _host_threads() as pool:
            found = [(i, maps) for (i, _), _, maps in self._answers(pool, enumerate(images), lambda item: item[1])]
        return [maps for _, maps in sorted(found, key=lambda pair: pair[0])]

    def people(self, images: Iterable[Picture]) -> list[list[Person]]:
        """The people in each picture, in the order given, the surest first, in pixels of that picture.

        Args:
            images: (H, W, 3) uint8 BGR each, of any sizes.
        """
        found = [(i, people) for (i, _), people in self.stream(enumerate(images), lambda item: item[1])]
        return [people for _, people in sorted(found, key=lambda pair: pair[0])]

    def stream(self, items: Iterable[Item], load: Callable[[Item], Picture]) -> Iterator[tuple[Item, list[Person]]]:
        """Find people in any number of pictures with bounded memory.

        Held at a time are a few items, less than a batch of pictures a canvas, and the people of a few batches.

        Args:
            items: whatever stands for a picture; read in the calling thread.
            load: gives an item's picture, (H, W, 3) uint8 BGR; called in other threads, with each item once.

        Yields:
            Each item once, with its people in pixels of its picture; in an order that depends on the pictures' shapes.

        Raises:
            InputError: the network's answer is not finite; and whatever `load` raises.
        """
        with _host_threads() as pool:
            answers = self._answers(pool, items, load)
            yield from _ahead(pool, self._decode, answers, depth=2 * self.config.batch_size)

    def _decode(self, answer: tuple[Item, Fit, Maps]) -> tuple[Item, list[Person]]:
        item, fit, maps = answer
        return item, read_people(maps, fit, self.decoder)

    def _answers(
        self, pool: Executor, items: Iterable[Item], load: Callable[[Item], Picture]
    ) -> Iterator[tuple[Item, Fit, Maps]]:
        """Each item with its fit and its maps, canvas by canvas as batches fill."""

        def prepare(item: Item) -> _Placed[Item]:
            image = load(item)
            height, width = image.shape[:2]
            fit = fit_size((height, width), self.config.size)
            return _Placed(item, fit, place(image, fit))

        waiting: dict[Size, list[_Placed[Item]]] = {}
        for placed in _ahead(pool, prepare, items, depth=2 * self.config.batch_size):
            group = waiting.setdefault(placed.fit.canvas, [])
            group.append(placed)
            if len(group) == self.config.batch_size:
                yield from self._run(waiting.pop(placed.fit.canvas))
        for group in waiting.values():
            yield from self._run(group)

    def _run(self, group: Sequence[_Placed[Item]]) -> Iterator[tuple[Item, Fit, Maps]]:
        """One batch through the network; grey pictures fill it up, for a graph is compiled for one batch size."""
        canvas = group[0].fit.canvas
        self.canvases.add(canvas)
        batch = np.full((self.config.batch_size, *canvas, 3), GREY, dtype=np.uint8)
        for place_in_batch, placed in enumerate(group):
            batch[place_in_batch] = placed.canvas
        pafs, heatmaps = self.network(batch)
        for i, placed in enumerate(group):
            yield placed.item, placed.fit, cut(Maps(heatmaps[i], pafs[i]), placed.fit)


def read_people(maps: Maps, fit: Fit, config: DecodeConfig) -> list[Person]:
    """Decode a picture's maps and bring the people back to its pixels; InputError if the maps are not finite."""
    try:
        people = decode(maps, config)
    except ValueError as error:
        raise InputError(f"the network's answer is no use, take an earlier checkpoint: {error}") from error
    return people_to_picture(people, fit)


def read_checkpoint(path: Path, device: str, overrides: Sequence[str]) -> tuple[Checkpoint, EvaluationConfig]:
    """Set up the device, read the newest checkpoint of `path` and apply the overrides; errors as `Predictor.load`."""
    quiet_mindspore()
    from training.checkpoint import load_checkpoint
    from training.config import override_config
    from training.folder import find_checkpoint
    from training.parallel import start

    for override in overrides:
        if not override.strip().startswith("evaluation."):
            raise InputError(f"--set {override}: a trained network takes evaluation.… only, as in evaluation.size=432")
    start(device, debug_folder=_debug_folder())
    checkpoint = load_checkpoint(find_checkpoint(path))
    return checkpoint, override_config(checkpoint.config, overrides).evaluation


def _debug_folder() -> Path:
    """A folder for what MindSpore leaves of graphs that do not compile: it makes one at once, and it goes at exit."""
    folder = Path(tempfile.mkdtemp(prefix="openpose-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def mindspore_network(checkpoint: Checkpoint) -> Network:
    """The checkpoint's network on MindSpore's device; a new canvas or batch size compiles a graph, once."""
    import mindspore as ms

    from training.checkpoint import restore
    from training.network import OpenPose

    network = OpenPose(checkpoint.config.model)
    network.set_train(False)
    restore(network, checkpoint.tensors, checkpoint.path)

    def run(images: Picture) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        pafs, heatmaps = network(ms.Tensor(images))
        return pafs[-1].asnumpy(), heatmaps[-1].asnumpy()

    return run


def _host_threads() -> ThreadPoolExecutor:
    import cv2

    cv2.setNumThreads(0)  # the threads are here; OpenCV's own would compete with them
    return ThreadPoolExecutor(_THREADS, thread_name_prefix="pictures")


def _ahead(pool: Executor, function: Callable[[Given], Made], given: Iterable[Given], depth: int) -> Iterator[Made]:
    """map() in the pool's threads, in order, at most `depth` results ahead of what is taken."""
    running: deque[Future[Made]] = deque()
    try:
        for one in given:
            running.append(pool.submit(function, one))
            if len(running) > depth:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:
        for future in running:
            future.cancel()
