"""How long OpenMP's threads, between which torch divides its operations, wait busily for each other."""

from __future__ import annotations

import os

SPINS = 10_000
"""Turns of the loop in which a thread waits before it sleeps: some tens of microseconds."""


def wait_briefly() -> None:
    """Let threads that wait for others sleep soon; what the user has set in the environment stays.

    A training step on small molecules has thousands of short parallel regions, and at the end of each the threads wait
    for the last. GNU's library, which torch's wheels for Linux hold, waits busily for a millisecond or so before it
    sleeps (``GOMP_SPINCOUNT``). Where other processes want the same cores, the thread that is waited for is not running
    meanwhile, and a step may take a hundred times as long. Sleeping at once costs two or three times the step of a
    quiet machine. To be called before torch is imported, which reads it once.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPINS))
