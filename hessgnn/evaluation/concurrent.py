"""Run many subjects concurrently, their energy calls batched.

A task runs its subjects one after the other: optimisers of ASE request the forces of one small molecule at a time, and
most of that is the fixed cost of a call. Here the same code runs for many subjects, each in a thread of its own, on a
surface that sends requests instead of computing. When all threads wait, their requests are computed as one batch.

Only one thread runs at a time, in the order of the subjects, so the same subjects give bitwise identical results; code
that draws from a random state shared by threads would not. Another number of subjects changes only the last digits.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal, Protocol, TypeVar

import numpy as np
import torch
from ase import Atoms

from hessgnn.data.structure import Array, Structure
from hessgnn.evaluation.record import Result
from hessgnn.runtime.machine import one_blas_thread
from hessgnn.runtime.processes import Pool
from hessgnn.runtime.worker import Link
from hessgnn.surface.base import FAILURES, Answer, ForceField, Surface
from hessgnn.surface.calculator import HessGNNCalculator
from hessgnn.surface.potential import ATOMS_OF_HESSIANS, Geometry, PotentialSurface, batch_of, by_size, passes

AT_ONCE = 64
"""Subjects that run at the same time."""
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


class Subject(Protocol):
    """What a task gives one result for: a molecule, a reaction."""

    @property
    def name(self) -> str:
        """Unique within a split."""


class SubjectRunner(Protocol):
    """What gives results subject by subject, see :class:`hessgnn.evaluation.tasks.subjects.SubjectTask`."""

    side_by_side: ClassVar[bool]
    concurrent: ClassVar[bool]

    def run(
        self, surface: Surface, subjects: Sequence[Any], unfinished: Mapping[str, Result]
    ) -> Iterator[tuple[str, Result]]:
        """Yield the result of each subject as it comes."""


def concurrently(
    surface: Surface, subjects: Sequence[X], work: Callable[[Surface, X], Y], at_once: int = AT_ONCE
) -> Iterator[tuple[X, Y]]:
    """Do the same work for many subjects concurrently; yield each with its result, in the order in which they finish.

    Parameters
    ----------
    surface
        Calls are batched on a :class:`PotentialSurface` only; on any other surface the subjects run sequentially.
    subjects
        Started in this order, at most ``at_once`` at the same time.
    work
        What to do, given a surface and a subject. It must not draw from a shared random state. An exception is raised
        here and stops all other subjects, as does closing the iterator.
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
            # Each runs up to its first request before the next is begun.
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
                _serve(surface, threads)
    finally:
        for thread in threads:
            thread.stop()


def run_concurrently(
    task: SubjectRunner, surface: Surface, subjects: Sequence[Subject]
) -> Iterator[tuple[str, Result]]:
    """Run a task on each subject alone, concurrently, and yield the results in the order in which subjects finish."""
    for _, results in concurrently(surface, subjects, partial(run_alone, task)):
        yield from results


def run_shares(
    task: SubjectRunner, surface: Surface, subjects: Sequence[Subject], processes: int
) -> Iterator[tuple[str, Result]]:
    """Run a task in several processes of one thread each, on shares of the subjects; yield results as they come.

    Raises :class:`~hessgnn.runtime.processes.WorkerDied` when a process was ended by the system.
    """
    with Pool(processes, threads=1, preload=PRELOAD, grace=0.0) as pool:
        shares = [partial(_share, task, surface, subjects[k::processes]) for k in range(processes)]
        yield from pool.reports_until([pool.submit(share, hint=FEWER) for share in shares])


def _share(task: SubjectRunner, surface: Surface, subjects: Sequence[Subject], link: Link) -> None:
    """Run a task in a process of :func:`run_shares`."""
    for item in run_concurrently(task, surface, subjects):
        link.report(item)


def run_alone(task: SubjectRunner, surface: Surface, subject: Subject) -> list[tuple[str, Result]]:
    """Run a task on one subject: all that its ``run`` yields."""
    with one_blas_thread():
        return list(task.run(surface, [subject], {}))


@dataclass(frozen=True)
class _Request:
    kind: Kind
    images: Sequence[Geometry]


_Reply = list[tuple[float, Array]] | list[Array]
"""Energy and forces, or the Hessian, of each image."""


class _Closed(BaseException):
    """Stops a thread whose result is no longer needed; it is no :class:`Exception`, so that no handler catches it."""


