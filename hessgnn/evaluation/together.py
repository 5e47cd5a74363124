"""Many subjects on one potential at the same time: what they ask for at once is computed in one pass.

A task follows its subjects one after the other: optimisers of ASE that ask for the forces of one small molecule at a
time, of which most is the fixed cost of a call. Here the same code runs for many subjects, each in a thread of its own
on a surface that asks instead of computing. When all threads wait, their questions are joined into one batch.

Only one thread runs at a time, in the order of the subjects, so equal subjects give equal numbers, bit for bit; what
draws from a random state that threads share would not. Another number of subjects changes the last digits only.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from ase import Atoms

from hessgnn.data.structure import Array, Structure
from hessgnn.evaluation.journal import Result, Subject, SubjectRunner
from hessgnn.runtime.machine import one_blas_thread
from hessgnn.runtime.processes import Pool
from hessgnn.runtime.worker import Link
from hessgnn.surface.base import FAILURES, Answer, ForceField, Surface
from hessgnn.surface.calculator import HessGNNCalculator
from hessgnn.surface.potential import ATOMS_OF_HESSIANS, Geometry, PotentialSurface, batch_of, by_size, passes

AT_ONCE = 64
"""Subjects that are followed at the same time."""
ATOMS = 512
"""Of a pass for energies and forces, about; larger ones take memory and gain nothing."""

PRELOAD = ("hessgnn.evaluation.tasks.subjects",)
"""What the server of worker processes imports."""
FEWER = "ask for fewer --processes"
"""What to do when a worker process dies."""

NAME = "hessgnn subject"
"""Of the threads."""

X = TypeVar("X")
Y = TypeVar("Y")
Kind = Literal["forces", "hessian"]


def together(
    surface: Surface, subjects: Sequence[X], work: Callable[[Surface, X], Y], at_once: int = AT_ONCE
) -> Iterator[tuple[X, Y]]:
    """Do the same for many subjects at the same time.

    Parameters
    ----------
    surface
        Only with a :class:`PotentialSurface` can anything be shared; with another one subject follows the other.
    subjects
        Taken up in this order.
    work
        What to do, given a surface and a subject. It must not draw from a shared random state.
    at_once
        Subjects in work at the same time.

    Yields
    ------
    tuple
        A subject and what ``work`` returned for it, as they end. What it raises is raised here, and ends all others; as
        does closing the iterator.
    """
    with one_blas_thread():
        if isinstance(surface, PotentialSurface):
            yield from _in_threads(surface, subjects, work, at_once)
        else:
            for subject in subjects:
                yield subject, work(surface, subject)


def _in_threads(
    surface: PotentialSurface, subjects: Sequence[X], work: Callable[[Surface, X], Y], at_once: int
) -> Iterator[tuple[X, Y]]:
    waiting = iter(subjects)
    threads: list[_Thread] = []
    try:
        while True:
            # Each runs up to its first question before the next is begun.
            while len(threads) < at_once and (subject := next(waiting, _NOTHING)) is not _NOTHING:
                threads.append(_Thread(surface, subject, work))
                threads[-1].proceed(None)
            ended = [thread for thread in threads if thread.ended]
            for thread in ended:
                threads.remove(thread)
                yield thread.subject, thread.result()
            if not ended:  # else others take their places first
                if not threads:
                    return
                _answer(surface, threads)
    finally:
        for thread in threads:
            thread.stop()


def run_together(task: SubjectRunner, surface: Surface, subjects: Sequence[Subject]) -> Iterator[tuple[str, Result]]:
    """Run a task on many subjects at the same time.

    Parameters
    ----------
    task
        Its ``run`` is called for each subject alone.
    surface, subjects
        See :func:`together`.

    Yields
    ------
    str, dict
        As :meth:`hessgnn.evaluation.tasks.subjects.SubjectTask.run`, in the order in which subjects end.
    """
    for _, results in together(surface, subjects, partial(run_alone, task)):
        yield from results


def run_shares(
    task: SubjectRunner, surface: Surface, subjects: Sequence[Subject], processes: int
) -> Iterator[tuple[str, Result]]:
    """Run a task in several processes, each on its share of the subjects together.

    Parameters
    ----------
    task, surface, subjects
        See :func:`run_together`.
    processes
        How many, one thread of torch each.

    Yields
    ------
    str, dict
        As they come.

    Raises
    ------
    WorkerDied
        When a process was ended by the system.
    """
    with Pool(processes, threads=1, preload=PRELOAD, grace=0.0) as pool:
        shares = [partial(_share, task, surface, subjects[k::processes]) for k in range(processes)]
        yield from pool.reports_until([pool.submit(share, remedy=FEWER) for share in shares])


def _share(task: SubjectRunner, surface: Surface, subjects: Sequence[Subject], link: Link) -> None:
    """Run a task in a process of :func:`run_shares`."""
    for item in run_together(task, surface, subjects):
        link.report(item)


def run_alone(task: SubjectRunner, surface: Surface, subject: Subject) -> list[tuple[str, Result]]:
    """Run a task on one subject.

    Parameters
    ----------
    task, surface
        See :func:`run_together`.
    subject
        The only one.

    Returns
    -------
    list of (str, dict)
        All that its ``run`` yields.
    """
    with one_blas_thread():
        return list(task.run(surface, [subject], {}))


@dataclass(frozen=True)
class _Question:
    kind: Kind
    images: Sequence[Geometry]


_Reply = list[tuple[float, Array]] | list[Array]
"""Energy and forces, or the Hessian, of each image."""


class _Closed(BaseException):
    """Ends a thread whose results nobody waits for any more; no handler of failures takes it for one."""


class _Thread:
    """The work on one subject: it stands still, except between :meth:`proceed` and its next question."""

    def __init__(self, surface: PotentialSurface, subject: Any, work: Callable[[Surface, Any], Any]) -> None:
        self.subject = subject
        self.question: _Question | None = None
        self.ended = False
        self._result: Any = None
        self._error: BaseException | None = None
        self._replies: queue.SimpleQueue[_Reply | BaseException | None] = queue.SimpleQueue()
        self._stands: queue.SimpleQueue[None] = queue.SimpleQueue()
        arguments = (_AskingSurface(surface, self._ask), work, torch.get_num_threads())
        self._thread = threading.Thread(target=self._run, args=arguments, name=NAME, daemon=True)
        self._thread.start()

    def proceed(self, reply: _Reply | BaseException | None) -> None:
        """Answer, and wait until the thread asks again or has ended."""
        self._replies.put(reply)
        self._stands.get()

    def result(self) -> Any:
        """What the work gave, or raised."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._result

    def stop(self) -> None:
        """End the thread wherever it stands."""
        self._replies.put(_Closed())
        self._thread.join(timeout=60)  # if it was interrupted while it ran, until it asks

    def _run(self, surface: _AskingSurface, work: Callable[[Surface, Any], Any], n_threads: int) -> None:
        # OpenMP counts for each thread anew, and would give a molecule's engine all cores.
        torch.set_num_threads(n_threads)
        try:
            self._wait()
            self._result = work(surface, self.subject)
        except _Closed:
            pass
        except BaseException as error:  # raised again where the result is asked for
            self._error = error
        self.ended, self.question = True, None
        self._stands.put(None)

    def _ask(self, question: _Question) -> Any:
        self.question = question
        self._stands.put(None)
        return self._wait()

    def _wait(self) -> _Reply | None:
        reply = self._replies.get()
        if isinstance(reply, BaseException):
            raise reply
        return reply


