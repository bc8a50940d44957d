"""Command line of the synthetic dataset."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.errors import reports_input_errors
from pipeline.synthetic.dataset import MAX_PICTURES, generate


@click.command()
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Output folder; created only when complete."
)
@click.option("--train", type=click.IntRange(0, MAX_PICTURES), default=3000, show_default=True, help="Training images.")
@click.option("--val", type=click.IntRange(0, MAX_PICTURES), default=200, show_default=True, help="Held-out images.")
@click.option("--size", type=click.IntRange(32, 4096), default=256, show_default=True, help="Longer image side in px.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Random seed.")
@click.option("--workers", type=click.IntRange(1), default=None, help="Worker processes; default: one per CPU core.")
@click.option("--pictures/--no-pictures", default=True, show_default=True, help="Write images, or only annotations.")
@reports_input_errors
def main(*, out: Path, train: int, val: int, size: int, seed: int, workers: int | None, pictures: bool) -> None:
    """Generate a dataset of synthetic people in COCO's layout: annotations/, train2017/ and val2017/ in one folder."""
    generated = generate(out, train=train, val=val, size=size, seed=seed, workers=workers, pictures=pictures)
    content = f"{train} training and {val} held-out pictures of synthetic people"
    click.echo(f"{out}: {content}" if generated else f"{out}: {content} already exist and are unchanged; nothing to do")


if __name__ == "__main__":
    main()
