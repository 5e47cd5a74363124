"""Tasks that give one result per molecule or reaction.

A slow part saves the results, a fast part computes the metrics from them. The slow part runs in this process or in
several, and on many subjects together where the task allows it.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from hessgnn.data.store.store import Store
from hessgnn.data.structure import IRC, PRODUCT, REACTANT, TRANSITION_STATE, Structure
from hessgnn.errors import DataError
from hessgnn.evaluation.concurrent import (
    FEWER,
    PRELOAD,
    Subject,
    SubjectRunner,
    run_alone,
    run_concurrently,
    run_shares,
)
from hessgnn.evaluation.record import Failure, Journal, Metric, Result, Values, read_journal
from hessgnn.evaluation.tasks.base import S, SplitContext, SplitResults, Task
from hessgnn.runtime.config import parse
from hessgnn.runtime.machine import one_blas_thread
from hessgnn.runtime.processes import each
from hessgnn.surface.base import Surface
from hessgnn.surface.potential import PotentialSurface

MINIMA = ("minimum", "reactant", "product")
"""Kinds of the structures that molecules are simulated from."""

N = TypeVar("N", bound=Subject)


class SubjectTask(Task[S, N]):
    """A task that gives one result for each molecule or reaction and saves it at once, see :class:`.Journal`."""

    side_by_side: ClassVar[bool] = False
    """Whether :meth:`run` computes its subjects together, so that dividing them between processes gains nothing."""
    concurrent: ClassVar[bool] = False
    """Whether many calls of :meth:`run`, with one subject each, may be under way at the same time. It must measure no
    times, and not use what threads share: Sella may draw from numpy's one random state, and warnings are silenced for
    all."""
    measures_time: ClassVar[bool] = False
    """Whether it measures times, which are to be those that a user of the surface finds: libraries keep their
    threads."""

    @abstractmethod
    def subjects(self, store: Store, split: str) -> Sequence[N]:
        """See :meth:`Task.subjects`."""

    @abstractmethod
    def run(
        self, surface: Surface, subjects: Sequence[N], unfinished: Mapping[str, Result]
    ) -> Iterator[tuple[str, Result]]:
        """The slow part: yield the result of each subject as it comes.

        Parameters
        ----------
        surface
            What is evaluated.
        subjects
            Those for which there is no finished result yet.
        unfinished
            Results that a killed run left with ``"finished": False``.

        Yields
        ------
        str, dict
            Name of the subject and its result. A subject that fails has its reason under ``"failure"``.
        """

    @abstractmethod
    def values(self, results: Mapping[str, Result]) -> Values:
        """The numbers that two surfaces are compared by, from what :meth:`run` gave for each subject."""

    def metrics(self, results: Mapping[str, Result]) -> dict[str, Metric]:
        """The fast part: metrics from saved results alone; by default the means of :meth:`values`."""
        return {name: self.mean(name, list(values.values())) for name, values in self.values(results).items()}

    def evaluate(self, subjects: Sequence[N], context: SplitContext) -> SplitResults:
        """See :meth:`Task.evaluate`."""
        chosen = spread(subjects, context.limit)
        families = {subject.name: family_of(subject) for subject in chosen}
        journal = Journal(context.folder / f"{self.name}-{context.split}.jsonl", self._key(context))

        def finished(subject: N) -> bool:
            return subject.name in journal.results and journal.results[subject.name].get("finished", True)

        for name in journal.results.keys() & families.keys():
            if "group" not in journal.results[name]:  # saved before families were
                journal.add(name, {"group": families[name], **journal.results[name]})
        pending = [subject for subject in chosen if not finished(subject)]
        context.progress(len(chosen) - len(pending), len(chosen))
        if pending:
            with nullcontext() if self.measures_time else one_blas_thread():
                for name, result in results_of(self, context.surface, pending, journal.results, context.processes):
                    journal.add(name, {"group": families[name], **result})
                    context.progress(sum(map(finished, chosen)), len(chosen))
        failures = [
            Failure(task=self.name, split=context.split, structure=name, reason=result["failure"])
            for name, result in journal.results.items()
            if "failure" in result
        ]
        return SplitResults(self.metrics(journal.results), results=journal.file(), failures=failures)

    @classmethod
    def saved_values(cls, results: Path | None, predictions: Path | None = None) -> Values:  # noqa: ARG003
        """See :meth:`Task.saved_values`; empty for results of an older version, whose numbers mean something else."""
        if results is None:
            return {}
        key, found = read_journal(results)
        version = key.get("version")
        if key.get("task") == cls.name and isinstance(version, int) and version < cls.version:
            return {}
        if (key.get("task"), version) != (cls.name, cls.version):
            hint = "run `hessgnn evaluate` on the run again"
            raise DataError("are results of another version", where=results, hint=hint)
        return cls(parse(cls.Settings, key["settings"], where=results)).values(found)  # type: ignore[arg-type]

    def _key(self, context: SplitContext) -> Result:
        """What saved results belong to."""
        some = {} if context.limit is None else {"subjects": context.limit, "chosen": "by composition and family"}
        return some | {
            "task": self.name,
            "version": self.version,
            "settings": self.settings.model_dump(mode="json"),
            "surface": context.surface.fingerprint,
            "split": context.split,
            "data": [context.source.content_hash, context.source.split_hash],
        }


class MoleculeTask(SubjectTask[S, Structure]):
    """A task on the minima of a split that have a Hessian."""

    needs = "minimum with a Hessian"

    def subjects(self, store: Store, split: str) -> list[Structure]:
        """See :meth:`Task.subjects`."""
        return [store[i] for i in map(int, store.indices(split)) if store.kinds[i] in MINIMA and store.has_hessian[i]]


def spread(subjects: Sequence[N], number: int | None) -> Sequence[N]:
    """Choose at most ``number`` subjects; the choice does not depend on the surface.

    No two have one composition while there are others, and families (:attr:`.Structure.group`) take turns.
    """
    if number is None or number >= len(subjects):
        return subjects
    compositions = [_composition(subject) for subject in subjects]
    order = take_turns([s.name for s in subjects], compositions, [family_of(s) for s in subjects])
    return [subjects[k] for k in sorted(order[:number])]


def take_turns(names: Sequence[str], *labels: Sequence[str]) -> list[int]:
    """Order items so that those of different labels take turns, by the first kind of label before the next.

    Items of a label follow each other in an order that is random but fixed by their names, so neither the order of the
    data nor the rest of it matters, and a longer beginning of the list contains the shorter ones.

    Parameters
    ----------
    names
        Of the items, unique.
    labels
        What each item is labelled by, one sequence for each kind of label.

    Returns
    -------
    list of int
        Positions of all items.
    """
    order = sorted(range(len(names)), key=lambda k: hashlib.sha256(names[k].encode()).digest())
    turns: list[tuple[int, ...]] = [()] * len(names)
    for kind in labels:
        seen: Counter[tuple[str, tuple[int, ...]]] = Counter()
        for k in order:
            label = (kind[k], turns[k])
            turns[k] = (*turns[k], seen[label])
            seen[label] += 1
        order.sort(key=lambda k: turns[k])
    return order


def family_of(subject: Subject) -> str:
    """The family of a molecule or a reaction; one of its own for what belongs to none."""
    return str(getattr(subject, "group", "")) or subject.name


def _composition(subject: Subject) -> str:
    numbers = getattr(subject, "numbers", None)
    return subject.name if numbers is None else str(sorted(Counter(np.asarray(numbers).tolist()).items()))


def results_of(
    task: SubjectRunner, surface: Surface, pending: Sequence[Subject], unfinished: Mapping[str, Result], processes: int
) -> Iterator[tuple[str, Result]]:
    """Run a task on its subjects, and yield the name and the result of each as they come.

    Parameters
    ----------
    pending
        Subjects without a finished result, at least one.
    unfinished
        Results that a killed run left behind.
    processes
        Number of processes that the subjects are divided between, where the task allows it.

    Raises
    ------
    WorkerDied
        When a process was ended by the system.
    """
    alone = min(processes, len(pending)) < 2 or task.side_by_side
    if task.concurrent and isinstance(surface, PotentialSurface):
        if alone:
            yield from run_concurrently(task, surface, pending)
        else:
            yield from run_shares(task, surface, pending, min(processes, len(pending)))
        return
    if alone:
        yield from task.run(surface, pending, unfinished)
        return
    for one in each(partial(run_alone, task, surface), pending, processes, hint=FEWER, preload=PRELOAD):
        yield from one


@dataclass(frozen=True)
class StoredReaction:
    """One elementary reaction, with the same order of atoms in all its structures.

    Attributes
    ----------
    saddle
        The saddle point of the reference.
    reactant, product
        The minima that name it as their parent; ``None`` where there is none.
    path
        Frames of the reaction path from reactant to product that name it as their parent, perhaps none.
    """

    saddle: Structure
    reactant: Structure | None = None
    product: Structure | None = None
    path: tuple[Structure, ...] = ()

    @property
    def name(self) -> str:
        """That of the saddle point."""
        return self.saddle.name

    @property
    def group(self) -> str:
        """Family of the saddle point."""
        return self.saddle.group

    @property
    def numbers(self) -> NDArray[np.int64]:
        """Atomic numbers, ``(N,)``."""
        return self.saddle.numbers

    @property
    def stations(self) -> tuple[Structure, Structure, Structure]:
        """Reactant, saddle point and product, of a reaction that has all three."""
        assert self.reactant is not None, self.name
        assert self.product is not None, self.name
        return self.reactant, self.saddle, self.product


def reactions(store: Store, split: str) -> list[StoredReaction]:
    """Reactions whose saddle point is in a split, in the order of the store.

    Minima and path are looked for in the whole store: frames of a path have a split of their own.
    """
    children: dict[tuple[str, str], list[int]] = {}
    for i, parent in enumerate(store.parents):
        if parent:
            children.setdefault((parent, store.kinds[i]), []).append(i)

    def end(saddle: str, kind: str) -> Structure | None:
        found = children.get((saddle, kind), [])
        return store[found[0]] if found else None

    found = []
    for i in map(int, store.indices(split)):
        if store.kinds[i] != TRANSITION_STATE:
            continue
        name = store.names[i]
        frames = sorted(children.get((name, IRC), []), key=lambda k: store.names[k])
        found.append(
            StoredReaction(store[i], end(name, REACTANT), end(name, PRODUCT), tuple(store[frame] for frame in frames))
        )
    return found
