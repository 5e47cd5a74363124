"""Finding records and the predictions saved beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hessgnn.errors import DataError
from hessgnn.evaluation.predictions import ENERGIES, Predictions, SavedFamilies, saved_families
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
    _families: dict[str, SavedFamilies] = field(default_factory=dict, repr=False)

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
            found = TASKS[task].saved_values(self.results.get(f"{task} {split}"), self.files.get(split))
            metrics = self.record.metrics.get(split, {})
            # Energies of another level of theory have no error in the record, and so none here.
            empty = {name for name in ENERGIES if name in metrics and metrics[name].value is None}
            self._values[key] = {name: values for name, values in found.items() if name not in empty}
        return self._values[key]

    def families(self, split: str) -> SavedFamilies:
        """The family of each structure of a split, and of its parent; empty where predictions are not saved."""
        if split not in self._families:
            file = self.files.get(split)
            self._families[split] = SavedFamilies({}, known=False) if file is None else saved_families(file)
        return self._families[split]


class Families:
    """Which family each subject of a task belongs to: a molecule, reaction or path, by its name.

    Families are those that the split of the data keeps together. They come from saved predictions: a path is known by
    the name of its parent; or from what a task saved. Files of version 0.1.0 have none, and the composition stands in.

    Parameters
    ----------
    loaded
        Runs on the same data.
    """

    def __init__(self, loaded: Sequence[RunFiles]) -> None:
        self.loaded = loaded
        self.unknown: dict[tuple[str, str], int] = {}
        """Task and split -> subjects that are families of their own, because no file tells theirs."""
        self._splits = list(dict.fromkeys(split for run in loaded for split in run.files))
        self._found: dict[tuple[str, str], dict[str, str]] = {}
        self._by_split: dict[str, SavedFamilies] = {}

    @property
    def by_composition(self) -> list[str]:
        """Splits whose files have no families."""
        return [split for split in self._splits if not self._saved(split).known]

    def of(self, task: str, split: str, subjects: Iterable[str]) -> dict[str, str]:
        """Subject -> family; a subject whose family is not known is one of its own."""
        subjects = list(subjects)
        missing = self.missing(task, split, subjects)
        if missing:
            self.unknown[task, split] = max(len(missing), self.unknown.get((task, split), 0))
        return self._found[task, split] | {name: name for name in missing}

    def missing(self, task: str, split: str, subjects: Iterable[str]) -> set[str]:
        """Subjects whose family no file tells."""
        key = (task, split)
        if key not in self._found:
            found = self._of_results(task, split)
            for other in [*(name for name in self._splits if name != split), split]:  # the latter counts first
                found |= self._saved(other).of
            self._found[key] = found
        return set(subjects) - self._found[key].keys()

    def notes(self) -> list[str]:
        """Tell the reader where families are not known."""
        found = [
            f"Saved predictions of {', '.join(splits)} do not tell families: compositions stand in for them."
            for splits in [self.by_composition]
            if splits
        ]
        return found + [
            f"The families of {n} subjects of {task} on {split} are not known: each counts as one of its own."
            for (task, split), n in self.unknown.items()
        ]

    def _saved(self, split: str) -> SavedFamilies:
        """Of all runs together, since each may have predicted other structures."""
        if split not in self._by_split:
            saved = [run.families(split) for run in self.loaded if split in run.files]
            known = any(families.known for families in saved)
            found: dict[str, str] = {}
            for families in sorted(saved, key=lambda families: families.known):  # what is known replaces compositions
                found |= families.of
            self._by_split[split] = SavedFamilies(found, known)
        return self._by_split[split]

    def _of_results(self, task: str, split: str) -> dict[str, str]:
        """What a task saved beside its results."""
        return {
            name: str(row["group"])
            for run in self.loaded
            for name, row in (run.task_results(task, split) or {}).items()
            if isinstance(row, dict) and row.get("group")
        }


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
