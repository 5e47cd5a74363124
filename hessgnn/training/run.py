"""The run folder: the files of a training run.

::

    runs/my-run/
    ├── config.yaml     the resolved configuration: trains the same again
    ├── start.json      what weights it started from, if any
    ├── sources.json    what it is trained on
    ├── versions.json   of Python and the packages that decide numbers
    ├── metrics.csv     one row for each validation; metrics-NAME.csv of other stores that the run is on
    ├── last.pt         checkpoint to resume from: weights, optimiser, averages, counters
    ├── best.pt         averaged weights with the best validation score
    └── record.json     after `hessgnn evaluate`
"""

from __future__ import annotations

import csv
import io
import json
import platform
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from hessgnn.errors import ConfigError, TrainingError
from hessgnn.potentials.saved import (
    BEST,
    CONFIG,
    foreign_checkpoint,
    load_checkpoint,
    require_run_folder,
    trusted_by_user,
)
from hessgnn.runtime.config import differences, override, parse, read_yaml
from hessgnn.runtime.config import save as save_config
from hessgnn.runtime.files import write_text
from hessgnn.training.config import RunConfig
from hessgnn.training.sources import SOURCES, TrainedOn, TrainedOnAll, read_sources
from hessgnn.training.start import ORIGIN, Origin

_CHECKPOINT = {"potential", "averaged", "optimizer", "schedule", "progress"}
_PROGRESS = {"step", "device", "threads", "device_seconds", "seconds_per_step", "products", "curve", "best_step"}
"""Keys of a checkpoint, and of what it says of the progress, in files of all versions."""

_PACKAGES = ("hessgnn", "torch", "torch-geometric", "e3nn", "torchani", "numpy", "h5py", "ase", "optuna")


@dataclass(frozen=True)
class ValidationPoint:
    """One validation: a row of ``metrics.csv``. Losses are means over the steps since the last one.

    Errors are root mean squares. Losses and errors are ``None`` where no structure has the label or the term had
    weight 0 in the loss or the score. ``others`` are those on other stores that the run is also trained on, by name.
    """

    step: int
    epoch: float
    lr: float
    device_seconds: float
    products: int
    score: float
    loss: float | None
    loss_energy: float | None
    loss_forces: float | None
    loss_hessian: float | None
    energy_rmse: float | None
    forces_rmse: float | None
    hessian_rmse: float | None
    energy_molecule_rmse: float | None = None
    others: dict[str, ValidationPoint] = field(default_factory=dict)

    @classmethod
    def read(cls, content: dict[str, Any]) -> ValidationPoint:
        """Undo :meth:`content`."""
        others = {name: cls(**other) for name, other in content.get("others", {}).items()}
        return cls(**{**content, "others": others})

    def content(self) -> dict[str, Any]:
        """The numbers as plain values, without ``others`` where there are none."""
        found = asdict(self)
        others = {name: other.content() for name, other in self.others.items()}
        return {key: value for key, value in found.items() if key != "others"} | ({"others": others} if others else {})


