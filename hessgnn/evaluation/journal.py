"""Results of a task, saved as they come: one line of JSON for each subject.

A killed process loses at most the line it was writing. The first line says what the results belong to; results of
other weights, data or settings are not mixed with them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

from hessgnn.errors import DataError
from hessgnn.evaluation.record import PredictionFile
from hessgnn.runtime.files import write_text
from hessgnn.surface.base import Surface

Result = dict[str, Any]
"""Plain numbers, strings and lists."""


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


class Journal:
    """A file of results that grows.

    Parameters
    ----------
    path
        The file.
    key
        What the results belong to. A file with another key is overwritten.
    """

    def __init__(self, path: Path, key: Result) -> None:
        self.path = path
        self.results: dict[str, Result] = {}
        head, lines = _read(path) if path.is_file() else (None, [])
        if head == json.loads(json.dumps(key)):
            self.results = dict(lines)
        write_results(path, key, self.results)  # without a line that was cut off, and one line for each structure

    def add(self, name: str, result: Result) -> None:
        """Save the result of a structure; a later one replaces an earlier one."""
        self.results[name] = result
        with self.path.open("a", encoding="utf-8") as file:
            file.write(_line(name, result))

    def file(self) -> PredictionFile:
        """Name and checksum, for the record."""
        return PredictionFile.of(self.path)


def write_results(path: Path, key: Result, results: Mapping[str, Result]) -> None:
    """Write all results at once.

    Parameters
    ----------
    path
        The file; what it holds is replaced.
    key
        What the results belong to.
    results
        Name of the structure -> result.
    """
    write_text(path, json.dumps(key) + "\n" + "".join(_line(*item) for item in results.items()))


def read_results(path: Path) -> dict[str, Result]:
    """Read the results of :func:`read_journal` alone."""
    return read_journal(path)[1]


def read_journal(path: Path) -> tuple[Result, dict[str, Result]]:
    """Read what a task saved, and what it belongs to.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    dict, dict
        The key, which names the task and its settings; and name of the structure -> result.

    Raises
    ------
    DataError
        When the file is missing or holds no results.
    """
    if not path.is_file():
        raise DataError("no such results", where=path, hint="run `hessgnn evaluate` first")
    head, lines = _read(path)
    if head is None:
        raise DataError("holds no results", where=path, hint="run `hessgnn evaluate` on the run again")
    return head, dict(lines)


def _read(path: Path) -> tuple[Result | None, list[tuple[str, Result]]]:
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            break  # cut off by a kill: what follows, if anything, is not to be trusted
    if not found or not isinstance(found[0], dict):
        return None, []
    return found[0], [(str(name), result) for name, result in found[1:]]


def _line(name: str, result: Result) -> str:
    return json.dumps([name, result]) + "\n"
