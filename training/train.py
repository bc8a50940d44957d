"""Train a network on shards: python -m training.train --config FILE --shards DIR --out RUN."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.errors import InputError, reports_input_errors
from pipeline.system.log_filters import silence_mindspore
from training.options import cluster_options, device_option

if TYPE_CHECKING:
    from training.config import Config
    from training.distributed.hosts import Cluster
    from training.loop.validation import Evaluator


@click.command()
@click.option(
    "--config",
    "recipe",
    type=click.Path(path_type=Path),
    required=True,
    help="Recipe: a YAML file, or the name of a shipped one, such as demo.",
)
@click.option("--shards", type=click.Path(path_type=Path), required=True, help="Training set, made by pipeline.shards.")
@click.option(
    "--val", type=click.Path(path_type=Path), help="Validation set, evaluated every training.eval_every steps."
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the run.")
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="FIELD=VALUE",
    help="Override a field of the recipe, e.g. training.lr=2e-4.",
)
@click.option(
    "--init", type=click.Path(path_type=Path), help="Initial weights: a checkpoint, or a run folder (its newest)."
)
@click.option(
    "--allow-missing",
    multiple=True,
    metavar="PART",
    help="Part of the network, e.g. features, that --init may lack; repeatable.",
)
@click.option("--resume", is_flag=True, help="Resume from the newest checkpoint in --out, if there is one.")
@click.option("--verify", is_flag=True, help="Verify the hashes of all shards first, not only of modified ones.")
@device_option
@reports_input_errors
@cluster_options
def main(
    recipe: Path,
    shards: Path,
    val: Path | None,
    out: Path,
    overrides: tuple[str, ...],
    init: Path | None,
    allow_missing: tuple[str, ...],
    resume: bool,
    verify: bool,
    device: str,
    cluster: Cluster,
) -> None:
    """Train the network of a recipe on a set of shards.

    Writes OUT/config.yaml, OUT/metrics.jsonl, OUT/run.json, OUT/tensorboard/ and, in OUT/checkpoints/, the newest
    checkpoints and best.ckpt, the one with the highest AP on --val. On SIGINT or SIGTERM, the command saves a
    checkpoint after the current step and ends; continue with --resume.

    Exit codes: 0 finished, or stopped by SIGTERM; 130 stopped by SIGINT; 2 invalid input; 3 the loss or the gradients
    are not finite. With several processes, the code of the one that failed first, 128 + N if signal N killed it.
    """
    silence_mindspore()
    from pipeline.system.signals import StopSignal

    signals = StopSignal()  # before NumPy and MindSpore start threads, which inherit the blocked signals
    from pipeline.storage.manifest import Manifest
    from training.checkpoint.run_folder import check_init_options, check_run_folder, list_checkpoints
    from training.distributed.environment import launched_by_msrun
    from training.distributed.launcher import exit_with_launcher, launch
    from training.loop.plan import plan_run
    from training.recipes import find_recipe, load_config

    if launched_by_msrun():
        exit_with_launcher(cluster)
    config = load_config(find_recipe(recipe), overrides)
    if not launched_by_msrun():
        plan_run(config, Manifest.load(shards, hash_all=verify, hash_modified=True).records, cluster.world_size)
        check_run_folder(out, resume)
        check_init_options(init, allow_missing, resuming=resume and bool(list_checkpoints(out)))
    evaluator = _create_evaluator(config, val, warn=not launched_by_msrun())
    if cluster.world_size > 1 and not launched_by_msrun():
        signals.start_watching("Stopping after the current step; a second signal kills all processes")
        raise SystemExit(launch(cluster, out, sys.argv[1:], signals))
    signals.start_watching()
    start: dict[str, Any] = {"init": init, "allow_missing": allow_missing, "resume": resume}
    raise SystemExit(_train(config, shards, out, **start, device=device, signals=signals, evaluator=evaluator))


def _train(
    config: Config,
    shards: Path,
    out: Path,
    *,
    init: Path | None,
    allow_missing: tuple[str, ...],
    resume: bool,
    **options: Any,
) -> int:
    """Run `training.loop.trainer.train` and return the exit code; operating system errors become InputErrors."""
    from training.loop.trainer import train
    from training.weights.initial_weights import InitialWeights

    arguments = [*sys.argv[1:], *([] if resume else ["--resume"])]
    resume_command = shlex.join([sys.executable, "-m", "training.train", *arguments])
    try:
        weights = InitialWeights(init, allow_missing) if init else None
        return train(config, shards, out, init=weights, resume=resume, resume_command=resume_command, **options)
    except OSError as error:
        raise InputError(f"{error.filename or out}: {error.strerror or error}") from error


def _create_evaluator(config: Config, val: Path | None, warn: bool) -> Evaluator | None:
    """Return the evaluator of a run, or None without evaluation; InputError if the validation set cannot be used.

    This command connects training and evaluation; no other module of training imports evaluation.
    """
    if config.training.eval_every is None:
        return None
    if val is None:
        if warn:
            click.echo(
                "Warning: training.eval_every is set, but there is no validation set; give one with --val", err=True
            )
        return None
    from evaluation.during_training import CocoEvaluator

    return CocoEvaluator(config, val)


if __name__ == "__main__":
    main()
