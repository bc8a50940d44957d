"""Train on ModelArts: python -m training.modelarts --data_url PLACE --train_url PLACE.

ModelArts starts one process on each machine, with places in its object store or folders that it has mounted. What lies
in the store is copied here, made into shards if it is COCO, and trained on by `training.train`, one process a device.
The run is copied back with every new checkpoint and at the end, however that comes about; a job that is started again
with the same --train_url goes on from there.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

if not __package__:  # as a boot file, which ModelArts runs by its path
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import click

from pipeline.errors import InputError, reports_input_errors
from training.cloud.modelarts_environment import device_count, host_options
from training.options import device_option
from training.recipes import recipe_path

ROOT = Path(__file__).resolve().parent.parent
LOOK = 2.0
"""s between looks for new checkpoints."""
PLATFORM = ("RANK_TABLE_FILE", "RANK_ID", "RANK_SIZE")
"""What the platform sets for processes that it starts on each device itself; msrun sets its own."""


def find_shards(data: Path, built: Path, splits: tuple[str, str]) -> tuple[Path, Path | None]:
    """The training set and, where there is one, the validation set; built of COCO where `data` holds no shards.

    Args:
        data: a set of shards, a folder with the sets train/ and val/, or a COCO folder.
        built: folder for the sets that are built.
        splits: of COCO, for training and validation.

    Raises:
        InputError: it is none of these, or cannot be built of.
    """
    from pipeline.storage.manifest import FILE_NAME

    if (data / FILE_NAME).is_file():
        return data, None
    if (data / "train" / FILE_NAME).is_file():
        return data / "train", data / "val" if (data / "val" / FILE_NAME).is_file() else None
    return _build(data, built, splits)


def _build(data: Path, built: Path, splits: tuple[str, str]) -> tuple[Path, Path | None]:
    from pipeline.annotations.coco import annotation_file
    from pipeline.build.build_set import build
    from pipeline.build.plan import BuildOptions
    from pipeline.system.cpu import default_workers

    if not annotation_file(data, splits[0]).is_file():
        raise InputError(
            f"{data}: expected shards (manifest.json, or train/ and val/ with one each) or a COCO folder with "
            f"{annotation_file(data, splits[0]).relative_to(data)}; --train_split names another split"
        )
    sets: list[Path | None] = [None, None]
    for index, name in enumerate(("train", "val")):
        if annotation_file(data, splits[index]).is_file():
            options = BuildOptions(keep_empty=name == "val")
            build([(data, splits[index])], built / name, options, workers=default_workers(), announce=_say)
            sets[index] = built / name
    train, val = sets
    assert train is not None
    return train, val


def run_trainer(arguments: Sequence[str], new: Callable[[], object]) -> int:
    """Run training.train, call `new` every now and then, pass SIGINT and SIGTERM on; returns its exit code."""
    command = [sys.executable, "-m", "training.train", *arguments]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {name: value for name, value in os.environ.items() if name not in PLATFORM}
    # in a session of its own: Ctrl-C would reach it twice
    trainer = subprocess.Popen(command, env=environment | {"PYTHONPATH": path}, start_new_session=True)
    before = {
        number: signal.signal(number, lambda number, _: trainer.send_signal(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        while True:
            try:
                code = trainer.wait(LOOK)
                return code if code >= 0 else 128 - code
            except subprocess.TimeoutExpired:
                new()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _bring(place: str, copy: Path, *, new: bool = False) -> Path:
    """A folder of this machine, or the copy of one of the store; `new` says that it need not be there yet."""
    from training.cloud.object_store import download, is_url, object_store_api

    if not is_url(place):
        return Path(place)
    copy.mkdir(parents=True, exist_ok=True)
    if not new or object_store_api(place).exists(place):
        download(place, copy)
    return copy


def _bring_file(place: str, folder: Path) -> Path:
    """A file of this machine, or the copy of one of the store, under its name in `folder`."""
    from training.cloud.object_store import download, is_url

    if not is_url(place):
        return Path(place)
    folder.mkdir(parents=True, exist_ok=True)
    copy = folder / place.rpartition("/")[2]
    download(place, copy, file=True)
    return copy


def _options(name: str, *values: object) -> list[object]:
    """An option once for each value that is there."""
    return [word for value in values if value is not None for word in (name, value)]


def _say(line: str) -> None:
    click.echo(line, err=True)


def _train_and_send(arguments: Sequence[str], run: Path, url: str) -> int:
    """Run the trainer on a run that is copied to the store with each checkpoint and at the end; the exit code."""
    from training.checkpoint.run_folder import list_checkpoints
    from training.cloud.object_store import FolderMirror

    mirror = FolderMirror(run, url)
    known = list_checkpoints(run)

    def send_new() -> None:
        nonlocal known
        if (found := list_checkpoints(run)) != known:
            known = found
            for problem in mirror.sync():
                _say(f"Warning: {problem}; it is tried again")

    code = run_trainer(arguments, send_new)
    failed = mirror.sync()
    for problem in failed:
        _say(f"Error: {problem}")
    return code or bool(failed)


@click.command(context_settings={"ignore_unknown_options": True, "show_default": True})
@click.option("--data_url", required=True, help="Shards, or a COCO folder: obs://… or a folder here.")
@click.option("--train_url", required=True, help="Where the run is kept, and gone on from: obs://… or a folder here.")
@click.option("--config", "recipe", type=click.Path(path_type=Path), help="Recipe.  [default: for so many devices]")
@click.option("--init", help="Weights that a new run begins with: a file, obs://… or here.")
@click.option("--allow_missing", multiple=True, metavar="PART", help="Part that --init may leave random; repeatable.")
@click.option("--nproc", type=click.IntRange(1, 1024), help="Devices of a machine.  [default: as ModelArts says, or 1]")
@click.option("--train_split", default="train2017", help="Of a COCO folder, for training.")
@click.option("--val_split", default="val2017", help="Of a COCO folder, for evaluation during training.")
@click.option("--set", "overrides", multiple=True, metavar="FIELD=VALUE", help="Override a field: training.lr=2e-4.")
@click.option("--cache", type=click.Path(path_type=Path), default="/cache", help="Folder for copies and built shards.")
@device_option
@click.argument("others", nargs=-1, type=click.UNPROCESSED)
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
    others: tuple[str, ...],
) -> None:
    """Train on ModelArts, or as there.

    Options that are unknown here are told and left alone: ModelArts adds some of its own. Several machines are found by
    VC_WORKER_HOSTS and VC_TASK_INDEX, devices by MA_NUM_GPUS, DEVICE_NUM or RANK_SIZE. Exit codes as training.train.
    """
    from training.cloud.object_store import is_url

    if others:
        _say(f"Left alone: {' '.join(others)}")
    machines = host_options(os.environ)
    nproc = nproc or device_count(os.environ, machines[1].count(",") + 1 if machines else 1)
    rank = os.environ.get("RANK_ID", "0")
    if rank.isdecimal() and int(rank) % nproc:
        _say(f"Process {rank} of this machine leaves: the first one starts all")
        return
    try:
        data, run = _bring(data_url, cache / "data"), _bring(train_url, cache / "run", new=True)
        train, val = find_shards(data, cache / "shards", (train_split, val_split))
        weights = _bring_file(init, cache / "init") if init else None
    except OSError as error:
        raise InputError(f"{error.filename or cache}: {error.strerror or error}") from error
    recipe = recipe or recipe_path("openpose" if nproc == 1 and not machines else "openpose_8p")
    arguments = ["--config", recipe, "--shards", train, *_options("--val", val), "--out", run, "--resume"]
    arguments += ["--nproc", nproc, *machines, "--device", device, *_options("--set", *overrides)]
    arguments += [*_options("--init", weights), *_options("--allow-missing", *allow_missing)]
    words = [str(word) for word in arguments]
    raise SystemExit(_train_and_send(words, run, train_url) if is_url(train_url) else run_trainer(words, lambda: None))


if __name__ == "__main__":
    main()
