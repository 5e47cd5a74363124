"""The run folder: the files of a training run.

::

    runs/my-run/
    ├── config.yaml     the resolved configuration: trains the same again
    ├── start.json     what weights it started from, if any
    ├── versions.json   of Python and the packages that decide numbers
    ├── metrics.csv     one row for each validation
    ├── last.pt         checkpoint to resume from: weights, optimiser, averages, counters
    ├── best.pt         averaged weights with the best validation score
    └── record.json     after `hessgnn evaluate`
"""

from __future__ import annotations

import csv
import io
import json
import platform
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from hessgnn.errors import TrainingError
from hessgnn.potentials.saved import BEST, CONFIG, require_run_folder
from hessgnn.runtime.config import load as load_config
from hessgnn.runtime.config import save as save_config
from hessgnn.runtime.files import write_text
from hessgnn.training.config import RunConfig
from hessgnn.training.start import Origin

_PACKAGES = ("hessgnn", "torch", "torch-geometric", "e3nn", "torchani", "numpy", "h5py", "ase", "optuna")


@dataclass(frozen=True)
class ValidationPoint:
    """One validation: a row of ``metrics.csv``. Losses are means over the steps since the last one.

    Errors are root mean squares. Losses and errors are ``None`` where no structure has the label or the term had
    weight 0 in the loss or the score.
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

    def config(self) -> RunConfig:
        """Read the resolved configuration."""
        return load_config(RunConfig, require_run_folder(self.folder))

    def require_new(self) -> None:
        """Raise :class:`TrainingError` when the folder holds a run already."""
        if self.config_path.exists():
            raise TrainingError("holds a run already", where=self.folder, hint="resume it, or name another folder")

    def origin(self) -> Origin | None:
        """What the run started from; ``None`` for fresh weights."""
        return Origin.load(self.folder)

    def begin(self, config: RunConfig, origin: Origin | None = None) -> None:
        """Write what is known before the first step: what it starts from, the resolved configuration, and versions."""
        if origin is not None:
            origin.save(self.folder)
        save_config(config, self.config_path)
        write_text(self.folder / "versions.json", json.dumps(versions(), indent=1) + "\n")

    def write_metrics(self, curve: list[ValidationPoint]) -> None:
        """Write all validations so far, in order."""
        text = io.StringIO()
        writer = csv.DictWriter(text, [field.name for field in fields(ValidationPoint)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(point) for point in curve)
        write_text(self.metrics, text.getvalue())

    def curve(self) -> list[ValidationPoint]:
        """Read all validations."""
        if not self.metrics.is_file():
            return []
        with self.metrics.open(encoding="utf-8", newline="") as file:
            return [_point(row) for row in csv.DictReader(file)]


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
