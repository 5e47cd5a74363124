"""What an evaluation writes: the record of one trained potential, and the results of each task.

The record is one JSON file with everything the leaderboard may know. It belongs to one run, that is one seed; seeds
of the same entry are joined by the leaderboard, never here. A missing number is ``null``, never zero.

Results of a task are saved as they come, one line of JSON for each subject. A killed process loses at most the line
it was writing. The first line says what the results belong to; results of other weights, data or settings are not
mixed with them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, model_validator

from hessgnn.errors import DataError
from hessgnn.runtime.config import Settings, read_json
from hessgnn.runtime.files import write_text
from hessgnn.training.regimes import OriginKind, Regime, origin_of
from hessgnn.training.sources import TrainedOn, comparable

FORMAT: Literal[1] = 1
"""Version of the record's layout."""

Budget = Literal["steps", "seconds"]
"""What was equal for all regimes of an architecture: training steps, or the device-seconds that E-F-H took."""

Better = Literal["lower", "higher"]
"""Which of two values of a metric is the better one."""


Result = dict[str, Any]
"""What a task found for one subject, as plain numbers, strings and lists."""

Values = dict[str, dict[str, float | None]]
"""Name of a metric -> name of the subject -> its value; ``None`` where the subject failed."""


class Metric(Settings):
    """One number with its unit and the number of structures behind it."""

    value: float | None
    unit: str
    n: NonNegativeInt = Field(description="structures that the value was taken over")
    title: str = Field(default="", description="heading; that of the task's definition if empty")
    better: Better = "lower"


class DataSource(Settings):
    """The data that a potential was trained and evaluated on."""

    name: str
    content_hash: str
    split_hash: str
    level_of_theory: str


_GRADIENTS = ("label_gradients", "validation_gradients", "tuning_gradients")


class Cost(Settings):
    """What a result cost. Device-seconds are seconds of training steps, without validation and checkpoints."""

    steps: NonNegativeInt = 0
    device: str = "none"
    threads: NonNegativeInt = Field(default=0, description="CPU threads that torch used")
    seconds_per_step: NonNegativeFloat | None = Field(default=None, description="median over the run")
    seconds_per_epoch: NonNegativeFloat | None = Field(default=None, description="steps of an epoch at that median")
    device_seconds: NonNegativeFloat = 0.0
    products: NonNegativeInt = Field(default=0, description="Hessian-vector products of whole batches, in training")
    sweep_trials: NonNegativeInt = Field(default=0, description="trials spent on tuning before this run")
    sweep_device_seconds: NonNegativeFloat = 0.0
    label_gradients: NonNegativeInt | None = Field(
        default=None, description="what the labels of the training set cost, in gradients of the engine; null: unknown"
    )
    validation_gradients: NonNegativeInt | None = Field(
        default=None, description="the same of the labels that the checkpoint was chosen by"
    )
    tuning_gradients: NonNegativeInt | None = Field(
        default=None,
        description="the same of what the trials of the entry were trained on and this run was not; null: unknown",
    )
    start_gradients: NonNegativeInt | None = Field(
        default=None,
        description="the same of all labels that the run it started from, and what that one started from, was given; "
        "null: unknown, as for published weights, or it started from nothing",
    )

    def before(self) -> dict[str, float | None]:
        """What was spent before the run: on tuning, and on labels."""
        return self.model_dump(include={"sweep_trials", "sweep_device_seconds", *_GRADIENTS})


class Start(Settings):
    """The weights that a run started from: published ones, or those of another run."""

    name: str = Field(description="of the weights, or of the run's folder or file")
    sha256: str | None = Field(default=None, description="of the file of weights")
    entry: str | None = Field(default=None, description="what the leaderboard calls that run; null if it was none")
    seed: int | None = Field(default=None, description="of that run")
    regime: Regime | None = Field(default=None, description="labels it was trained on, or published; null: unknown")
    level_of_theory: str | None = Field(default=None, description="of those labels, if known")
    reference_shift: dict[str, float] = Field(
        default_factory=dict, description="element -> eV that its reference energy moved by when the run began"
    )

    @property
    def title(self) -> str:
        """What pages call it."""
        return self.entry or self.name


class CurvePoint(Settings):
    """One validation during training."""

    step: NonNegativeInt
    device_seconds: NonNegativeFloat
    score: float
    energy_rmse: float | None = Field(default=None, description="meV/atom")
    forces_rmse: float | None = Field(default=None, description="meV/Å")
    hessian_rmse: float | None = Field(default=None, description="eV/Å²")


