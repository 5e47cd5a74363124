"""What a task is, and how it is found.

A task is one file: a class decorated with :func:`task`, which holds everything about the task: name, title and order,
settings, metrics with titles and units, and the claims that its numbers test. Most tasks give one result per molecule
or reaction, see :class:`~hessgnn.evaluation.tasks.subjects.SubjectTask`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np

from hessgnn.data.store.store import Store
from hessgnn.errors import ConfigError
from hessgnn.evaluation.record import Better, DataSource, Failure, Metric, PredictionFile, Values
from hessgnn.runtime import config
from hessgnn.runtime.registry import Registry
from hessgnn.surface.base import Surface


@dataclass(frozen=True)
class MetricDefinition:
    """A number that a task reports, with title and unit for headings.

    ``better`` tells which of two values is the better one. ``root_mean_square`` tells whether the value is the root
    of the mean over subjects of their squared values, instead of the mean. ``worst`` counts for a subject that failed;
    it is fixed in advance, and ``None`` for errors without a natural bound: there the share of successes tells.
    """

    title: str
    unit: str
    better: Better = "lower"
    root_mean_square: bool = False
    worst: float | None = None


@dataclass(frozen=True)
class Claim:
    """Something that Hessian labels are said to improve; the leaderboard tests it.

    Attributes
    ----------
    text
        What is claimed.
    metric, split
        Which number is about it.
    source
        Of the claim: the evaluation of arXiv 2503.07839 that it belongs to (T1-T10), or who makes it.
    title, unit
        Of the number; those of the metric by default.
    direction
        Where the labels are said to move it.
    task
        Name of the task. :func:`task` fills in this, the unit and the direction.
    """

    text: str
    metric: str
    split: str = "test"
    source: str = "hessgnn"
    title: str = ""
    unit: str = ""
    direction: Better = "lower"
    task: str = ""


@dataclass(frozen=True)
class SplitContext:
    """One split of a data set, the surface that is evaluated on it, and where results are saved.

    Attributes
    ----------
    store, split, source
        The data, and their entry in the record.
    folder
        Where results are saved.
    limit
        Most subjects of the split that are simulated; all if absent.
    processes
        Number of processes that subjects may be divided between.
    progress
        Callback invoked with the number of subjects done and their total.
    sample
        Most structures of the split that are predicted, see :class:`.AccuracyTask`; all if absent.
    """

    surface: Surface
    store: Store
    split: str
    source: DataSource
    folder: Path
    limit: int | None
    processes: int
    progress: Callable[[int, int], None]
    sample: int | None = None


@dataclass(frozen=True)
class SplitResults:
    """What a task found on a split.

    Attributes
    ----------
    metrics
        Under the names that the task defines.
    results, predictions
        Files that were saved.
    failures
        Subjects without a result, or the whole task.
    reason
        Why the whole record counts as failed.
    """

    metrics: Mapping[str, Metric] = field(default_factory=dict)
    results: PredictionFile | None = None
    predictions: PredictionFile | None = None
    failures: Sequence[Failure] = ()
    reason: str | None = None


S = TypeVar("S", bound=config.Settings)
X = TypeVar("X")


class Task(ABC, Generic[S, X]):
    """Something that a potential energy surface is evaluated by, split by split.

    Parameters
    ----------
    settings
        All that its results depend on besides the surface and the data; the defaults if absent.
    """

    name: ClassVar[str]
    """Given by :func:`task`."""
    version: ClassVar[int] = 1
    """Raised when results change their meaning, so that saved ones are computed again."""
    title: ClassVar[str]
    caption: ClassVar[str]
    """What its table on the leaderboard shows, in a sentence."""
    order: ClassVar[int] = 100
    """Tasks are run and shown by increasing order, then by name."""
    needs: ClassVar[str]
    """What a split must hold, in words: part of the message where it holds none."""
    Settings: ClassVar[type[config.Settings]] = config.Settings
    definitions: ClassVar[Mapping[str, MetricDefinition]]
    """Every metric that the task may report. A name belongs to one task only."""
    claims: ClassVar[Sequence[Claim]] = ()
    fails_record: ClassVar[bool] = False
    """Whether a record without its numbers counts as failed."""
    without_results: ClassVar[str] = "claims are judged by their means alone"
    """What the leaderboard cannot do where the saved results are missing."""

    def __init__(self, settings: S | None = None) -> None:
        self.settings: S = self.Settings() if settings is None else settings  # type: ignore[assignment]

    @abstractmethod
    def subjects(self, store: Store, split: str) -> Sequence[X]:
        """What the split holds for this task; empty if it lacks the data or their labels."""

    @abstractmethod
    def evaluate(self, subjects: Sequence[X], context: SplitContext) -> SplitResults:
        """Compute what is not saved yet, save it, and give the metrics.

        Parameters
        ----------
        subjects
            What :meth:`subjects` gave, at least one.
        context
            The surface and the split.

        Returns
        -------
        SplitResults
            Metrics, files and failures.

        Raises
        ------
        UserError
            When the task cannot be run; it is recorded as a failure of the whole task on this split.
        """

    @classmethod
    @abstractmethod
    def saved_values(cls, results: Path | None, predictions: Path | None = None) -> Values:
        """The numbers that two surfaces are compared by, subject by subject, from saved files.

        Both are files that the task saved for a split, ``None`` where one is missing. The result is empty where they
        say nothing; see :data:`~hessgnn.evaluation.record.Values`.

        Raises
        ------
        DataError
            When a file is damaged, or of another version of the task.
        """

    def mean(self, name: str, values: Sequence[float | None], title: str = "") -> Metric:
        """The mean over the subjects that have a finite value, with their number; ``None`` if none has.

        ``name`` is that of one of the :attr:`definitions`; ``title`` replaces the one defined, where it depends on
        the settings.
        """
        known = [value for value in values if value is not None and np.isfinite(value)]
        return self.metric(name, float(np.mean(known)) if known else None, len(known), title)

    def metric(self, name: str, value: float | None, n: int, title: str = "") -> Metric:
        """A metric of ``n`` subjects with the title and unit that are defined under its name."""
        defined = self.definitions[name]
        return Metric(value=value, unit=defined.unit, n=n, title=title or defined.title, better=defined.better)

    def share(self, name: str, flags: Sequence[bool]) -> Metric:
        """Percentage of the subjects for which something is true."""
        return self.mean(name, [100.0 * flag for flag in flags])


def _checked(found: Any, name: str) -> type[Task]:
    if not (isinstance(found, type) and issubclass(found, Task) and "name" in vars(found)):
        raise ConfigError("is not a task", where=name, hint="derive it from Task and decorate it with @task('name')")
    return found


TASKS: Registry[type[Task]] = Registry("task", "hessgnn.evaluation.tasks", group="hessgnn.tasks", check=_checked)
"""All tasks by name."""

_OWNERS: dict[str, type[Task]] = {}
"""Name of a metric -> the task that defines it."""

T = TypeVar("T", bound=type[Task])


def task(name: str) -> Callable[[T], T]:
    """Register a task, as a decorator of its class.

    Parameters
    ----------
    name
        What commands, configs and records call it: an identifier.

    Returns
    -------
    Callable
        The decorator; it returns the class.

    Raises
    ------
    ConfigError
        When the name, or that of a metric, belongs to another task, or a claim is about no metric of this one.
    """

    def decorate(cls: T) -> T:
        if not name.isidentifier() or name in ("all", "subjects"):
            raise ConfigError("cannot be the name of a task", where=name, hint="use letters, digits and _")
        cls.name = name
        for metric in cls.definitions:
            if (owner := _OWNERS.setdefault(metric, cls)).name != name:
                raise ConfigError(f"the metric belongs to the task {owner.name!r} already", where=metric)
            _OWNERS[metric] = cls
        cls.claims = tuple(_complete(claim, cls) for claim in cls.claims)
        TASKS.add(name, cls)
        return cls

    return decorate


def _complete(claim: Claim, cls: type[Task]) -> Claim:
    if claim.metric not in cls.definitions:
        raise ConfigError("a claim is about no metric of its task", where=claim.metric, hint="add it to definitions")
    defined = cls.definitions[claim.metric]
    title = claim.title or defined.title
    return replace(claim, title=title, unit=defined.unit, direction=defined.better, task=cls.name)


def all_tasks() -> list[type[Task]]:
    """All registered tasks, in the order in which they are run."""
    return sorted((TASKS[name] for name in TASKS), key=lambda cls: (cls.order, cls.name))


def task_of(metric: str) -> type[Task] | None:
    """Find the task that defines a metric; ``None`` where none does, as for a task that is not installed."""
    if metric not in _OWNERS:
        all_tasks()  # imports them
    return _OWNERS.get(metric)
