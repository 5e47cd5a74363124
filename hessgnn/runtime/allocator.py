"""What glibc does with memory that is freed: kept where a process does one job, given back where use is measured."""

from __future__ import annotations

import ctypes
import ctypes.util
from collections.abc import Callable

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # malloc.h
PAD = 64 * 2**20


def keep_freed_memory() -> bool:
    """Let the process keep large freed blocks for its next tensors.

    By default glibc returns them to the system and asks for them again, zeroed page by page: a Hessian step allocates
    thousands of blocks of about a megabyte, and each costs page faults again. The process then holds its peak memory
    until its end, so this is for processes that end with their job. To be called before the first large tensor is
    made; it cannot be undone.

    Returns
    -------
    bool
        Whether the system's allocator took the settings: it is glibc's, not musl's or one of another system.
    """
    mallopt = _function("mallopt")
    if mallopt is None:
        return False
    settings = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, PAD))
    taken = [mallopt(name, value) == 1 for name, value in settings]
    return all(taken)


def release_freed_memory() -> bool:
    """Give what is freed back to the system now, so that what is resident is what is in use.

    Returns
    -------
    bool
        Whether the system's allocator can.
    """
    trim = _function("malloc_trim")
    if trim is None:
        return False
    trim(0)
    return True


def _function(name: str) -> Callable[..., int] | None:
    """A function of glibc, ``None`` with another C library."""
    library = ctypes.util.find_library("c")
    return getattr(ctypes.CDLL(library), name, None) if library else None
