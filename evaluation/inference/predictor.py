"""Inference on images: letterbox, batch, forward pass, decoding, and conversion of coordinates back to the image.

The network is any function from images to maps. To add a back end, add such a function to
`evaluation.inference.backends`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from evaluation.decoder.decode import DecodeConfig, decode
from evaluation.decoder.person import Person
from evaluation.inference.backends import BackendName, Library, load_backend
from evaluation.inference.flip import flip_averaged
from evaluation.inference.letterbox import (
    PADDING_GREY,
    Letterbox,
    apply_letterbox,
    choose_letterbox,
    people_to_image,
)
from evaluation.inference.multiscale import average_scales
from evaluation.inference.threads import create_thread_pool, prefetch_map
from pipeline.errors import InputError
from pipeline.maps import InferenceFunction, Maps
from pipeline.sample import Size

if TYPE_CHECKING:
    from training.config import EvaluationConfig

Image = NDArray[np.uint8]

Item = TypeVar("Item")


@dataclass(frozen=True)
class _NetworkInput(Generic[Item]):
    """The canvases of one image, one for each scale, with the caller's item."""

    item: Item
    letterboxes: tuple[Letterbox, ...]
    canvases: tuple[Image, ...]


@dataclass(frozen=True)
class _NetworkOutput(Generic[Item]):
    """The maps of one image, one for each scale, on whole canvases, with the caller's item."""

    item: Item
    letterboxes: tuple[Letterbox, ...]
    maps: tuple[Maps, ...]