class PredictionFile(Settings):
    """Saved predictions, from which the metrics can be recomputed without the potential."""

    path: str = Field(description="relative to the record")
    sha256: str

    @classmethod
    def of(cls, path: Path) -> PredictionFile:
        """What a file holds now."""
        return cls(path=path.name, sha256=_sha256(path))

    def is_at(self, path: Path) -> bool:
        """Whether this very content lies there; :class:`DataError` where it cannot be read."""
        return path.is_file() and _sha256(path) == self.sha256.lower()


class Failure(Settings):
    """A structure, or a whole task, that gave no result."""

    task: str
    split: str
    structure: str | None = Field(description="null when the whole task failed")
    reason: str


class Record(Settings):
    """One run's entry for the leaderboard."""

    format: Literal[1] = FORMAT
    entry: str = Field(description="what the leaderboard joins seeds under, e.g. 'schnet E-F-H'")
    architecture: str
    regime: Regime
    budget: Budget = Field(default="steps", description="what was equal for all regimes of the architecture")
    demonstration: bool = Field(
        default=False, description="a short run that shows the tool: no comparison with it is evidence"
    )
    start: Start | None = Field(default=None, description="what the run started from; null: from nothing")
    seed: int | None
    status: Literal["ok", "failed"]
    reason: str | None = Field(default=None, description="why it failed; mandatory then")
    parameters: NonNegativeInt = Field(description="trainable numbers")
    data: DataSource
    sources: tuple[TrainedOn, ...] = Field(
        default=(), description="stores that it was trained on, the first in front; empty where data is all"
    )
    cost: Cost
    weights: dict[str, float] = Field(description="energy (1), forces (Å²) and hessian (Å⁴) weights of the loss")
    metrics: dict[str, dict[str, Metric]] = Field(description="split -> metric name -> metric")
    split_sizes: dict[str, NonNegativeInt] = Field(
        default_factory=dict,
        description="structures of each split; a metric whose n is smaller was taken over a sample",
    )
    curve: list[CurvePoint] = Field(default_factory=list)
    converged: bool | None = Field(
        default=None,
        description="whether training ended since its validation was flat; false where its steps were used up, null "
        "where it is not known",
    )
    predictions: dict[str, PredictionFile] = Field(default_factory=dict)
    results: dict[str, PredictionFile] = Field(
        default_factory=dict,
        description="'task split' -> what a task saved; of accuracy, the curvature of each structure",
    )
    failures: list[Failure] = Field(
        default_factory=list, description="of the other tasks; they are counted, not hidden"
    )
    fingerprint: str = Field(default="", description="of the weights: results of others are not mixed with these")
    config: dict[str, Any] = Field(default_factory=dict, description="the resolved training configuration")
    versions: dict[str, str] = Field(default_factory=dict)
    hardware: str = ""

    @property
    def origin(self) -> OriginKind:
        """Where the potential has its weights from."""
        return origin_of(self.regime, started=self.start is not None, elsewhere=self._is_of_other_levels)

    @property
    def _is_of_other_levels(self) -> bool:
        """Whether none of the stores that it was trained on is at the level of theory that it is judged at.

        Another store at the same level may be a part of these data with more labels, as in studies of labels.
        """
        levels = {comparable(one.level_of_theory) for one in self.sources}
        return bool(levels) and comparable(self.data.level_of_theory) not in levels

    @model_validator(mode="after")
    def _failed_has_reason(self) -> Record:
        if (self.status == "failed") != (self.reason is not None):
            raise ValueError("status 'failed' needs a reason, and only it has one")
        return self


def read_record(path: Path) -> Record:
    """Read and check a record; :class:`DataError` when it is missing, damaged, or has missing or unknown fields."""
    return read_json(Record, path, hint="run `hessgnn evaluate` on the run first")


def write_record(record: Record, path: Path) -> None:
    """Write a record atomically."""
    write_text(path, record.model_dump_json(indent=1) + "\n")


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", where=path) from error


class Journal:
    """A file of results that grows. ``key`` is what they belong to; a file with another key is overwritten."""

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
    """Write all results at once, in place of what the file holds: name of the structure -> result."""
    write_text(path, json.dumps(key) + "\n" + "".join(_line(*item) for item in results.items()))


def read_results(path: Path) -> dict[str, Result]:
    """Read the results of :func:`read_journal` alone."""
    return read_journal(path)[1]


def read_journal(path: Path) -> tuple[Result, dict[str, Result]]:
    """Read what a task saved: the key, which names the task and its settings, and name of the structure -> result.

    Raises :class:`DataError` when the file is missing or holds no results.
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
