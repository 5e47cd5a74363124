import os
import signal
import sys
from functools import partial

import pytest
import torch

from hessgnn.experiments.workers import PRELOAD
from hessgnn.runtime import memory
from hessgnn.runtime.memory import peak_memory
from hessgnn.runtime.processes import Pool, WorkerDied

SIZE = 300
"""MiB."""


def work(size):
    return float(torch.ones(size * 2**18).sum())


def prepare():
    held = work(SIZE // 2)  # what the preparation needs does not count
    return partial(work, SIZE) if held else None


def pieces():
    return {"sum": prepare}


def test_the_peak_is_that_of_the_work_alone():
    work(2 * SIZE)  # this process's own peak must not hide it
    peak = peak_memory(pieces, "sum")
    forgets = sys.platform == "linux"  # elsewhere only what goes beyond the preparation is seen
    assert (SIZE if forgets else SIZE / 2) - 30 <= peak <= SIZE + 60


def killed():
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_is_ended_is_told(monkeypatch):
    monkeypatch.setattr(memory, "Pool", partial(Pool, preload=PRELOAD))  # which starts sooner
    with pytest.raises(WorkerDied, match=r"memory of sum: worker was killed by SIGKILL.*ask for a smaller"):
        peak_memory(killed, "sum")