class Predictor:
    """A network together with the recipe's preprocessing and decoding.

    Attributes:
        network: function from images to maps.
        config: evaluation section of the recipe.
        source: file from which the network was loaded.
        fixed_canvas: (height, width) in px of the only canvas that the network accepts; None if it accepts any.
        library: library that runs the network.
        decode_config: settings of the decoder.
        canvases: (height, width) in px of all canvases used so far; MindSpore compiles one graph for each.
    """

    def __init__(
        self,
        network: InferenceFunction,
        config: EvaluationConfig,
        source: Path | None = None,
        fixed_canvas: Size | None = None,
        library: Library = "MindSpore",
    ) -> None:
        self.network = flip_averaged(network) if config.flip else network
        self.source = source
        self.config = config
        self.fixed_canvas = fixed_canvas
        self.library = library
        self.decode_config = DecodeConfig(**config.decoder.model_dump())
        self.canvases: set[Size] = set()

    @classmethod
    def load(
        cls, path: str | Path, device: str = "auto", overrides: Sequence[str] = (), backend: BackendName = "auto"
    ) -> Predictor:
        """Load a checkpoint or an exported graph. For arguments and errors see `load_backend`."""
        loaded = load_backend(Path(path), device, overrides, backend)
        return cls(loaded.network, loaded.config, loaded.source, loaded.fixed_canvas, loaded.library)

    def choose_letterbox(self, image_size: Size, size: float) -> Letterbox:
        """Choose the scale and the canvas of an image; see `evaluation.inference.letterbox.choose_letterbox`."""
        return choose_letterbox(image_size, size, self.fixed_canvas, self.config.max_aspect)

    def predict_maps(self, images: Iterable[Image]) -> list[Maps]:
        """Return the maps of each image, in input order, cropped to the part of the grid that the image covers.

        Args:
            images: (H, W, 3) uint8 BGR, of any sizes.
        """
        with create_thread_pool() as pool:
            outputs = self._run_network(pool, enumerate(images), lambda item: item[1])
            maps = {output.item[0]: average_scales(output.maps, output.letterboxes)[0] for output in outputs}
        return [maps[i] for i in sorted(maps)]

    def predict_people(self, images: Iterable[Image]) -> list[list[Person]]:
        """Return the people in each image, in input order, by descending score, in pixels of that image.

        Args:
            images: (H, W, 3) uint8 BGR, of any sizes.
        """
        detections = {item[0]: people for item, people in self.predict_stream(enumerate(images), lambda item: item[1])}
        return [detections[i] for i in sorted(detections)]

    def predict_stream(
        self,
        items: Iterable[Item],
        load: Callable[[Item], Image | None],
        save: Callable[[Item, Maps, Letterbox], object] | None = None,
    ) -> Iterator[tuple[Item, list[Person]]]:
        """Find the people in any number of images with bounded memory.

        At any time, memory holds a few items, less than one batch of images for each canvas size, and the people of a
        few batches.

        Args:
            items: any objects that identify images; iterated in the calling thread.
            load: function that returns the image of an item, (H, W, 3) uint8 BGR, or None to skip the item. It is
                called once for each item, in worker threads.
            save: called with the decoded maps of each item and the letterbox of their grid, in worker threads. The maps
                are then rounded to float16 before decoding, so that saved maps decode to the same people.

        Yields:
            Each item with its people in pixels of its image. Images of the same size keep the order of the input;
            images of different sizes may change places.

        Raises:
            InputError: the network's output is not finite. Errors of `load` are passed on.
        """
        with create_thread_pool() as pool:
            outputs = self._run_network(pool, items, load)
            decode_output = partial(self._decode, save=save)
            yield from prefetch_map(pool, decode_output, outputs, depth=2 * self.config.batch_size)

    def _decode(
        self, output: _NetworkOutput[Item], save: Callable[[Item, Maps, Letterbox], object] | None
    ) -> tuple[Item, list[Person]]:
        maps, letterbox = average_scales(output.maps, output.letterboxes)
        if save is None:
            return output.item, decode_people(maps, letterbox, self.decode_config)
        maps = _round_to_half(maps)
        people = decode_people(maps, letterbox, self.decode_config)
        save(output.item, maps, letterbox)
        return output.item, people

    def _run_network(
        self, pool: Executor, items: Iterable[Item], load: Callable[[Item], Image | None]
    ) -> Iterator[_NetworkOutput[Item]]:
        """Load the images, group them by their canvases, and run each group as soon as it fills a batch."""

        def prepare(item: Item) -> _NetworkInput[Item] | None:
            image = load(item)
            if image is None:
                return None
            height, width = image.shape[:2]
            sizes = (self.config.size * scale for scale in self.config.scales)
            letterboxes = tuple(self.choose_letterbox((height, width), size) for size in sizes)
            return _NetworkInput(item, letterboxes, tuple(apply_letterbox(image, one) for one in letterboxes))

        incomplete: dict[tuple[Size, ...], list[_NetworkInput[Item]]] = {}
        for prepared in prefetch_map(pool, prepare, items, depth=2 * self.config.batch_size):
            if prepared is None:
                continue
            key = tuple(letterbox.canvas for letterbox in prepared.letterboxes)
            batch = incomplete.setdefault(key, [])
            batch.append(prepared)
            if len(batch) == self.config.batch_size:
                yield from self._run_batch(incomplete.pop(key))
        for batch in incomplete.values():
            yield from self._run_batch(batch)

    def _run_batch(self, batch: Sequence[_NetworkInput[Item]]) -> Iterator[_NetworkOutput[Item]]:
        """Run one batch through the network, one forward pass for each scale."""
        scales = range(len(batch[0].letterboxes))
        maps_by_scale = [self._forward([image.canvases[i] for image in batch]) for i in scales]
        for image, *maps in zip(batch, *maps_by_scale, strict=True):
            yield _NetworkOutput(image.item, image.letterboxes, tuple(maps))

    def _forward(self, canvases: Sequence[Image]) -> list[Maps]:
        """Return the maps of canvases of one size. A short batch is filled up: graphs have a fixed batch size."""
        height, width, _ = canvases[0].shape
        self.canvases.add((height, width))
        batch = np.full((self.config.batch_size, height, width, 3), PADDING_GREY, dtype=np.uint8)
        batch[: len(canvases)] = canvases
        pafs, heatmaps = self.network(batch)
        return [Maps(heatmaps[i], pafs[i]) for i in range(len(canvases))]


def _round_to_half(maps: Maps) -> Maps:
    """Return float32 maps whose values are representable in float16; values above its range become infinite."""
    with np.errstate(over="ignore"):
        heatmaps, pafs = (array.astype(np.float16).astype(np.float32) for array in (maps.heatmaps, maps.pafs))
    return Maps(heatmaps, pafs, maps.stride)


def decode_people(maps: Maps, letterbox: Letterbox, config: DecodeConfig) -> list[Person]:
    """Decode the maps of an image into people in pixels of the image. Raise InputError if the maps are not finite."""
    try:
        people = decode(maps, config)
    except ValueError as error:
        raise InputError(f"the network's output is not finite; use an earlier checkpoint: {error}") from error
    return people_to_image(people, letterbox)
