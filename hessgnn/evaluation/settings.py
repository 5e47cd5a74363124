"""Which tasks are run, and with what settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import ConfigDict, Field, PositiveInt, create_model, model_validator

from hessgnn.errors import ConfigError, did_you_mean
from hessgnn.evaluation.tasks.base import TASKS, Task, all_tasks
from hessgnn.runtime.config import Settings, parse

DEFAULT_TASKS = ("accuracy",)
"""Tasks that are run when none is named: the others take minutes rather than seconds."""


class _Common(Settings):
    """What is said to all tasks."""

    subjects: PositiveInt | None = Field(
        default=None,
        description="most molecules or reactions of a split that are simulated, spread evenly over it; all if absent",
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
        """Make a task with its settings.

        Parameters
        ----------
        name
            Registered, or ``package.module:Name``.

        Returns
        -------
        Task
            Ready to be run.

        Raises
        ------
        ConfigError
            When there is no such task.
        """
        cls = TASKS[name]
        return cls(getattr(self, cls.name, None))


def chosen_tasks(names: Sequence[str]) -> list[str]:
    """Check names of tasks.

    Parameters
    ----------
    names
        Each a task, registered or as ``package.module:Name``, several with commas between them, or ``all``.

    Returns
    -------
    list of str
        In the order in which they are run.

    Raises
    ------
    ConfigError
        When there is no such task.
    """
    wanted = [name.strip() for part in names for name in part.split(",")]
    if "all" in wanted:
        wanted = [*(name for name in wanted if ":" in name), *(task.name for task in all_tasks())]
    found = {TASKS[name]: name for name in wanted if name != "all"}
    return [found[task] for task in sorted(found, key=lambda task: (task.order, task.name))]
