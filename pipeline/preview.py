"""Draw training samples with their targets: `python -m pipeline.preview SHARDS --out sheet.png`."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.errors import InputError, reports_input_errors
from pipeline.visualization.contact_sheet import contact_sheet


@click.command(context_settings={"show_default": True})
@click.argument("shards", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="Image to write, PNG.")
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, help="Random seed of order and augmentations.")
@click.option("--epoch", type=click.IntRange(0), default=0, help="Epoch, from 0; each has other augmentations.")
@click.option("--count", type=click.IntRange(1, 200), default=8, help="Number of samples.")
@click.option("--columns", type=click.IntRange(1, 10), default=1, help="Number of samples side by side.")
@click.option(
    "--size", type=click.IntRange(64, 2048), default=368, help="Side of the network's input in px, a multiple of 8."
)
@click.option("--no-augment", is_flag=True, help="Fit whole images, as for the validation loss.")
@reports_input_errors
def main(
    shards: Path, out: Path, *, seed: int, epoch: int, count: int, columns: int, size: int, no_augment: bool
) -> None:
    """Draw augmented samples of the set SHARDS, with their people, targets and ignore masks, into one image."""
    import cv2

    from pipeline.loading.augment import AugmentConfig
    from pipeline.loading.batches import create_batches
    from pipeline.loading.targets import TargetConfig
    from pipeline.storage.manifest import Manifest

    if out.suffix.lower() != ".png":
        raise InputError(f"--out {out}: expected a file name that ends in .png")
    manifest = Manifest.load(shards, hash_modified=True)
    if not manifest.records:
        raise InputError(f"{shards}: the set has no images")
    batches = create_batches(
        shards,
        size=size,
        batch_size=min(count, manifest.records),
        max_people=max(1, manifest.max_people),
        seed=seed,
        epoch=epoch,
        augment=None if no_augment else AugmentConfig.for_size(size),
        targets=TargetConfig(),
    )
    batch = next(iter(batches))
    sheet = contact_sheet(batch, columns)
    out.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(out), sheet):
        raise InputError(f"--out {out}: cannot write the file")
    click.echo(f"{len(batch['image_id'])} samples in {out}")


if __name__ == "__main__":
    main()
