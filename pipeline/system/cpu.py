"""Default numbers of processes and threads."""

from __future__ import annotations

MAX_WORKERS = 32
"""Maximum number of processes that write shards. They check more JPEGs per second than most disks can deliver."""

MAX_THREADS = 16
"""Maximum number of threads that prepare the samples of one rank. More threads only wait for Python's global lock."""


def usable_cores() -> int:
    """Return the number of cores this process may use.

    joblib takes into account the CPU affinity of the process, the CPU quota of its cgroup, and LOKY_MAX_CPU_COUNT.
    """
    from joblib import cpu_count

    return int(cpu_count())


def default_workers() -> int:
    """Return the number of processes for work on many files: one per core, at most `MAX_WORKERS`."""
    return min(usable_cores(), MAX_WORKERS)


def default_threads(world_size: int) -> int:
    """Return the number of threads per rank if `world_size` ranks share this machine: 1 to `MAX_THREADS`."""
    return max(1, min(usable_cores() // world_size, MAX_THREADS))
