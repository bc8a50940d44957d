"""Train on a set of shards: python -m training.train --config FILE --shards DIR --out RUN."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.errors import reports_input_errors
from pipeline.quiet import quiet_mindspore


@click.command()
@click.option("--config", "recipe", type=click.Path(path_type=Path), required=True, help="Recipe, a YAML file.")
@click.option("--shards", type=click.Path(path_type=Path), required=True, help="Training set, made by pipeline.shards.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the run.")
@click.option("--set", "overrides", multiple=True, metavar="FIELD=VALUE", help="Override a field: training.lr=2e-4.")
@click.option("--resume", is_flag=True, help="Go on from the newest checkpoint in --out.")
@click.option("--device", type=click.Choice(["auto", "cpu", "ascend"]), default="auto", show_default=True)
@click.option("--nproc", type=click.IntRange(1, 1024), default=1, show_default=True, help="Processes, one a device.")
@reports_input_errors
def main(
    recipe: Path, shards: Path, out: Path, overrides: tuple[str, ...], resume: bool, device: str, nproc: int
) -> None:
    """Train the network of a recipe on a set of shards.

    Writes OUT/config.yaml, OUT/metrics.jsonl and OUT/checkpoints/. SIGINT or SIGTERM saves at the next step and ends;
    --resume goes on from there.
    """
    quiet_mindspore()
    from pipeline.manifest import Manifest
    from training.config import load_config

    config = load_config(recipe, overrides)
    Manifest.load(shards)
    if nproc > 1:
        from training.launch import launch, launched

        if not launched():
            raise SystemExit(launch(nproc, out))
    from training.run import train

    raise SystemExit(train(config, shards, out, resume=resume, device=device))


if __name__ == "__main__":
    main()