@dataclass(frozen=True)
class Run:
    """Paths of a run folder, and reading and writing of what is in it."""

    folder: Path

    @property
    def config_path(self) -> Path:
        """The resolved configuration."""
        return self.folder / CONFIG

    @property
    def last(self) -> Path:
        """The checkpoint to resume from."""
        return self.folder / "last.pt"

    @property
    def best(self) -> Path:
        """The averaged weights with the best validation score."""
        return self.folder / BEST

    @property
    def record(self) -> Path:
        """The record of the evaluation."""
        return self.folder / "record.json"

    @property
    def metrics(self) -> Path:
        """One row for each validation."""
        return self.folder / "metrics.csv"

    def config(self, assignments: Sequence[str] = ()) -> RunConfig:
        """Read the resolved configuration, with overrides of the user; ``trust`` is never taken from the file."""
        path = require_run_folder(self.folder)
        content = read_yaml(path)
        if "potential" in content:
            content["potential"] = trusted_by_user(content["potential"])
        return parse(RunConfig, override(content, assignments), where=path)

    def require_new(self) -> None:
        """Raise :class:`TrainingError` when the folder holds a run already."""
        if self.config_path.exists():
            raise TrainingError("holds a run already", where=self.folder, hint="resume it, or name another folder")

    def require_same(self, begun: RunConfig, now: RunConfig) -> None:
        """Raise :class:`ConfigError`, with keys and values, when a run is to be resumed with other settings."""
        if not (changed := differences(now, begun)):
            return
        each = [f"{key} is {here} here, {there} in the run" for key, (here, there) in changed.items()]
        more = f" (and {len(each) - 3} more)" if len(each) > 3 else ""
        hint = "resume with the same settings, or name another folder"
        if "training.steps" in changed:
            hint += "; training.steps may be raised, not lowered, and with a cosine schedule neither"
        raise ConfigError(
            f"the configuration differs from the one that the run was begun with: {'; '.join(each[:3])}{more}",
            where=self.config_path,
            hint=hint,
        )

    def origin(self) -> Origin | None:
        """What the run started from; ``None`` for fresh weights."""
        return Origin.load(self.folder)

    def sources(self) -> tuple[TrainedOn, ...]:
        """The stores that the run is trained on, see :func:`~hessgnn.training.sources.read_sources`."""
        return read_sources(self.folder)

    def begun(self, config: RunConfig) -> tuple[Origin | None, tuple[TrainedOn, ...]]:
        """Start and stores of a run that is resumed with a configuration; nothing before its first checkpoint.

        Raises :class:`TrainingError` when the file that names its start is missing.
        """
        if not self.last.exists():
            return None, ()
        origin = self.origin()
        if origin is None and config.training.start is not None:
            raise TrainingError(
                f"has no {ORIGIN}, which says what the run started from",
                where=self.folder,
                hint="bring the file back, or begin another run",
            )
        return origin, self.sources()

    def begin(self, config: RunConfig, origin: Origin | None = None, sources: Sequence[TrainedOn] = ()) -> None:
        """Write what is known before the first step: start and stores, the resolved configuration, and versions."""
        if origin is not None:
            origin.save(self.folder)
        if sources:
            content = TrainedOnAll(sources=tuple(sources))
            write_text(self.folder / SOURCES, content.model_dump_json(indent=1) + "\n")
        self.save(config)
        write_text(self.folder / "versions.json", json.dumps(versions(), indent=1) + "\n")

    def save(self, config: RunConfig) -> None:
        """Write the resolved configuration, without ``trust``: that is never taken from a run folder."""
        save_config(config.without_trust(), self.config_path)

    def checkpoint(self) -> dict[str, Any]:
        """Read the checkpoint to resume from; :class:`TrainingError` when it is no such one."""
        content = load_checkpoint(self.last)
        if not (content.keys() >= _CHECKPOINT and isinstance(content["progress"], dict)):
            raise TrainingError(
                "is not a checkpoint to resume from", where=self.last, hint="use the last.pt that this run has written"
            )
        if not content["progress"].keys() >= _PROGRESS:
            raise foreign_checkpoint(self.last)
        return content

    def write_metrics(self, curve: list[ValidationPoint]) -> None:
        """Write all validations so far, in order, those on each store to a file of its own."""
        _write_points(self.metrics, curve)
        for name in curve[-1].others if curve else ():
            _write_points(self.metrics_of(name), [point.others[name] for point in curve])

    def metrics_of(self, name: str) -> Path:
        """One row for each validation on another store that the run is trained on."""
        return self.folder / f"metrics-{name}.csv"

    def curve(self) -> list[ValidationPoint]:
        """Read all validations, those on the first store."""
        if not self.metrics.is_file():
            return []
        with self.metrics.open(encoding="utf-8", newline="") as file:
            return [_point(row) for row in csv.DictReader(file)]


def _write_points(path: Path, points: list[ValidationPoint]) -> None:
    text = io.StringIO()
    columns = [column.name for column in fields(ValidationPoint) if column.name != "others"]
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(point) for point in points)
    write_text(path, text.getvalue())


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide numbers."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        with suppress(PackageNotFoundError):  # a run needs no Optuna
            found[name] = version(name)
    return found


def _point(row: dict[str, str]) -> ValidationPoint:
    values = {key: None if text == "" else float(text) for key, text in row.items()}
    return ValidationPoint(**{**values, "step": int(row["step"]), "products": int(row["products"])})  # type: ignore[arg-type]
