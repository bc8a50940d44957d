"""Train on a set of shards: python -m training.train --config FILE --shards DIR --out RUN."""

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
@click.option("--val", type=click.Path(path_type=Path), help="Validation set, scored every training.eval_every steps.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the run.")
@click.option("--set", "overrides", multiple=True, metavar="FIELD=VALUE", help="Override a field: training.lr=2e-4.")
@click.option("--init", type=click.Path(path_type=Path), help="Weights to begin with: a checkpoint, or a run's newest.")
@click.option(
    "--allow-missing", multiple=True, metavar="PART", help="Part that --init may leave random: features; repeatable."
)
@click.option("--resume", is_flag=True, help="Go on from the newest checkpoint in --out, if there is one.")
@click.option("--verify", is_flag=True, help="Hash every shard before anything starts, not only those that changed.")
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

    Writes OUT/config.yaml, OUT/metrics.jsonl, OUT/tensorboard/ and OUT/checkpoints/: those of the newest steps and, by
    AP on --val, best.ckpt. SIGINT or SIGTERM saves at the next step and ends; --resume goes on from there.

    Exit codes: 0 finished, or stopped by SIGTERM; 130 stopped by SIGINT; 2 something given is wrong; 3 the loss or the
    gradient is not finite. With several processes, that of the one that failed first, 128 + N if signal N killed it.
    """
    silence_mindspore()
    from pipeline.system.signals import StopSignal

    signals = StopSignal()  # before NumPy and MindSpore start threads
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
    evaluator = _evaluator(config, val, tell=not launched_by_msrun())
    if cluster.world_size > 1 and not launched_by_msrun():
        signals.start_watching("Stopping after the current step; a second signal kills all processes")
        raise SystemExit(launch(cluster, out, sys.argv[1:], signals))
    signals.start_watching()
    begin: dict[str, Any] = {"init": init, "allow_missing": allow_missing, "resume": resume}
    raise SystemExit(_train(config, shards, out, **begin, device=device, signals=signals, evaluator=evaluator))


def _train(
    config: Config,
    shards: Path,
    out: Path,
    *,
    init: Path | None,
    allow_missing: tuple[str, ...],
    resume: bool,
    **more: Any,
) -> int:
    """`training.loop.trainer.train`, whose errors of the disk become InputErrors; returns the exit code."""
    from training.loop.trainer import train
    from training.weights.initial_weights import InitialWeights

    again = [*sys.argv[1:], *([] if resume else ["--resume"])]
    command = shlex.join([sys.executable, "-m", "training.train", *again])
    try:
        start = InitialWeights(init, allow_missing) if init else None
        return train(config, shards, out, init=start, resume=resume, resume_command=command, **more)
    except OSError as error:
        raise InputError(f"{error.filename or out}: {error.strerror or error}") from error


def _evaluator(config: Config, val: Path | None, tell: bool) -> Evaluator | None:
    """What scores the network on its way, if anything; InputError where the validation set is no use.

    This command is where training and evaluation are put together: nothing else in training imports evaluation.
    """
    if config.training.eval_every is None:
        return None
    if val is None:
        if tell:
            click.echo("Warning: training.eval_every: nothing to evaluate on; give a set with --val", err=True)
        return None
    from evaluation.during_training import CocoEvaluator

    return CocoEvaluator(config, val)


if __name__ == "__main__":
    main()
