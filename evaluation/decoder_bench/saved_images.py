"""The images of a dataset whose maps lie in a folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from evaluation.saved_maps.folder import SavedMaps, find_map_files, load_maps
from evaluation.saved_maps.writer import check_dataset
from evaluation.scoring.datasets import EvaluationDataset, identify
from evaluation.scoring.ground_truth import GroundTruth
from pipeline.errors import InputError
from pipeline.sample import Size


@dataclass(frozen=True)
class SavedImages:
    """Images with ground truth and saved maps. Iteration yields the maps in the order of `ground_truth`.

    Attributes:
        folder: folder of the maps.
        files: file of each image by image id, in ascending order.
        sizes: (height, width) in px of each image by image id.
        ground_truth: annotations of the same images.
        dataset_name: path of the dataset.
        dataset_images: number of images in the dataset, with and without maps.
    """

    folder: Path
    files: dict[int, Path]
    sizes: dict[int, Size]
    ground_truth: GroundTruth
    dataset_name: str
    dataset_images: int

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.files)

    def __iter__(self) -> Iterator[SavedMaps]:
        """Yield the maps of each image; raise InputError if a file is damaged or does not fit the dataset."""
        for image_id, path in self.files.items():
            yield load_maps(path, self.sizes[image_id])

    def select(self, image_ids: Sequence[int]) -> SavedImages:
        """Return some of the images, in the given order."""
        return replace(
            self,
            files={image_id: self.files[image_id] for image_id in image_ids},
            sizes={image_id: self.sizes[image_id] for image_id in image_ids},
            ground_truth={image_id: self.ground_truth[image_id] for image_id in image_ids},
        )

    def describe(self) -> str:
        """Return a line with the number of images and the folders."""
        return f"{len(self):,} of the {self.dataset_images:,} images of {self.dataset_name} have maps in {self.folder}"


def open_saved_images(folder: Path, dataset: EvaluationDataset, limit: int | None = None) -> SavedImages:
    """Find the images of a dataset that have saved maps.

    Args:
        folder: folder with one file for each image.
        dataset: dataset of these images; the image files are not needed.
        limit: number of images, of the lowest image ids; default: all.

    Raises:
        InputError: the folder has no maps, or maps of another dataset or of an image that is not in the dataset.
    """
    files = find_map_files(folder)
    check_dataset(folder, identify(dataset))
    all_sizes = dict(zip(dataset.image_ids(), dataset.sizes(), strict=True))
    for image_id, path in files.items():
        if image_id not in all_sizes:
            raise InputError(f"{path}: image {image_id} is not in {dataset.name}; give the dataset of these maps")
    images = SavedImages(folder, files, all_sizes, dataset.ground_truth(), dataset.name, len(dataset))
    return images.select(list(files)[:limit])
