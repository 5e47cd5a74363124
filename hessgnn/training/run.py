"""The run folder: what a training run leaves behind, and how a potential is loaded from it.

::

    runs/my-run/
    ├── config.yaml     the resolved configuration: trains the same again
    ├── versions.json   of Python and the packages that decide numbers
    ├── metrics.csv     one row for each validation
    ├── last.pt         to resume from: weights, optimiser, averages, counters
    ├── best.pt         the judged weights of the best validation
    └── record.json     after `hessgnn evaluate`
"""

from __future__ import annotations

import csv
import io
import json
import pickle
import platform
import zipfile
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from hessgnn.errors import ConfigError, TrainingError
from hessgnn.potentials.base import Potential
from hessgnn.runtime.config import load as load_config
from hessgnn.runtime.config import save as save_config
from hessgnn.runtime.files import atomic_path, write_text
from hessgnn.training.config import RunConfig

_PACKAGES = ("hessgnn", "torch", "torch-geometric", "e3nn", "torchani", "numpy", "h5py", "ase", "optuna")


@dataclass(frozen=True)
class Point:
    """One validation: a row of ``metrics.csv``. Losses are means over the steps since the last one.

    Errors are root mean squares; ``None`` where no structure has the label or the term had weight 0.
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


@dataclass(frozen=True)
class Run:
    """Paths of a run folder, and reading and writing of what is in it.

    Parameters
    ----------
    folder
        The run folder.
    """

    folder: Path

    @property
    def config_path(self) -> Path:
        """The resolved configuration."""
        return self.folder / "config.yaml"

    @property
    def last(self) -> Path:
        """The checkpoint to resume from."""
        return self.folder / "last.pt"

    @property
    def best(self) -> Path:
        """The judged weights."""
        return self.folder / "best.pt"

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
        if not self.config_path.is_file():
            raise ConfigError(
                "is not a run folder (no config.yaml)",
                where=self.folder,
                remedy="give a folder made by `hessgnn train`",
            )
        return load_config(RunConfig, self.config_path)

    def begin(self, config: RunConfig) -> None:
        """Write what is known before the first step.

        Parameters
        ----------
        config
            The resolved configuration.
        """
        save_config(config, self.config_path)
        write_text(self.folder / "versions.json", json.dumps(versions(), indent=1) + "\n")

    def write_metrics(self, curve: list[Point]) -> None:
        """Write all validations so far.

        Parameters
        ----------
        curve
            In order.
        """
        text = io.StringIO()
        writer = csv.DictWriter(text, [field.name for field in fields(Point)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(point) for point in curve)
        write_text(self.metrics, text.getvalue())

    def curve(self) -> list[Point]:
        """Read all validations."""
        if not self.metrics.is_file():
            return []
        with self.metrics.open(encoding="utf-8", newline="") as file:
            return [_point(row) for row in csv.DictReader(file)]


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide numbers."""
    return {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}}


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write tensors and plain containers atomically.

    Parameters
    ----------
    path
        The file.
    content
        Anything that ``torch.load(weights_only=True)`` admits.
    """
    with atomic_path(path) as temporary:
        torch.save(content, temporary)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read what :func:`save_checkpoint` wrote, on the CPU; nothing in the file can run code.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    dict
        The content.

    Raises
    ------
    TrainingError
        When the file is missing, damaged, or holds more than tensors and plain containers.
    """
    try:
        with path.open("rb") as file:
            if not zipfile.is_zipfile(file):
                raise ValueError("not an archive")  # torch would try its old format, a bare pickle
            file.seek(0)
            return torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise TrainingError("no such checkpoint", where=path, remedy="train first") from None
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise TrainingError(
            "the checkpoint is damaged, or not one of ours", where=path, remedy="train again, or use a copy"
        ) from error


def load(folder: str | Path, device: str = "cpu") -> Potential:
    """Load the best potential of a run.

    Parameters
    ----------
    folder
        The run folder.
    device
        Where to put it.

    Returns
    -------
    Potential
        In the type it was trained in, ready for evaluation.
    """
    run = Run(Path(folder))
    config = run.config()
    potential = build(config)
    load_weights(potential, load_checkpoint(run.best)["potential"], where=run.best)
    return potential.to(device).eval()


def build(config: RunConfig) -> Potential:
    """Build the potential of a configuration, with fresh weights from torch's global generator.

    Parameters
    ----------
    config
        The configuration, with elements.

    Returns
    -------
    Potential
        On the CPU, in the training type.
    """
    return config.potential_class()(config.potential_config()).to(getattr(torch, config.training.dtype))


def load_weights(potential: Potential, state: dict[str, Any], *, where: Path) -> None:
    """Put weights into a potential.

    Parameters
    ----------
    potential
        Of the architecture and settings that the weights belong to.
    state
        Its state.
    where
        Named in the error.

    Raises
    ------
    TrainingError
        When they do not fit.
    """
    try:
        potential.load_state_dict(state)
    except RuntimeError as error:
        raise TrainingError(
            "the weights do not fit the architecture of config.yaml", where=where, remedy="use files of one run"
        ) from error


def _point(row: dict[str, str]) -> Point:
    values = {key: None if text == "" else float(text) for key, text in row.items()}
    return Point(**{**values, "step": int(row["step"]), "products": int(row["products"])})  # type: ignore[arg-type]