class _Thread:
    """The work on one subject: it is blocked, except between :meth:`proceed` and its next request."""

    def __init__(self, surface: PotentialSurface, subject: Any, work: Callable[[Surface, Any], Any]) -> None:
        self.subject = subject
        self.request: _Request | None = None
        self.ended = False
        self._result: Any = None
        self._error: BaseException | None = None
        self._replies: queue.SimpleQueue[_Reply | BaseException | None] = queue.SimpleQueue()
        self._waiting: queue.SimpleQueue[None] = queue.SimpleQueue()
        arguments = (_BatchedSurface(surface, self._ask), work, torch.get_num_threads())
        self._thread = threading.Thread(target=self._run, args=arguments, name=NAME, daemon=True)
        self._thread.start()

    def proceed(self, reply: _Reply | BaseException | None) -> None:
        """Send a reply, and wait for the next request or the end of the thread."""
        self._replies.put(reply)
        self._waiting.get()

    def result(self) -> Any:
        """What the work returned; what it raised is raised."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._result

    def stop(self) -> None:
        """Stop the thread wherever it is."""
        self._replies.put(_Closed())
        self._thread.join(timeout=60)  # if it was interrupted while it ran, until its next request

    def _run(self, surface: _BatchedSurface, work: Callable[[Surface, Any], Any], n_threads: int) -> None:
        # OpenMP counts for each thread anew, and would give a molecule's engine all cores.
        torch.set_num_threads(n_threads)
        try:
            self._wait()
            self._result = work(surface, self.subject)
        except _Closed:
            pass
        except BaseException as error:  # raised again where the result is asked for
            self._error = error
        self.ended, self.request = True, None
        self._waiting.put(None)

    def _ask(self, request: _Request) -> Any:
        self.request = request
        self._waiting.put(None)
        return self._wait()

    def _wait(self) -> _Reply | None:
        reply = self._replies.get()
        if isinstance(reply, BaseException):
            raise reply
        return reply


class _BatchedSurface(Surface):
    """A potential's surface for one thread."""

    def __init__(self, surface: PotentialSurface, request: Callable[[_Request], Any]) -> None:
        super().__init__(surface.name, surface.fingerprint)
        self._surface, self._request = surface, request

    def answers(self, structures: Sequence[Structure]) -> Iterator[Answer]:
        """See :class:`Surface`."""
        images = [Geometry(s.numbers, s.positions, s.cell, s.pbc) for s in structures]
        hessians = self._request(_Request("hessian", images))
        for (energy, forces), hessian in zip(self._request(_Request("forces", images)), hessians, strict=True):
            yield Answer(energy, forces, hessian)

    def calculator(self) -> _BatchedCalculator:
        """See :class:`Surface`."""
        return _BatchedCalculator(self._surface, self._request)

    def second_derivatives(self, atoms: Atoms) -> Array:
        """See :class:`Surface`."""
        return self._own.get_hessian(atoms)

    def force_field(self, structures: Sequence[Structure]) -> ForceField:
        """See :class:`Surface`."""
        stops = np.cumsum([len(s) for s in structures])[:-1]

        def compute(positions: Array) -> tuple[Array, Array]:
            parts = zip(structures, np.split(positions, stops), strict=True)
            images = [Geometry(s.numbers, part, s.cell, s.pbc) for s, part in parts]
            energies, forces = zip(*self._request(_Request("forces", images)), strict=True)
            return np.array(energies), np.concatenate(forces)

        return compute


class _BatchedCalculator(HessGNNCalculator):
    """The calculator of a thread."""

    def __init__(self, surface: PotentialSurface, request: Callable[[_Request], Any]) -> None:
        super().__init__(surface.potential, device=surface.device)
        self._request = request

    def _energy_and_forces(self, atoms: Atoms) -> tuple[float, Array]:
        return self._request(_Request("forces", [Geometry.of(atoms)]))[0]

    def _second_derivatives(self, atoms: Atoms) -> Array:
        return self._request(_Request("hessian", [Geometry.of(atoms)]))[0]


def _serve(surface: PotentialSurface, threads: Sequence[_Thread]) -> None:
    """Compute the requests of all threads, which are blocked, then let the threads proceed one by one."""
    requests = [thread.request for thread in threads]
    replies: dict[int, Any] = {}
    for kind in ("forces", "hessian"):
        asked = [(k, q.images) for k, q in enumerate(requests) if q is not None and q.kind == kind]
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
    """What was requested of each image, or the exception that it raised."""
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
    """Compute a pass; structures for which it fails, or is not finite, are computed again alone.

    So a failure never depends on the other structures of the pass.
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
