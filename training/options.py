"""Command-line options that several commands share, or that belong together. Imports little: --help is quick."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

from training.distributed.hosts import DEFAULT_MASTER_PORT, resolve_cluster

device_option = click.option(
    "--device", type=click.Choice(["auto", "cpu", "ascend"]), default="auto", show_default=True
)
"""Where the network runs, as `training.distributed.world.init_world` takes it."""

_CLUSTER_OPTIONS = (
    click.option("--nproc", type=click.IntRange(1, 1024), default=1, show_default=True, help="Processes on a machine."),
    click.option("--hosts", default="1", show_default=True, help="Machines: how many, or the names of all, 0 first."),
    click.option("--node-rank", type=int, help="Which of --hosts this is, from 0.  [names: found by address]"),
    click.option("--master", metavar="ADDRESS", help="Of machine 0, as the others reach it.  [names: the first]"),
    click.option(
        "--master-port",
        type=click.IntRange(1024, 65535),
        default=DEFAULT_MASTER_PORT,
        show_default=True,
        help="Of machine 0.",
    ),
)


def cluster_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options for several machines; the command receives `cluster`, a `training.distributed.hosts.Cluster`.

    InputError if they do not fit together.
    """

    @functools.wraps(command)
    def wrapper(
        *args: Any, nproc: int, hosts: str, node_rank: int | None, master: str | None, master_port: int, **others: Any
    ) -> Any:
        return command(*args, cluster=resolve_cluster(nproc, hosts, node_rank, master, master_port), **others)

    for option in reversed(_CLUSTER_OPTIONS):
        option(wrapper)
    return wrapper
