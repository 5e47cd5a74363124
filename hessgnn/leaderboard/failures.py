"""Structures that gave no result in a task: counted by reason, so that thousands of lines become a few."""

from __future__ import annotations

from collections.abc import Iterable

from hessgnn.evaluation.record import Record
from hessgnn.leaderboard.board import TaskFailure

EXAMPLES = 3


def task_failures(records: Iterable[Record]) -> list[TaskFailure]:
    """Join the failures of tasks that share entry, task, split and reason.

    Parameters
    ----------
    records
        All runs of a leaderboard.

    Returns
    -------
    list of TaskFailure
        Entry by entry and task by task, the most frequent reason first.
    """
    found: dict[tuple[str, str, str, str], list[str]] = {}
    for record in records:
        for failure in record.failures:
            key = (record.entry, failure.task, failure.split, failure.reason)
            found.setdefault(key, []).append(failure.structure or "")
    lines = [
        TaskFailure(
            entry=entry,
            task=task,
            split=split,
            reason=reason,
            n=len(names),
            examples=list(dict.fromkeys(filter(None, names)))[:EXAMPLES],
        )
        for (entry, task, split, reason), names in found.items()
    ]
    return sorted(lines, key=lambda line: (line.entry, line.task, line.split, -line.n))
