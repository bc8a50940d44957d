"""Train on ModelArts: python -m training.modelarts --data_url LOCATION --train_url LOCATION.

ModelArts starts one process on each host; a location is a URL of its object store or a mounted folder. Data in the
object store is downloaded, and a COCO folder is converted to shards. `training.train` then trains with one process for
each device. The run folder is uploaded with every new checkpoint and when training ends, with or without an error. A
new job with the same --train_url resumes the run.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

if not __package__:  # ModelArts runs this file, its boot file, by path instead of with -m
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import click

from pipeline.errors import InputError, reports_input_errors
from training.cloud.modelarts_environment import device_count, host_options
from training.options import device_option

ROOT = Path(__file__).resolve().parent.parent
POLLING_INTERVAL = 2.0
"""Seconds between checks for new checkpoints."""
PLATFORM_VARIABLES = ("RANK_TABLE_FILE", "RANK_ID", "RANK_SIZE")
"""Variables that ModelArts sets for one process per device. They are removed, because msrun sets its own."""


def find_or_build_shards(data: Path, built: Path, splits: tuple[str, str]) -> tuple[Path, Path | None]:
    """Find the shards of a data folder, or build them if it is a COCO folder.

    Args:
        data: a set of shards, a folder with the sets train/ and val/, or a COCO folder.
        built: folder for the sets that are built.
        splits: COCO splits for training and validation.

    Returns:
        Folders of the training set and the validation set; None if there is no validation set.

    Raises:
        InputError: `data` is none of these, or the shards cannot be built.
    """
    from pipeline.storage.manifest import FILE_NAME

    if (data / FILE_NAME).is_file():
        return data, None
    if (data / "train" / FILE_NAME).is_file():
        return data / "train", data / "val" if (data / "val" / FILE_NAME).is_file() else None
    return _build_shards(data, built, splits)


def _build_shards(data: Path, built: Path, splits: tuple[str, str]) -> tuple[Path, Path | None]:
    from pipeline.annotations.coco import annotation_file
    from pipeline.build.build_set import build
    from pipeline.build.plan import BuildOptions
    from pipeline.system.cpu import default_workers

    if not annotation_file(data, splits[0]).is_file():
        raise InputError(
            f"{data}: expected shards (manifest.json, or train/ and val/ with one each) or a COCO folder with "
            f"{annotation_file(data, splits[0]).relative_to(data)}; use --train_split for another split"
        )
    sets: list[Path | None] = [None, None]
    for index, name in enumerate(("train", "val")):
        if annotation_file(data, splits[index]).is_file():
            options = BuildOptions(keep_empty=name == "val")
            build([(data, splits[index])], built / name, options, workers=default_workers(), announce=_print_status)
            sets[index] = built / name
    train, val = sets
    assert train is not None
    return train, val


def run_trainer(arguments: Sequence[str], poll: Callable[[], object]) -> int:
    """Run training.train and forward SIGINT and SIGTERM to it.

    Args:
        arguments: command-line arguments of training.train.
        poll: function to call every POLLING_INTERVAL seconds.

    Returns:
        Exit code of training.train; 128 + number if a signal killed it.
    """
    command = [sys.executable, "-m", "training.train", *arguments]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {name: value for name, value in os.environ.items() if name not in PLATFORM_VARIABLES}
    # The trainer gets its own session; otherwise Ctrl-C would reach it twice, from the terminal and from the handler.
    trainer = subprocess.Popen(command, env=environment | {"PYTHONPATH": path}, start_new_session=True)
    previous_handlers = {
        number: signal.signal(number, lambda number, _: trainer.send_signal(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        while True:
            try:
                code = trainer.wait(POLLING_INTERVAL)
                return code if code >= 0 else 128 - code
            except subprocess.TimeoutExpired:
                poll()
    finally:
        for number, handler in previous_handlers.items():
            signal.signal(number, handler)


def _local_folder(location: str, copy: Path, *, may_be_missing: bool = False) -> Path:
    """Return a local folder as it is; download a folder of the object store to `copy`."""
    from training.cloud.object_store import download, is_url, object_store_api

    if not is_url(location):
        return Path(location)
    copy.mkdir(parents=True, exist_ok=True)
    if not may_be_missing or object_store_api(location).exists(location):
        download(location, copy)
    return copy


def _local_file(location: str, folder: Path) -> Path:
    """Return a local file as it is; download a file of the object store into `folder`."""
    from training.cloud.object_store import download, is_url

    if not is_url(location):
        return Path(location)
    folder.mkdir(parents=True, exist_ok=True)
    copy = folder / location.rpartition("/")[2]
    download(location, copy, file=True)
    return copy


def _repeat_option(name: str, *values: object) -> list[object]:
    """Return the option once for each value that is not None."""
    return [argument for value in values if value is not None for argument in (name, value)]


def _print_status(line: str) -> None:
    click.echo(line, err=True)


def _train_and_upload(arguments: Sequence[str], run: Path, url: str) -> int:
    """Run training.train; upload the run folder with each new checkpoint and at the end.

    Returns:
        Exit code of training.train; 1 if only the last upload failed.
    """
    from training.checkpoint.run_folder import list_checkpoints
    from training.cloud.object_store import FolderMirror

    mirror = FolderMirror(run, url)
    known = list_checkpoints(run)

    def upload_new_checkpoints() -> None:
        nonlocal known
        if (found := list_checkpoints(run)) != known:
            known = found
            for error in mirror.sync():
                _print_status(f"Warning: {error}; will be retried with the next checkpoint")

    code = run_trainer(arguments, upload_new_checkpoints)
    errors = mirror.sync()
    for error in errors:
        _print_status(f"Error: {error}")
    return code or bool(errors)


@click.command(context_settings={"ignore_unknown_options": True, "show_default": True})
@click.option("--data_url", required=True, help="Shards or a COCO folder: obs://… or a local folder.")
@click.option("--train_url", required=True, help="Run folder, resumed if it exists: obs://… or a local folder.")
@click.option(
    "--config",
    "recipe",
    type=click.Path(path_type=Path),
    help="Recipe.  [default: openpose; openpose_8p for several devices]",
)
@click.option("--init", help="Initial weights of a new run: obs://… or a local file.")
@click.option(
    "--allow_missing", multiple=True, metavar="PART", help="Part that may stay random with --init; repeatable."
)
@click.option("--nproc", type=click.IntRange(1, 1024), help="Devices on each host.  [default: from ModelArts, else 1]")
@click.option("--train_split", default="train2017", help="COCO split for training.")
@click.option("--val_split", default="val2017", help="COCO split for evaluation during training.")
@click.option("--set", "overrides", multiple=True, metavar="FIELD=VALUE", help="Override a field: training.lr=2e-4.")
@click.option(
    "--cache", type=click.Path(path_type=Path), default="/cache", help="Folder for downloads and built shards."
)
@device_option
@click.argument("unknown", nargs=-1, type=click.UNPROCESSED)
@reports_input_errors
def main(
    data_url: str,
    train_url: str,
    recipe: Path | None,
    init: str | None,
    allow_missing: tuple[str, ...],
    nproc: int | None,
    train_split: str,
    val_split: str,
    overrides: tuple[str, ...],
    cache: Path,
    device: str,
    unknown: tuple[str, ...],
) -> None:
    """Train on ModelArts, or on any machine with the options of ModelArts.

    Unknown options are printed and ignored, because ModelArts adds some. Hosts are read from VC_WORKER_HOSTS and
    VC_TASK_INDEX, devices from MA_NUM_GPUS, DEVICE_NUM or RANK_SIZE. The exit codes are those of training.train.
    """
    from training.cloud.object_store import is_url
    from training.recipes import recipe_path

    if unknown:
        _print_status(f"Ignored unknown options: {' '.join(unknown)}")
    hosts = host_options(os.environ)
    nproc = nproc or device_count(os.environ, hosts[1].count(",") + 1 if hosts else 1)
    rank = os.environ.get("RANK_ID", "0")
    if rank.isdecimal() and int(rank) % nproc:
        _print_status(
            f"Process with RANK_ID={rank} exits: the first process of this host starts training on all devices"
        )
        return
    try:
        data = _local_folder(data_url, cache / "data")
        run = _local_folder(train_url, cache / "run", may_be_missing=True)
        train, val = find_or_build_shards(data, cache / "shards", (train_split, val_split))
        weights = _local_file(init, cache / "init") if init else None
    except OSError as error:
        raise InputError(f"{error.filename or cache}: {error.strerror or error}") from error
    recipe = recipe or recipe_path("openpose" if nproc == 1 and not hosts else "openpose_8p")
    arguments = ["--config", recipe, "--shards", train, *_repeat_option("--val", val), "--out", run, "--resume"]
    arguments += ["--nproc", nproc, *hosts, "--device", device, *_repeat_option("--set", *overrides)]
    arguments += [*_repeat_option("--init", weights), *_repeat_option("--allow-missing", *allow_missing)]
    command_line = [str(argument) for argument in arguments]
    if is_url(train_url):
        raise SystemExit(_train_and_upload(command_line, run, train_url))
    raise SystemExit(run_trainer(command_line, lambda: None))


if __name__ == "__main__":
    main()