class _AskingSurface(Surface):
    """A potential's surface for one thread."""

    def __init__(self, surface: PotentialSurface, ask: Callable[[_Question], Any]) -> None:
        super().__init__(surface.name, surface.fingerprint)
        self._surface, self._ask = surface, ask

    def answers(self, structures: Sequence[Structure]) -> Iterator[Answer]:
        """See :class:`Surface`."""
        images = [Geometry(s.numbers, s.positions, s.cell, s.pbc) for s in structures]
        hessians = self._ask(_Question("hessian", images))
        for (energy, forces), hessian in zip(self._ask(_Question("forces", images)), hessians, strict=True):
            yield Answer(energy, forces, hessian)

    def calculator(self) -> _AskingCalculator:
        """See :class:`Surface`."""
        return _AskingCalculator(self._surface, self._ask)

    def second_derivatives(self, atoms: Atoms) -> Array:
        """See :class:`Surface`."""
        return self._own.get_hessian(atoms)

    def force_field(self, structures: Sequence[Structure]) -> ForceField:
        """See :class:`Surface`."""
        stops = np.cumsum([len(s) for s in structures])[:-1]

        def compute(positions: Array) -> tuple[Array, Array]:
            parts = zip(structures, np.split(positions, stops), strict=True)
            images = [Geometry(s.numbers, part, s.cell, s.pbc) for s, part in parts]
            energies, forces = zip(*self._ask(_Question("forces", images)), strict=True)
            return np.array(energies), np.concatenate(forces)

        return compute


