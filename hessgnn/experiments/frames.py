"""Displaced frames: energies and forces around stationary points, for what Hessians would cost."""

from __future__ import annotations

import hashlib
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from hessgnn.data.store.store import Store
from hessgnn.data.structure import Array, Structure
from hessgnn.errors import ConfigError, DataError
from hessgnn.experiments.config import LabelSettings
from hessgnn.experiments.workers import PRELOAD
from hessgnn.molecules.geometry import molecule_rng
from hessgnn.runtime.files import atomic_path
from hessgnn.runtime.processes import each
from hessgnn.surface.base import SurfaceError
from hessgnn.surface.engines.base import Engine, make_engine

T = TypeVar("T")

FRAME = "displaced"
"""Kind of the displaced frames."""
CLOSEST = 0.6
"""Å: frames with atoms nearer than this are drawn again."""


def displaced_frames(
    structure: Structure, number: int, engine: Engine, settings: LabelSettings, draw: int = 0
) -> list[Structure]:
    """Label frames around a structure, each atom moved at random.

    No Hessian guides the displacements: a user without Hessians has none. The standard deviation of a frame's
    displacements is drawn between 0 and the settings' largest, so that small and large ones occur. Each ``draw``, the
    seed of a run, has frames of its own. They are in the split of the structure, with it as their parent.

    Raises
    ------
    DataError
        When a frame cannot be labelled in so many attempts.
    """
    frames: list[Structure] = []
    rng = molecule_rng((settings.seed, draw), structure.name)
    for k in range(number):
        for _ in range(settings.attempts):
            spread = settings.displacement * rng.uniform()
            positions = structure.positions + rng.normal(scale=spread, size=structure.positions.shape)
            if _closest(positions) < CLOSEST:
                continue
            image = structure.to_atoms()
            image.positions = positions
            try:
                energy, forces = engine.energy_forces(image)
            except SurfaceError:
                continue
            frames.append(_frame(structure, k, positions, energy, forces))
            break
        else:
            raise DataError(
                f"frame {k} could not be labelled in {settings.attempts} attempts",
                where=structure.name,
                hint="lower labels.displacement",
            )
    return frames


def require_same_level(store: Store, engine: Engine) -> None:
    """Refuse to label at another level of theory than that of the data."""
    if store.attributes.level_of_theory != engine.level_of_theory:
        raise ConfigError(
            f"the data are {store.attributes.level_of_theory}, the engine that would label them gives "
            f"{engine.level_of_theory}",
            where=store.path,
            hint="leave labels with frames or products out of `regimes`, or set labels.engine",
        )


@dataclass(frozen=True)
class LabelJob(ABC, Generic[T]):
    """Labels of one structure that are computed once and kept in a file.

    ``draw`` is the seed of a run: each has random labels of its own.
    """

    folder: Path
    structure: Structure
    number: int
    settings: LabelSettings
    draw: int

    @property
    @abstractmethod
    def path(self) -> Path:
        """Named after all that the labels depend on."""

    @abstractmethod
    def kept(self) -> T | None:
        """What is in the file; ``None`` where it must be computed."""

    @abstractmethod
    def make(self) -> None:
        """Compute them and write the file, with an engine of its own."""

    def labels(self) -> T:
        """The labels, which have been made."""
        found = self.kept()
        assert found is not None, self.path
        return found

    def file_of(self, key: str) -> Path:
        """Name a file after the digest of a text."""
        return self.folder / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.npz"

    def read(self, *keys: str) -> list[Array] | None:
        """Read arrays from the file; ``None`` where there is none, or a damaged one."""
        try:
            with np.load(self.path, allow_pickle=False) as kept:
                found = [kept[key] for key in keys]
                return found if len({array.shape[:1] for array in found}) == 1 else None
        except (OSError, KeyError, ValueError, zipfile.BadZipFile):
            return None

    def write(self, **arrays: Array) -> None:
        """Write arrays to the file."""
        with atomic_path(self.path) as temporary, temporary.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]


class FrameJob(LabelJob[list[Structure]]):
    """Frames of one structure."""

    @property
    def path(self) -> Path:
        """Named after all that they depend on."""
        positions = self.structure.positions.tobytes().hex()
        labels = self.settings.model_dump_json(exclude={"hessian_gradients", "mode_engine"})
        return self.file_of(f"{self.structure.name} {self.number} {labels} {self.draw} {positions}")

    def kept(self) -> list[Structure] | None:
        """The frames in the file; ``None`` where there is none, or a damaged one."""
        columns = self.read("positions", "energy", "forces")
        if columns is None:
            return None
        return [_frame(self.structure, k, *column) for k, column in enumerate(zip(*columns, strict=True))]

    def make(self) -> None:
        """Label them, with an engine of its own: it takes the density of the last geometry for a guess of the next."""
        engine = make_engine(self.settings.engine)
        frames = displaced_frames(self.structure, self.number, engine, self.settings, self.draw)
        keys = "positions", "energy", "forces"
        self.write(**{key: np.array([getattr(frame, key) for frame in frames]) for key in keys})


def make_labels(
    jobs: Sequence[LabelJob[Any]], processes: int, observer: Callable[[int, int], None], where: Path
) -> None:
    """Compute what is not kept yet.

    The server that processes are forked from is started once, so it is the one that trainings need.
    """
    todo = [job for job in jobs if job.kept() is None]

    def tell(done: int) -> None:
        observer(len(jobs) - len(todo) + done, len(jobs))

    if not todo:
        return
    tell(0)
    alone = min(processes, len(todo)) < 2
    finished = map(_make, todo) if alone else each(_make, todo, processes, where=where, preload=PRELOAD)
    for done, _ in enumerate(finished, 1):
        tell(done)


def _make(job: LabelJob[Any]) -> None:
    job.make()


def _frame(structure: Structure, k: int, positions: Array, energy: float, forces: Array) -> Structure:
    return Structure(
        numbers=structure.numbers,
        positions=positions,
        energy=float(energy),
        forces=forces,
        name=f"{structure.name}/displaced-{k:03d}",
        group=structure.group,
        kind=FRAME,
        split=structure.split,
        parent=structure.name,
    )


def _closest(positions: Array) -> float:
    distances = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    return float(distances[np.triu_indices(len(positions), 1)].min(initial=np.inf))
