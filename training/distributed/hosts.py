"""Which machines train together, and which of them this one is; checked before anything starts."""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass

import psutil

from pipeline.errors import InputError

DEFAULT_MASTER_PORT = 8118
"""Of machine 0, where nobody says: the one that msrun takes."""


@dataclass(frozen=True)
class Cluster:
    """The machines that train together.

    Attributes:
        processes: on each of them.
        hosts: how many machines.
        rank: which of them this is; machine 0 brings all processes together and keeps the run.
        master: IPv4 address of machine 0.
        port: of machine 0; None for any that is free, where there is one machine.
    """

    processes_per_host: int
    hosts: int = 1
    host_rank: int = 0
    master: str = "127.0.0.1"
    port: int | None = None

    @property
    def world_size(self) -> int:
        """Processes on all machines."""
        return self.processes_per_host * self.hosts

    @property
    def local_ranks(self) -> range:
        """Ranks of the processes on this machine."""
        return range(self.host_rank * self.processes_per_host, (self.host_rank + 1) * self.processes_per_host)


def resolve_cluster(
    processes: int,
    hosts: str = "1",
    rank: int | None = None,
    master: str | None = None,
    port: int = DEFAULT_MASTER_PORT,
) -> Cluster:
    """Settle which machines there are.

    Args:
        processes: on each machine.
        hosts: their number, or their names or addresses, machine 0 first; names also give `rank` and `master`.
        rank: which of them this is.
        master: name or address of machine 0.
        port: of machine 0.

    Raises:
        InputError: something is missing, out of range or unknown.
    """
    names = [name for name in re.split(r"[,\s]+", hosts.strip()) if name]
    named = len(names) > 1 or not hosts.strip().isdecimal()
    count = len(names) if named else int(hosts)
    if count < 1 or len(set(names)) < len(names):
        raise InputError(f"--hosts {hosts}: expected how many machines, or different names of all, as in 2 or a,b")
    if rank is not None and not 0 <= rank < count:
        raise InputError(f"--node-rank {rank}: expected 0 to {count - 1}, as --hosts {hosts} says")
    if count == 1:
        return Cluster(processes)
    if rank is None:
        rank = _own_rank(names) if named else None
    if rank is None:
        problem = f"none of {hosts} is this machine" if named else f"which of {count} machines is this"
        raise InputError(f"--node-rank: {problem}? Give 0 to {count - 1}")
    if not master and not named:
        raise InputError("--master: missing; give the address of machine 0, at which the others reach it")
    return Cluster(processes, count, rank, _master_address(master or names[0], rank), port)


def _own_rank(names: list[str]) -> int | None:
    """Which of the machines this is, or None."""
    own = _own_addresses() | {socket.gethostname()}
    for rank, name in enumerate(names):
        if name in own or _address(name) in own:
            return rank
    return None


def _own_addresses() -> set[str]:
    """IPv4 addresses of this machine."""
    every = (address for addresses in psutil.net_if_addrs().values() for address in addresses)
    return {address.address for address in every if address.family == socket.AF_INET}


def _address(name: str) -> str:
    """IPv4 address of a machine."""
    try:
        return socket.gethostbyname(name)
    except (OSError, UnicodeError):
        raise InputError(f"{name}: no machine of that name is known here; give its address") from None


def _master_address(name: str, rank: int) -> str:
    """Address of machine 0; InputError if machine 0 itself does not know it as its own, as msrun has to."""
    address, own = _address(name), _own_addresses()
    if rank == 0 and address not in own:
        known = ", ".join(sorted(own))
        raise InputError(
            f"--master {name}: {address} is no address of this machine, which is machine 0; it has {known}"
        )
    return address
