"""Run tasks on a surface: choose them, reuse saved results, and record failures without stopping the other tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field, PositiveInt, create_model, model_validator

from hessgnn.data.store.store import Store
from hessgnn.data.structure import RELABELLED
from hessgnn.errors import ConfigError, UserError, did_you_mean
from hessgnn.evaluation.record import DataSource, Failure, Metric, PredictionFile, Record
from hessgnn.evaluation.tasks.base import TASKS, SplitContext, SplitResults, Task, all_tasks, task_of
from hessgnn.runtime.config import Settings, parse
from hessgnn.surface.base import Surface

DEFAULT_TASKS = ("accuracy",)
"""Tasks that are run when none is named: the others take minutes rather than seconds."""
SAMPLE = 300
"""Structures of a split: their full Hessians are seconds, and those of thousands of frames half of a small study."""


class _Common(Settings):
    """What is said to all tasks."""

    subjects: PositiveInt | None = Field(
        default=None,
        description="most molecules or reactions of a split that are simulated, spread over its families; all if null",
    )
    sample: PositiveInt | None = Field(
        default=SAMPLE, description="most structures of a split that accuracy predicts, the same for all; all if null"
    )


def _with_settings(tasks: Sequence[type[Task]]) -> Any:
    fields: dict[str, Any] = {
        task.name: (task.Settings, task.Settings()) for task in tasks if task.Settings.model_fields
    }
    return create_model("_BuiltIn", __base__=_Common, **fields)


_BuiltIn: Any = _with_settings(sorted(TASKS.own().values(), key=lambda task: (task.order, task.name)))


class TaskSettings(_BuiltIn):
    """Settings of each task, under its name."""

    model_config = ConfigDict(extra="allow")

    @model_validator(mode="after")
    def _settings_of_other_tasks(self) -> TaskSettings:
        """Tasks from outside the package are known by the time that their settings are read."""
        others = self.__pydantic_extra__ or {}
        for name, given in list(others.items()):
            if name not in TASKS:
                hint = did_you_mean(name, [*type(self).model_fields, *TASKS])
                raise ConfigError("no such task", where=f"key {name!r}", hint=hint)
            content = given.model_dump() if isinstance(given, Settings) else given
            others[name] = parse(TASKS[name].Settings, content, where=f"key {name!r}")
        return self

    def task(self, name: str) -> Task:
        """Make a task, registered or ``package.module:Name``, with its settings; may raise :class:`ConfigError`."""
        cls = TASKS[name]
        return cls(getattr(self, cls.name, None))


def chosen_tasks(names: Sequence[str]) -> list[str]:
    """Check names of tasks, and put them in the order in which they are run.

    Each is a task, registered or as ``package.module:Name``, several with commas between them, or ``all``. Raises
    :class:`ConfigError` when there is no such task.
    """
    wanted = [name.strip() for part in names for name in part.split(",")]
    if "all" in wanted:
        wanted = [*(name for name in wanted if ":" in name), *(task.name for task in all_tasks())]
    found = {TASKS[name]: name for name in wanted if name != "all"}
    return [found[task] for task in sorted(found, key=lambda task: (task.order, task.name))]


ProgressCallback = Callable[[str, int, int], None]
"""Called with what is being done, the number of structures done, and their total."""


@dataclass
class TaskResults:
    """The part of a record that tasks fill."""

    metrics: dict[str, dict[str, Metric]] = field(default_factory=dict)
    predictions: dict[str, PredictionFile] = field(default_factory=dict)
    results: dict[str, PredictionFile] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    reason: str | None = None
    """Why the record as a whole counts as failed."""

    @classmethod
    def of(cls, record: Record) -> TaskResults:
        """Start from what a record holds."""
        return cls(
            metrics={split: dict(found) for split, found in record.metrics.items()},
            predictions=dict(record.predictions),
            results=dict(record.results),
            failures=list(record.failures),
            reason=record.reason,
        )

    def replace(self, task: type[Task], split: str, found: SplitResults) -> None:
        """Put what a task found on a split in place of what it found there before."""
        if unknown := found.metrics.keys() - task.definitions.keys():
            what = f"gives the metric {min(unknown)!r}, which it does not define"
            raise ConfigError(what, where=task.name, hint="add it to definitions")
        others = {name: m for name, m in self.metrics.get(split, {}).items() if name not in task.definitions}
        metrics = {**others, **found.metrics}
        if not metrics:
            self.metrics.pop(split, None)
        else:
            places = {cls: place for place, cls in enumerate(all_tasks())}
            ordered = sorted(metrics, key=lambda name: places.get(task_of(name), len(places)))  # type: ignore[arg-type]
            self.metrics[split] = {name: metrics[name] for name in ordered}
        self.failures = [f for f in self.failures if (f.task, f.split) != (task.name, split)] + list(found.failures)
        self.results.pop(f"{task.name} {split}", None)
        if found.results is not None:
            self.results[f"{task.name} {split}"] = found.results
        if found.predictions is not None:
            self.predictions[split] = found.predictions
        self.reason = found.reason or self.reason

    def fields(self) -> dict[str, Any]:
        """Fields of the record."""
        return {
            "status": "ok" if self.reason is None else "failed",
            "reason": self.reason,
            "metrics": self.metrics,
            "predictions": self.predictions,
            "results": self.results,
            "failures": self.failures,
        }


def run_tasks(
    tasks: Sequence[Task],
    surface: Surface,
    store: Store,
    splits: Sequence[str],
    source: DataSource,
    folder: Path,
    known: TaskResults,
    *,
    all_splits: bool,
    limit: int | None = None,
    sample: int | None = None,
    processes: int = 1,
    observer: ProgressCallback | None = None,
) -> TaskResults:
    """Run tasks on splits, one after the other.

    Parameters
    ----------
    store, splits, source
        The data, and their entry in the record.
    folder
        Where results are saved.
    known
        What is known already of the same surface, data and versions. It is added to, and returned.
    all_splits
        Whether a split that holds nothing for a task is a failure of it. It is if no split holds anything, too.
    limit
        Most subjects of a split that are simulated; all if absent.
    sample
        Most structures of a split that are predicted; all if absent.
    processes
        That subjects of a task are divided between, one thread each; tasks that compute them together use this one.
    observer
        Callback invoked after each structure.
    """
    for task in tasks:
        if task.fails_record:
            known.reason = None
        subjects = {split: task.subjects(store, split) for split in splits}
        if not all_splits and any(subjects.values()):
            subjects = {split: found for split, found in subjects.items() if found}
        for split, found in subjects.items():

            def progress(done: int, total: int, label: str = f"{task.name} on {split}") -> None:
                if observer is not None:
                    observer(label, done, total)

            context = SplitContext(surface, store, split, source, folder, limit, processes, progress, sample)
            known.replace(type(task), split, _evaluate(task, found, context))
    return known


def _evaluate(task: Task, subjects: Sequence[Any], context: SplitContext) -> SplitResults:
    """One task on one split; where it cannot be run, that is a failure of the whole task."""
    if subjects:
        try:
            return task.evaluate(subjects, context)
        except UserError as error:
            reason = str(error)
    else:
        reason = f"the split holds no {task.needs}"
        store = context.store
        moved = sum(store.kinds[i] == RELABELLED for i in store.indices(context.split))
        if moved:
            reason += f"; {moved} are stationary points of another level of theory (kind {RELABELLED!r})"
    return SplitResults(failures=[Failure(task=task.name, split=context.split, structure=None, reason=reason)])
