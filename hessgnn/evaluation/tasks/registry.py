"""The tasks there are, and the settings of those that have any."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field, PositiveInt

from hessgnn.errors import ConfigError, DataError, did_you_mean
from hessgnn.evaluation.journal import read_journal
from hessgnn.evaluation.tasks.base import Task
from hessgnn.evaluation.tasks.cost import CostSettings, CostTask
from hessgnn.evaluation.tasks.md import MDSettings, MDTask
from hessgnn.evaluation.tasks.neb import NEBSettings, NEBTask
from hessgnn.evaluation.tasks.relaxation import RelaxationSettings, RelaxationTask
from hessgnn.evaluation.tasks.saddle import SaddleSettings, SaddleTask
from hessgnn.evaluation.tasks.vibrations import VibrationsSettings, VibrationsTask
from hessgnn.runtime.config import Settings, parse

ACCURACY = "accuracy"
"""The task that every record has; it predicts whole splits, the others simulate with their molecules and reactions."""


class TaskSettings(Settings):
    """Settings of each task, under its name."""

    subjects: PositiveInt | None = Field(
        default=None,
        description="most molecules or reactions of a split that are simulated, spread evenly over it; all if absent",
    )
    vibrations: VibrationsSettings = VibrationsSettings()
    relaxation: RelaxationSettings = RelaxationSettings()
    saddle: SaddleSettings = SaddleSettings()
    neb: NEBSettings = NEBSettings()
    md: MDSettings = MDSettings()
    cost: CostSettings = CostSettings()

    def tasks(self) -> dict[str, Task]:
        """Each task with its settings, under its name."""
        made: tuple[Task, ...] = (
            VibrationsTask(self.vibrations),
            RelaxationTask(self.relaxation),
            SaddleTask(self.saddle),
            NEBTask(self.neb),
            MDTask(self.md),
            CostTask(self.cost),
        )
        return {task.name: task for task in made}


TASKS = (ACCURACY, *TaskSettings().tasks())
"""Names of all tasks, in the order in which they are run."""


def chosen_tasks(names: Sequence[str]) -> list[str]:
    """Check names of tasks.

    Parameters
    ----------
    names
        Each a task, several with commas between them, or ``all``.

    Returns
    -------
    list of str
        In the order of :data:`TASKS`.

    Raises
    ------
    ConfigError
        When there is no such task.
    """
    wanted = [name.strip() for part in names for name in part.split(",")]
    if "all" in wanted:
        return list(TASKS)
    for name in wanted:
        if name not in TASKS:
            raise ConfigError("no such task", where=name, remedy=did_you_mean(name, TASKS))
    return [name for name in TASKS if name in wanted]


def task_of(metric: str) -> str:
    """Name the task that a metric belongs to: its name begins with the task's, but for those of accuracy."""
    return next((name for name in TASKS if metric.startswith(f"{name}_")), ACCURACY)


def saved_values(path: Path) -> dict[str, dict[str, float | None]]:
    """Numbers subject by subject, from what a task saved.

    Parameters
    ----------
    path
        The file of results.

    Returns
    -------
    dict
        See :meth:`hessgnn.evaluation.tasks.base.Task.values`.

    Raises
    ------
    DataError
        When the file is missing, or is not of a task as it is now.
    """
    key, results = read_journal(path)
    remedy = "run `hessgnn evaluate` on the run again"
    task = TaskSettings().tasks().get(key.get("task", ""))
    if task is None or key.get("version") != task.version:
        raise DataError("are results of another version", where=path, remedy=remedy)
    settings = parse(type(task.settings), key["settings"], where=path)
    return type(task)(settings).values(results)
