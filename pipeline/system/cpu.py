"""How many processes and threads to use where nobody says."""

from __future__ import annotations

MOST_WORKERS = 32
"""Processes that write shards, at most: they check more JPEGs a second than most disks read."""

MOST_THREADS = 16
"""Threads that prepare one rank's samples, at most: more of them only wait for Python's lock."""


def usable_cores() -> int:
    """Cores that this process may use: joblib minds its affinity, its cgroup's quota and LOKY_MAX_CPU_COUNT."""
    from joblib import cpu_count

    return int(cpu_count())


def default_workers() -> int:
    """Processes for work on many files: one a core, at most `MOST_WORKERS`."""
    return min(usable_cores(), MOST_WORKERS)


def default_threads(ranks: int) -> int:
    """Threads for one of so many ranks on this machine: its share of the cores, 1 to `MOST_THREADS`."""
    return max(1, min(usable_cores() // ranks, MOST_THREADS))
