"""From pictures to people: batches of canvases through a network, maps through the decoder, coordinates back.

A network is any function from images to maps, so a further back end is one more function in
`evaluation.inference.backends`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from evaluation.decoder.decode import DecodeConfig, decode
from evaluation.decoder.person import Person
from evaluation.inference.backends import load_backend
from evaluation.inference.flip import flip_averaged
from evaluation.inference.letterbox import PADDING_GREY, Letterbox, apply_letterbox, choose_letterbox, people_to_image
from evaluation.inference.multiscale import average_scales
from evaluation.inference.threads import host_threads, map_ahead
from pipeline.errors import InputError
from pipeline.maps import InferenceFunction, Maps
from pipeline.sample import Size

if TYPE_CHECKING:
    from training.config import EvaluationConfig

Picture = NDArray[np.uint8]

Item = TypeVar("Item")


@dataclass(frozen=True)
class _Placed(Generic[Item]):
    """A picture on its canvases, one for each scale, and whatever the caller calls it by."""

    item: Item
    letterboxes: tuple[Letterbox, ...]
    canvases: tuple[Picture, ...]


@dataclass(frozen=True)
class _Answer(Generic[Item]):
    """What the network says to a picture at each scale, on whole canvases."""

    item: Item
    letterboxes: tuple[Letterbox, ...]
    maps: tuple[Maps, ...]


class Predictor:
    """A network with the recipe's way of feeding it and of reading its maps.

    Attributes:
        network: pictures to maps.
        config: the recipe.
        source: what the network was read from.
        canvas: (height, width) px of the only input that the network takes; None if it takes any.
        canvases: the sizes that pictures were put on so far; each compiled a graph.
    """

    def __init__(
        self,
        network: InferenceFunction,
        config: EvaluationConfig,
        source: Path | None = None,
        canvas: Size | None = None,
    ) -> None:
        self.network = flip_averaged(network) if config.flip else network
        self.source = source
        self.config = config
        self.canvas = canvas
        self.decoder = DecodeConfig(**config.decoder.model_dump())
        self.canvases: set[Size] = set()

    @classmethod
    def load(cls, path: Path, device: str = "auto", overrides: Sequence[str] = ()) -> Predictor:
        """Make the network of a checkpoint or an exported graph ready; arguments and errors as `load_backend`'s."""
        backend = load_backend(path, device, overrides)
        return cls(backend.network, backend.config, backend.source, backend.canvas)

    def maps(self, images: Iterable[Picture]) -> list[Maps]:
        """Each picture's maps, in the order given, on the part of the grid that the picture covers.

        Args:
            images: (H, W, 3) uint8 BGR each, of any sizes.
        """
        with host_threads() as pool:
            answers = self._answers(pool, enumerate(images), lambda item: item[1])
            found = {answer.item[0]: average_scales(answer.maps, answer.letterboxes)[0] for answer in answers}
        return [found[i] for i in sorted(found)]

    def people(self, images: Iterable[Picture]) -> list[list[Person]]:
        """The people in each picture, in the order given, the surest first, in pixels of that picture.

        Args:
            images: (H, W, 3) uint8 BGR each, of any sizes.
        """
        found = {item[0]: people for item, people in self.stream(enumerate(images), lambda item: item[1])}
        return [found[i] for i in sorted(found)]

    def stream(
        self, items: Iterable[Item], load: Callable[[Item], Picture | None]
    ) -> Iterator[tuple[Item, list[Person]]]:
        """Find people in any number of pictures with bounded memory.

        Held at a time are a few items, less than a batch of pictures a canvas, and the people of a few batches.

        Args:
            items: whatever stands for a picture; read in the calling thread.
            load: gives an item's picture, (H, W, 3) uint8 BGR, or None to leave it out; called in other threads, with
                each item once.

        Yields:
            Each item once, with its people in pixels of its picture. Pictures of one size come in the order given; the
            order of others depends on their shapes.

        Raises:
            InputError: the network's answer is not finite; and whatever `load` raises.
        """
        with host_threads() as pool:
            answers = self._answers(pool, items, load)
            yield from map_ahead(pool, self._decode, answers, depth=2 * self.config.batch_size)

    def _decode(self, answer: _Answer[Item]) -> tuple[Item, list[Person]]:
        maps, letterbox = average_scales(answer.maps, answer.letterboxes)
        return answer.item, read_people(maps, letterbox, self.decoder)

    def _answers(
        self, pool: Executor, items: Iterable[Item], load: Callable[[Item], Picture | None]
    ) -> Iterator[_Answer[Item]]:
        """Each item with its letterboxes and its maps, as batches of pictures that share all their canvases fill."""

        def prepare(item: Item) -> _Placed[Item] | None:
            image = load(item)
            if image is None:
                return None
            height, width = image.shape[:2]
            sizes = (self.config.size * scale for scale in self.config.scales)
            letterboxes = tuple(choose_letterbox((height, width), size, self.canvas) for size in sizes)
            return _Placed(item, letterboxes, tuple(apply_letterbox(image, letterbox) for letterbox in letterboxes))

        waiting: dict[tuple[Size, ...], list[_Placed[Item]]] = {}
        for placed in map_ahead(pool, prepare, items, depth=2 * self.config.batch_size):
            if placed is None:
                continue
            key = tuple(letterbox.canvas for letterbox in placed.letterboxes)
            group = waiting.setdefault(key, [])
            group.append(placed)
            if len(group) == self.config.batch_size:
                yield from self._run(waiting.pop(key))
        for group in waiting.values():
            yield from self._run(group)

    def _run(self, group: Sequence[_Placed[Item]]) -> Iterator[_Answer[Item]]:
        """One batch through the network, scale by scale."""
        scales = [self._ask([placed.canvases[i] for placed in group]) for i in range(len(group[0].letterboxes))]
        for placed, *maps in zip(group, *scales, strict=True):
            yield _Answer(placed.item, placed.letterboxes, tuple(maps))

    def _ask(self, canvases: Sequence[Picture]) -> list[Maps]:
        """The maps of canvases of one size; grey ones fill the batch up, for a graph is compiled for one batch size."""
        height, width, _ = canvases[0].shape
        self.canvases.add((height, width))
        batch = np.full((self.config.batch_size, height, width, 3), PADDING_GREY, dtype=np.uint8)
        batch[: len(canvases)] = canvases
        pafs, heatmaps = self.network(batch)
        return [Maps(heatmaps[i], pafs[i]) for i in range(len(canvases))]


def read_people(maps: Maps, letterbox: Letterbox, config: DecodeConfig) -> list[Person]:
    """Decode a picture's maps and bring the people back to its pixels; InputError if the maps are not finite."""
    try:
        people = decode(maps, config)
    except ValueError as error:
        raise InputError(f"the network's answer is no use, take an earlier checkpoint: {error}") from error
    return people_to_image(people, letterbox)
