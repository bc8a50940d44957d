"""Command-line options shared by several commands. It imports few modules, so that --help is fast."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

from training.distributed.hosts import DEFAULT_MASTER_PORT, resolve_cluster

device_option = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "ascend"]),
    default="auto",
    show_default=True,
    help="Device that runs the network; auto: Ascend if there is one, else CPU.",
)

_CLUSTER_OPTIONS = (
    click.option("--nproc", type=click.IntRange(1, 1024), default=1, show_default=True, help="Processes per machine."),
    click.option(
        "--hosts",
        default="1",
        show_default=True,
        help="Number of machines, or the names of all, machine 0 first.",
    ),
    click.option("--node-rank", type=int, help="Index of this machine in --hosts, from 0.  [names: found by address]"),
    click.option(
        "--master", metavar="ADDRESS", help="Address of machine 0 for the other machines.  [names: the first name]"
    ),
    click.option(
        "--master-port",
        type=click.IntRange(1024, 65535),
        default=DEFAULT_MASTER_PORT,
        show_default=True,
        help="Free port on machine 0.",
    ),
)


def cluster_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options for training on several machines to a command.

    The command receives them as one argument `cluster`, a `training.distributed.hosts.Cluster`. It raises InputError
    if the options contradict each other.
    """

    @functools.wraps(command)
    def wrapper(
        *args: Any,
        nproc: int,
        hosts: str,
        node_rank: int | None,
        master: str | None,
        master_port: int,
        **other_options: Any,
    ) -> Any:
        cluster = resolve_cluster(nproc, hosts, node_rank, master, master_port)
        return command(*args, cluster=cluster, **other_options)

    for option in reversed(_CLUSTER_OPTIONS):
        option(wrapper)
    return wrapper
