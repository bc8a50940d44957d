"""Search the decoder's settings on saved maps, without running a network: python -m evaluation.tune --help."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from evaluation.evaluate import open_dataset
from evaluation.options import parse_names, settings_options
from evaluation.oracle import decoder_settings
from pipeline.errors import InputError, reports_input_errors
from pipeline.system.cpu import usable_cores

if TYPE_CHECKING:
    from evaluation.decoder_bench.saved_images import SavedImages
    from evaluation.decoder_bench.tuning import Tuning

_PATH = click.Path(path_type=Path)

TIMED_IMAGES = 200
"""Maximum number of images that are decoded again to measure the duration."""


@click.command()
@click.option("--maps", "folder", type=_PATH, required=True, help="Maps, as for evaluation.oracle, of training images.")
@click.option("--shards", type=_PATH, help="Ground truth: a dataset written by pipeline.shards.")
@click.option("--coco", type=_PATH, help="Ground truth: a COCO folder, instead of --shards; images are not needed.")
@click.option("--split", default="train2017", show_default=True, help="Split of the COCO folder.")
@click.option("--out", type=_PATH, required=True, help="Folder for the settings and for the scores of all trials.")
@click.option("--limit", type=click.IntRange(1), help="Use only the maps of this many images.")
@click.option(
    "--fields", callback=parse_names, metavar="NAME,…", help="Fields to search.  [default: all in the search]"
)
@click.option("--rounds", type=click.IntRange(1, 100), default=4, show_default=True, help="Rounds of a search.")
@click.option("--candidates", type=click.IntRange(4, 1000), default=32, show_default=True, help="Settings in a round.")
@click.option(
    "--folds", type=click.IntRange(2, 50), default=5, show_default=True, help="Folds of the cross-validation."
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Random seed of search and folds.")
@click.option("--workers", type=click.IntRange(1), help="Worker processes.  [default: one per CPU core]")
@reports_input_errors
@settings_options
def main(
    folder: Path,
    shards: Path | None,
    coco: Path | None,
    split: str,
    out: Path,
    limit: int | None,
    fields: tuple[str, ...],
    rounds: int,
    candidates: int,
    folds: int,
    seed: int,
    workers: int | None,
    overrides: tuple[str, ...],
) -> None:
    """Search the settings of the decoder with the highest AP on saved maps.

    Write the maps with evaluation.evaluate --save-maps, of images of a training split: settings that were chosen on
    validation images have no honest AP on them. In each round, the best settings are changed at random; the worse
    half of the new ones is dropped after a quarter of the images. The gain is measured by cross-validation: each fold
    is decoded with settings that were found on the other folds. Settings without a gain above noise are no better than
    the defaults.

    It starts from the settings of --config and --set, else from the defaults. An interrupted search goes on with the
    same command.
    """
    from tqdm import tqdm

    from evaluation.decoder_bench.saved_images import open_saved_images
    from evaluation.decoder_bench.search import Plan
    from evaluation.decoder_bench.search_space import select_fields
    from evaluation.decoder_bench.trials import Trials, split_into_chunks
    from evaluation.decoder_bench.tuning import expected_scores, tune

    *_, base = decoder_settings(overrides).values()
    space = select_fields(fields)
    images = open_saved_images(folder, open_dataset(shards, coco, split), limit)
    click.echo(images.describe())
    chunks = split_into_chunks(images, folds, seed)
    trials = Trials.open(out / "trials.jsonl", chunks)
    plan = Plan(rounds, candidates, seed)
    with tqdm(total=expected_scores(plan, len(chunks), folds), unit="trial", desc="tune", disable=None) as progress:
        try:
            tuning = tune(trials, base, space, plan, folds, workers or usable_cores(), progress.update)
        except KeyboardInterrupt:
            raise click.ClickException(f"interrupted; the same command goes on from {trials.file}") from None
        progress.total = progress.n  # the number of trials was an estimate
    _report(tuning, images, out)


def _report(tuning: Tuning, images: SavedImages, out: Path) -> None:
    """Print the result, and write the settings and all numbers to `out`."""
    from evaluation.decoder.decode import DecodeConfig
    from evaluation.decoder_bench.search_space import changed_fields

    durations = _measure(tuning, images)
    click.echo(f"{'settings':9}  {'AP, same images':>15}  {'AP, held out':>12}  {'median ms':>9}")
    rows = (("start", tuning.base_ap, tuning.base_ap), ("found", tuning.best_ap, tuning.held_out_ap))
    for (name, ap, held_out), duration in zip(rows, durations, strict=True):
        click.echo(f"{name:9}  {ap:15.4f}  {held_out:12.4f}  {duration:9.2f}")
    click.echo(f"held-out gain: {tuning.gain}")
    for name, loss in tuning.loss_if_set_back.items():
        before, after = getattr(tuning.base, name), getattr(tuning.best, name)
        click.echo(f"  {name}: {before} -> {after}; set back, it loses {loss:.4f} AP on the same images")
    settings = changed_fields(tuning.best, DecodeConfig())
    if not tuning.gain.above_noise:
        click.echo("No gain above noise: keep the settings from which the search started.")
    elif settings:
        click.echo(" ".join(f"--set evaluation.decoder.{name}={value}" for name, value in settings.items()))
    _write(out, tuning, settings)


def _measure(tuning: Tuning, images: SavedImages) -> list[float]:
    """Return the median duration in ms of decoding with the settings at the start and those found."""
    from evaluation.decoder_bench.compare import decode_with_each
    from evaluation.saved_maps.perturbation import Perturbation

    some = images.select(list(images.files)[:TIMED_IMAGES])
    decoded = decode_with_each(some, [tuning.base, tuning.best], Perturbation())
    return [one.timing()["median"] for one in decoded]


def _write(out: Path, tuning: Tuning, settings: Mapping[str, Any]) -> None:
    import yaml

    from pipeline.system.files import write_atomically

    recipe = f"# found by evaluation.tune; held-out gain {tuning.gain}\n"
    recipe += yaml.safe_dump({"evaluation": {"decoder": dict(settings)}}, sort_keys=False)
    try:
        write_atomically(out / "decoder.yaml", recipe)
        write_atomically(out / "tune.json", json.dumps(tuning.to_json(), indent=1) + "\n")
    except OSError as error:
        raise InputError(f"{out}: cannot be written: {error.strerror}") from error
    click.echo(f"{out / 'decoder.yaml'}: the settings, for --config of evaluation.evaluate, predict and oracle")
    click.echo(f"{out / 'tune.json'}: all numbers")


if __name__ == "__main__":
    main()
