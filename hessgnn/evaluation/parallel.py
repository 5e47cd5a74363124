"""Results of a task on many subjects: in this process or in several, many subjects together where it can be done."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool

import torch

from hessgnn.errors import UserError
from hessgnn.evaluation.journal import Result, Subject, SubjectRunner
from hessgnn.evaluation.together import run_alone, run_shares, run_together
from hessgnn.runtime.allocator import keep_freed_memory
from hessgnn.runtime.processes import end_with
from hessgnn.surface.base import PotentialSurface, Surface


def results_of(
    task: SubjectRunner, surface: Surface, pending: Sequence[Subject], unfinished: Mapping[str, Result], processes: int
) -> Iterator[tuple[str, Result]]:
    """Run a task on its subjects.

    Parameters
    ----------
    task
        The task.
    surface
        What is evaluated.
    pending
        Subjects without a finished result, at least one.
    unfinished
        Results that a killed run left behind.
    processes
        Number of processes that the subjects are divided between, where the task allows it.

    Yields
    ------
    str, dict
        Name of a subject and its result, as they come.

    Raises
    ------
    UserError
        When a process was ended by the system.
    """
    alone = min(processes, len(pending)) < 2 or task.side_by_side
    if task.together and isinstance(surface, PotentialSurface):
        if alone:
            yield from run_together(task, surface, pending)
        else:
            yield from run_shares(task, surface, pending, min(processes, len(pending)))
        return
    if alone:
        yield from task.run(surface, pending, unfinished)
        return
    context = multiprocessing.get_context("spawn")  # a fork would copy torch's threads
    with ProcessPoolExecutor(min(processes, len(pending)), context, _begin, (os.getpid(),)) as pool:
        running = [pool.submit(run_alone, task, surface, subject) for subject in pending]
        try:
            for one in as_completed(running):
                yield from one.result()
        except BrokenProcessPool as error:
            raise UserError("a process was ended by the system", remedy="ask for fewer --processes") from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _begin(parent: int) -> None:
    torch.set_num_threads(1)
    keep_freed_memory()
    end_with(parent)