class _AskingCalculator(HessGNNCalculator):
    """The calculator of a thread."""

    def __init__(self, surface: PotentialSurface, ask: Callable[[_Question], Any]) -> None:
        super().__init__(surface.potential, device=surface.device)
        self._ask = ask

    def _energy_and_forces(self, atoms: Atoms) -> tuple[float, Array]:
        return self._ask(_Question("forces", [Geometry.of(atoms)]))[0]

    def _second_derivatives(self, atoms: Atoms) -> Array:
        return self._ask(_Question("hessian", [Geometry.of(atoms)]))[0]


def _answer(surface: PotentialSurface, threads: Sequence[_Thread]) -> None:
    """Answer the questions of all threads, which stand still, then let one after the other go on."""
    questions = [thread.question for thread in threads]
    replies: dict[int, Any] = {}
    for kind in ("forces", "hessian"):
        asked = [(k, q.images) for k, q in enumerate(questions) if q is not None and q.kind == kind]
        images = [image for _, some in asked for image in some]
        found = _compute(surface, kind, images)
        start = 0
        for k, some in asked:
            part = found[start : start + len(some)]
            start += len(some)
            replies[k] = next((one for one in part if isinstance(one, BaseException)), part)
    for k, thread in enumerate(threads):
        thread.proceed(replies[k])


def _compute(surface: PotentialSurface, kind: Kind, images: Sequence[Geometry]) -> list[Any]:
    """What was asked for of each image, or why there is none."""
    sizes = np.array([len(image.numbers) for image in images], dtype=np.int64)
    order = by_size(sizes) if kind == "hessian" else list(range(len(images)))
    most = ATOMS_OF_HESSIANS if kind == "hessian" else ATOMS
    found: list[Any] = [None] * len(images)
    for chosen in passes(order, sizes, most):
        some = [images[k] for k in chosen]
        for k, one in zip(chosen, _isolated(surface, kind, some), strict=True):
            found[k] = one
    return found


def _isolated(surface: PotentialSurface, kind: Kind, images: Sequence[Geometry]) -> list[Any]:
    """A pass; where it fails, or gives what is not finite, these structures are computed alone.

    So each has the fate that it has alone, whatever the company.
    """
    try:
        found: list[Any] = _pass(surface, kind, images)
    except FAILURES as error:
        if len(images) == 1:
            return [error]
        found = [None] * len(images)
    if len(images) == 1:
        return found
    return [
        one if _finite(one) else _isolated(surface, kind, [image])[0] for one, image in zip(found, images, strict=True)
    ]


def _finite(one: Any) -> bool:
    if one is None:
        return False
    return all(bool(np.isfinite(part).all()) for part in (one if isinstance(one, tuple) else (one,)))


def _pass(surface: PotentialSurface, kind: Kind, images: Sequence[Geometry]) -> list[Any]:
    batch = batch_of(images, surface.potential.cutoff).to(surface.device)
    if kind == "hessian":
        return [hessian.double().cpu().numpy() for hessian in surface.potential.hessian(batch)]
    prediction = surface.potential(batch)
    stops = np.cumsum([len(image.numbers) for image in images])[:-1]
    # Copies: the arrays of a pass live as long as the longest kept of them otherwise.
    forces = [part.copy() for part in np.split(prediction.forces.double().cpu().numpy(), stops)]
    return list(zip(prediction.energy.tolist(), forces, strict=True))


_NOTHING: Any = object()
