"""What the CPU's allocator keeps of freed memory."""

from __future__ import annotations

import ctypes
import os
from functools import cache

BLOCK_BYTES = 4 * 2**20
"""Freed blocks of this size or more go back to the system at once."""

_M_MMAP_THRESHOLD = -3  # of mallopt(3)


@cache
def return_freed_blocks() -> bool:
    """Have the C library give large freed blocks back at once; whether it will.

    By itself glibc raises the size from which on it does so to that of the largest block freed so
    far, up to 32 MiB, and holds on to smaller ones: after an encoding some hundred megabytes that
    nobody uses. This holds for the process, from the first call on. It is left alone where the
    environment sets that size (``MALLOC_MMAP_THRESHOLD_``, or ``glibc.malloc.mmap_threshold`` in
    ``GLIBC_TUNABLES``), and where the C library is another.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "").split(":")
    if any(each.startswith("glibc.malloc.mmap_threshold=") for each in tunables):
        return False
    if "MALLOC_MMAP_THRESHOLD_" in os.environ:
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and mallopt(_M_MMAP_THRESHOLD, BLOCK_BYTES) == 1
