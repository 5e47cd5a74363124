"""What every task on single molecules is made of: a heavy part that saves results, and a light part that reads them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar, Generic, TypeVar

import numpy as np

from hessgnn.benchmark.journal import Result
from hessgnn.benchmark.record import Better, Metric
from hessgnn.benchmark.surface import Surface
from hessgnn.config import Settings
from hessgnn.data.structure import Structure

S = TypeVar("S", bound=Settings)


class Task(ABC, Generic[S]):
    """A task on the minima of a split.

    Parameters
    ----------
    settings
        All that its results depend on besides the surface and the structures.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    """Raised when results change their meaning, so that old ones are not taken for new."""

    def __init__(self, settings: S) -> None:
        self.settings = settings

    @abstractmethod
    def run(
        self, surface: Surface, structures: Sequence[Structure], unfinished: Mapping[str, Result]
    ) -> Iterator[tuple[str, Result]]:
        """The heavy part: yield the result of each structure as it comes.

        Parameters
        ----------
        surface
            What is judged.
        structures
            Minima of the reference, with Hessians, for which there is no finished result yet.
        unfinished
            Results that a killed run left with ``"finished": False``.

        Yields
        ------
        str, dict
            Name of the structure and its result. A structure that fails has its reason under ``"failure"``.
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
