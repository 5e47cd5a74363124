"""What every task is made of: a heavy part that saves results, and a light part that reads them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar, Generic, Protocol, TypeVar

import numpy as np

from hessgnn.data.store.store import Store
from hessgnn.data.structure import Structure
from hessgnn.evaluation.journal import Result
from hessgnn.evaluation.record import Better, Metric
from hessgnn.runtime.config import Settings
from hessgnn.surface.base import Surface

MINIMA = ("minimum", "reactant", "product")
"""Kinds of the structures that molecules are simulated from."""


class Subject(Protocol):
    """What a task gives one result for: a molecule, a reaction."""

    @property
    def name(self) -> str:
        """Unique within a split."""


S = TypeVar("S", bound=Settings)
X = TypeVar("X", bound=Subject)


class Task(ABC, Generic[S, X]):
    """Something that a surface is judged by, subject by subject.

    Parameters
    ----------
    settings
        All that its results depend on besides the surface and the subjects.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    """Raised when results change their meaning, so that old ones are not taken for new."""
    needs: ClassVar[str]
    """What a split must hold, in words: said where it holds none."""
    side_by_side: ClassVar[bool] = False
    """Whether subjects are computed together, so that dividing them between processes gains nothing."""
    together: ClassVar[bool] = False
    """Whether many calls of :meth:`run`, with one subject each, may be under way at the same time. It must measure no
    times, and not use what threads share: Sella may draw from numpy's one random state, and warnings are silenced for
    all."""

    def __init__(self, settings: S) -> None:
        self.settings = settings

    @abstractmethod
    def subjects(self, store: Store, split: str) -> list[X]:
        """What the split holds for this task; empty if it lacks the data or their labels."""

    @abstractmethod
    def run(
        self, surface: Surface, subjects: Sequence[X], unfinished: Mapping[str, Result]
    ) -> Iterator[tuple[str, Result]]:
        """The heavy part: yield the result of each subject as it comes.

        Parameters
        ----------
        surface
            What is judged.
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
    def values(self, results: Mapping[str, Result]) -> dict[str, dict[str, float | None]]:
        """The numbers that two surfaces are compared by, subject by subject.

        Parameters
        ----------
        results
            Name of the subject -> what :meth:`run` gave.

        Returns
        -------
        dict
            Name of a metric -> name of the subject -> its value; ``None`` where the subject failed.
        """

    @abstractmethod
    def metrics(self, results: Mapping[str, Result]) -> dict[str, Metric]:
        """The light part: numbers from saved results alone.

        Parameters
        ----------
        results
            Name of the structure -> what :meth:`run` gave.

        Returns
        -------
        dict
            Names begin with the task's.
        """


class MoleculeTask(Task[S, Structure]):
    """A task on the minima of a split that have a Hessian."""

    needs = "minimum with a Hessian"

    def subjects(self, store: Store, split: str) -> list[Structure]:
        """See :meth:`Task.subjects`."""
        return [store[i] for i in map(int, store.indices(split)) if store.kinds[i] in MINIMA and store.has_hessian[i]]


def mean_metric(values: Sequence[float | None], title: str, unit: str, *, better: Better = "lower") -> Metric:
    """Mean over the structures that have a value; ``None`` if none has.

    Parameters
    ----------
    values
        One for each structure.
    title, unit, better
        Of the metric.

    Returns
    -------
    Metric
        With the number of structures behind it.
    """
    known = [value for value in values if value is not None and np.isfinite(value)]
    mean = float(np.mean(known)) if known else None
    return Metric(value=mean, unit=unit, n=len(known), title=title, better=better)


def share(flags: Sequence[bool], title: str) -> Metric:
    """Percentage of the structures for which something went wrong."""
    return mean_metric([100.0 * flag for flag in flags], title, "%")
