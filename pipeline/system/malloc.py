"""Settings of the C library's memory allocator."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Parameters of `mallopt`, from glibc's malloc.h."""

_MMAP_THRESHOLD, _TRIM_THRESHOLD = 32 << 20, 64 << 20
"""Bytes."""


def keep_freed_memory() -> None:
    """Let malloc reuse freed blocks of the size of an image, if the C library is glibc.

    By default glibc maps each block of 128 KB or more anew and unmaps it when it is freed. With two workers side by
    side, clearing the new pages took a tenth of all CPU time.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD)
        mallopt(_M_TRIM_THRESHOLD, _TRIM_THRESHOLD)
