"""The machines that train together and the rank of this one, checked before any process starts."""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass

import psutil

from pipeline.errors import InputError

DEFAULT_MASTER_PORT = 8118
"""Default port of machine 0; msrun has the same default."""


@dataclass(frozen=True)
class Cluster:
    """The machines that train together.

    Attributes:
        processes_per_host: number of processes on each machine.
        hosts: number of machines.
        host_rank: rank of this machine. Machine 0 runs the scheduler, which connects all processes, and rank 0, which
            writes the run folder.
        master: IPv4 address of machine 0.
        port: port of the scheduler on machine 0; None for any free port, which is possible with one machine only.
    """

    processes_per_host: int
    hosts: int = 1
    host_rank: int = 0
    master: str = "127.0.0.1"
    port: int | None = None

    @property
    def world_size(self) -> int:
        """Number of processes on all machines."""
        return self.processes_per_host * self.hosts

    @property
    def local_ranks(self) -> range:
        """Ranks of the processes on this machine."""
        return range(self.host_rank * self.processes_per_host, (self.host_rank + 1) * self.processes_per_host)


def resolve_cluster(
    processes_per_host: int,
    hosts: str = "1",
    host_rank: int | None = None,
    master: str | None = None,
    port: int = DEFAULT_MASTER_PORT,
) -> Cluster:
    """Resolve the options `--nproc`, `--hosts`, `--node-rank`, `--master` and `--master-port`.

    Args:
        processes_per_host: number of processes on each machine.
        hosts: number of machines, or the names or addresses of all machines, machine 0 first. With names, `host_rank`
            and `master` are optional.
        host_rank: rank of this machine.
        master: name or address of machine 0.
        port: port of machine 0.

    Raises:
        InputError: an option is missing, out of range or names an unknown machine.
    """
    names = [name for name in re.split(r"[,\s]+", hosts.strip()) if name]
    has_names = len(names) > 1 or not hosts.strip().isdecimal()
    count = len(names) if has_names else int(hosts)
    if count < 1 or len(set(names)) < len(names):
        raise InputError(
            f"--hosts {hosts}: expected the number of machines or a distinct name for each, such as 2 or a,b"
        )
    if host_rank is not None and not 0 <= host_rank < count:
        raise InputError(f"--node-rank {host_rank}: expected 0 to {count - 1} with --hosts {hosts}")
    if count == 1:
        return Cluster(processes_per_host)
    if host_rank is None:
        host_rank = _find_host_rank(names) if has_names else None
    if host_rank is None:
        problem = f"this machine is not in --hosts {hosts}" if has_names else f"missing with --hosts {count}"
        raise InputError(f"--node-rank: {problem}; give the rank of this machine, 0 to {count - 1}")
    if not master and not has_names:
        raise InputError("--master: missing; give the address of machine 0 that the other machines can reach")
    return Cluster(processes_per_host, count, host_rank, _master_address(master or names[0], host_rank), port)


def _find_host_rank(names: list[str]) -> int | None:
    """Return the rank of this machine among `names`, or None."""
    own = _own_addresses() | {socket.gethostname()}
    for rank, name in enumerate(names):
        if name in own or _resolve_address(name) in own:
            return rank
    return None


def _own_addresses() -> set[str]:
    """Return the IPv4 addresses of this machine."""
    interfaces = psutil.net_if_addrs().values()
    return {address.address for addresses in interfaces for address in addresses if address.family == socket.AF_INET}


def _resolve_address(name: str) -> str:
    """Return the IPv4 address of a machine."""
    try:
        return socket.gethostbyname(name)
    except (OSError, UnicodeError):
        raise InputError(f"{name}: unknown host name; give its IPv4 address instead") from None


def _master_address(name: str, host_rank: int) -> str:
    """Return the address of machine 0. msrun on machine 0 requires that the address is one of this machine's."""
    address, own = _resolve_address(name), _own_addresses()
    if host_rank == 0 and address not in own:
        known = ", ".join(sorted(own))
        raise InputError(
            f"--master {name}: {address} is not an address of this machine, which is machine 0; it has {known}"
        )
    return address
