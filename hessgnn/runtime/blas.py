"""Threads of the linear algebra behind numpy and scipy.

OpenBLAS divides even the matrices of a small molecule between all cores, and its threads wait busily for the next one:
an optimisation then costs several times what it needs, most of all where other processes want the same cores.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import scipy

_PREFIXES, _SUFFIXES = ("scipy_openblas", "openblas"), ("64_", "_64", "")


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Let numpy and scipy compute with one thread inside the block; where they came without OpenBLAS, do nothing."""
    libraries = list(_libraries())
    before = [get() for get, _ in libraries]
    try:
        for _, put in libraries:
            put(1)
        yield
    finally:
        for (_, put), number in zip(libraries, before, strict=True):
            put(number)


def _libraries() -> Iterator[tuple[Callable[[], int], Callable[[int], None]]]:
    """What gets and what sets the number of threads, of each OpenBLAS that the wheels of numpy and scipy hold."""
    for package in (np, scipy):
        folder = Path(str(package.__file__)).parent.parent / f"{package.__name__}.libs"
        for path in sorted(folder.glob("*openblas*")):
            try:
                library = ctypes.CDLL(str(path))
            except OSError:
                continue
            for name in (f"{prefix}_{{}}_num_threads{suffix}" for prefix in _PREFIXES for suffix in _SUFFIXES):
                if hasattr(library, name.format("get")) and hasattr(library, name.format("set")):
                    yield getattr(library, name.format("get")), getattr(library, name.format("set"))
                    break
