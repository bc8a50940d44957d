"""How many processes and threads to use where nobody says."""

from __future__ import annotations

MAX_WORKERS = 32
"""Processes that write shards, at most: they check more JPEGs a second than most disks read."""

MAX_THREADS = 16
"""Threads that prepare one rank's samples, at most: more of them only wait for Python's lock."""


def usable_cores() -> int:
    """Cores that this process may use: joblib minds its affinity, its cgroup's quota and LOKY_MAX_CPU_COUNT."""
    from joblib import cpu_count

    return int(cpu_count())


def default_workers() -> int:
    """Processes for work on many files: one a core, at most `MAX_WORKERS`."""
    return min(usable_cores(), MAX_WORKERS)


def default_threads(world_size: int) -> int:
    """Threads for one of so many ranks on this machine: its share of the cores, 1 to `MAX_THREADS`."""
    return max(1, min(usable_cores() // world_size, MAX_THREADS))
