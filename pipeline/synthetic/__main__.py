"""Command line of the synthetic dataset."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.errors import reports_input_errors
from pipeline.synthetic.dataset import MOST_PICTURES, generate


@click.command()
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Folder to write; made whole or not at all."
)
@click.option(
    "--train", type=click.IntRange(0, MOST_PICTURES), default=3000, show_default=True, help="Training pictures."
)
@click.option("--val", type=click.IntRange(0, MOST_PICTURES), default=200, show_default=True, help="Held-out pictures.")
@click.option("--size", type=click.IntRange(32, 4096), default=256, show_default=True, help="Longer side in px.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Same seed, same bytes.")
@click.option("--workers", type=click.IntRange(1), default=None, help="Processes; one a core if not given.")
@click.option("--pictures/--no-pictures", default=True, show_default=True, help="Or the annotations alone.")
@reports_input_errors
def main(*, out: Path, train: int, val: int, size: int, seed: int, workers: int | None, pictures: bool) -> None:
    """Make a dataset of synthetic people in COCO's layout: annotations/, train2017/ and val2017/ in one folder."""
    made = generate(out, train=train, val=val, size=size, seed=seed, workers=workers, pictures=pictures)
    what = f"{train} training and {val} held-out pictures of synthetic people"
    click.echo(f"{out}: {what}" if made else f"{out}: {what} are there already and unchanged; nothing to do")


if __name__ == "__main__":
    main()
