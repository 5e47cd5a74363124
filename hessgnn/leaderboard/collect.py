"""Finding records and the predictions saved beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from hessgnn.errors import DataError
from hessgnn.evaluation.predictions import Predictions
from hessgnn.evaluation.record import PredictionFile, Record, Result, Values, read_record, read_results
from hessgnn.evaluation.tasks.base import TASKS, Task

RECORD_NAME = "record.json"


@dataclass(frozen=True)
class RunFiles:
    """A run: its record, and the files that were found beside it."""

    path: Path
    record: Record
    files: dict[str, Path] = field(default_factory=dict)
    """Split to file; checksums verified."""
    results: dict[str, Path] = field(default_factory=dict)
    """'task split' to file; checksums verified."""
    notes: tuple[str, ...] = ()
    """What is missing, for the reader of the report."""
    _values: dict[tuple[str, str], Values] = field(default_factory=dict, repr=False)
    _molecules: dict[str, dict[str, str]] = field(default_factory=dict, repr=False)

    def predictions(self, split: str) -> Predictions | None:
        """Read the predictions for ``split``, or return None when the run saved none."""
        return Predictions.load(self.files[split]) if split in self.files else None

    def task_results(self, task: str, split: str) -> dict[str, Result] | None:
        """Read what a task saved for ``split``, structure by structure, or return None when it saved nothing."""
        path = self.results.get(f"{task} {split}")
        return None if path is None else read_results(path)

    def values(self, task: str, split: str) -> Values:
        """Numbers subject by subject: metric -> molecule, reaction or path -> value; empty where none are saved."""
        key = (task, split)
        if key not in self._values:
            self._values[key] = TASKS[task].saved_values(self.results.get(f"{task} {split}"), self.files.get(split))
        return self._values[key]

    def molecules(self, split: str) -> dict[str, str]:
        """The molecule or reaction that each structure of a split belongs to; empty where predictions are not saved."""
        if split not in self._molecules:
            found = self.predictions(split)
            pairs = [] if found is None else zip(found.name.tolist(), found.parent.tolist(), strict=True)
            self._molecules[split] = {name: parent or name for name, parent in pairs}
        return self._molecules[split]


def collect(paths: Iterable[Path]) -> list[RunFiles]:
    """Read the records of several runs, folders or record files, and verify the predictions that they name.

    A prediction file that is not there leaves a note; it is no error, since the record holds the scores.

    Raises
    ------
    DataError
        When there is no path, a record is missing or damaged, or a prediction file is not the one that the record
        was made with.
    """
    loaded = [_load(Path(path)) for path in paths]
    if not loaded:
        raise DataError("no runs to compare", hint="name at least one run folder or record file")
    return loaded


def _load(path: Path) -> RunFiles:
    if path.is_dir():
        path = path / RECORD_NAME
    record = read_record(path)
    notes: list[str] = []

    def present(saved: dict[str, PredictionFile], what: str, consequence: Callable[[str], str]) -> dict[str, Path]:
        found: dict[str, Path] = {}
        for key, item in saved.items():
            file = path.parent / item.path
            if not file.is_file():
                whose = f"{record.entry}, seed {record.seed}"
                notes.append(f"{whose}: the {what} {key} ({item.path}) are missing, so {consequence(key)}")
                continue
            if not item.is_at(file):
                raise DataError(
                    "is not the file that the record was made with (SHA-256 differs)",
                    where=file,
                    hint="restore it, or run `hessgnn evaluate` on the run again",
                )
            found[key] = file
        return found

    installed = set(TASKS)
    notes += [
        f"{record.entry}, seed {record.seed}: the task {name} is not installed here, so its claims are not tested"
        for name in sorted({key.partition(" ")[0] for key in record.results} - installed)
    ]

    def without_results(key: str) -> str:
        name = key.partition(" ")[0]
        return (TASKS[name] if name in installed else Task).without_results

    files = present(record.predictions, "predictions for", lambda _: "they are not plotted")
    results = present(record.results, "results of", without_results)
    return RunFiles(path=path, record=record, files=files, results=results, notes=tuple(notes))
