"""Training sets of a study: parts of the training split, and frames that cost as much to label as Hessians."""

from __future__ import annotations

import hashlib
import math
import statistics
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hessgnn.data.store.store import Store, write_store
from hessgnn.data.structure import Array, Structure
from hessgnn.errors import ConfigError, DataError
from hessgnn.experiments.config import LabelSettings
from hessgnn.molecules.geometry import molecule_rng
from hessgnn.runtime.files import atomic_path
from hessgnn.runtime.processes import each
from hessgnn.surface.base import SurfaceError
from hessgnn.surface.engines.base import Engine, make_engine
from hessgnn.training.config import DataConfig
from hessgnn.training.regimes import StudyRegime

FRAME = "displaced"
"""Kind of the frames of ``E-F+``."""
MEASURED = 5
"""Structures that the cost of a Hessian is measured on."""
CLOSEST = 0.6
"""Å: frames with atoms nearer than this are drawn again."""


def part_of(store: Store, split: str, fraction: float, seed: int) -> list[int]:
    """Choose a fraction of a split by whole groups, rounded up; smaller parts are inside larger ones.

    The seed orders the groups. Indices are in the order of the store.
    """
    indices = [int(i) for i in store.indices(split)]
    groups = sorted({store.groups[i] for i in indices})
    order = np.random.default_rng(seed).permutation(len(groups))
    taken = {groups[k] for k in order[: math.ceil(fraction * len(groups) - 1e-9)]}
    return [i for i in indices if store.groups[i] in taken]


def label_gradients(structures: Sequence[Structure], regime: StudyRegime, hessian_gradients: float) -> int:
    """What the labels of a training set cost, in gradients of the engine.

    ``structures`` are without the frames of ``E-F+``; ``hessian_gradients`` is the cost of a Hessian for each atom.
    An energy counts as a gradient: where analytic forces are known they cost about as much again.
    """
    once = sum(1 for _ in structures)
    if regime in ("E", "E-F"):
        return once
    return once + sum(n_frames(s, hessian_gradients) for s in structures)


def n_frames(structure: Structure, hessian_gradients: float) -> int:
    """Gradients that the Hessian of a structure is worth; none where it has no Hessian."""
    return 0 if structure.hessian is None else round(hessian_gradients * len(structure))


def measured_hessian_gradients(engine: Engine, structures: Sequence[Structure]) -> float:
    """Measure the seconds of a Hessian over those of a gradient and over the number of atoms.

    It is the median over the first few structures.
    """
    ratios = []
    for structure in structures[:MEASURED]:
        atoms = structure.to_atoms()
        start = time.perf_counter()
        for k in range(3):
            atoms.positions[0, 0] += 1e-3 * (k + 1)  # so that no answer is remembered
            engine.energy_forces(atoms)
        gradient = (time.perf_counter() - start) / 3
        start = time.perf_counter()
        engine.hessian(structure.to_atoms())
        ratios.append((time.perf_counter() - start) / gradient / len(structure))
    return statistics.median(ratios)


def displaced_frames(structure: Structure, number: int, engine: Engine, settings: LabelSettings) -> list[Structure]:
    """Label frames around a structure, each atom moved at random.

    No Hessian guides the displacements: a user without Hessians has none. The standard deviation of a frame's
    displacements is drawn between 0 and the settings' largest, so that small and large ones occur. Frames are in the
    split of the structure, with it as their parent.

    Raises
    ------
    DataError
        When a frame cannot be labelled in so many attempts.
    """
    frames: list[Structure] = []
    rng = molecule_rng(settings.seed, structure.name)
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


def write_part(
    store: Store,
    data: DataConfig,
    fraction: float,
    path: Path,
    settings: LabelSettings,
    *,
    frames_for: float | None = None,
    processes: int = 1,
    observer: Callable[[int, int], None] | None = None,
) -> None:
    """Write a training set with the validation split beside it, unless it is there.

    Parameters
    ----------
    store, data
        The whole data and the names of its splits.
    fraction
        Of the training split, see :func:`part_of`.
    path
        The file. Frames are kept beside it, structure by structure, so that an interrupted labelling resumes.
    settings
        Seed, and what frames need.
    frames_for
        Adds the frames of ``E-F+`` if given: gradients that a Hessian costs, for each atom.
    processes
        That structures are divided between for labelling; they change no number.
    observer
        Called with the number of structures whose frames are labelled, and with their total.

    Raises
    ------
    ConfigError
        When the engine's level of theory is not that of the data.
    """
    if path.is_file():
        return
    structures = [store[i] for i in part_of(store, data.train, fraction, settings.seed)]
    frames: list[Structure] = []
    if frames_for is not None:
        require_same_level(store, make_engine(settings.engine))
        jobs = [_Job(path.parent / "frames", s, n_frames(s, frames_for), settings) for s in structures]
        _label(jobs, processes, observer, path)
        frames = [frame for job in jobs for frame in job.frames()]
    validation = [store[int(i)] for i in store.indices(data.validation)]
    write_store(
        path,
        [*structures, *frames, *validation],
        level_of_theory=store.attributes.level_of_theory,
        provenance=f"{fraction:g} of {data.train} of {store.path.stem}, and {len(frames)} displaced frames",
        hessian_dtype=store.attributes.hessian_dtype,
    )


def require_same_level(store: Store, engine: Engine) -> None:
    """Refuse to label frames at another level of theory than that of the data."""
    if store.attributes.level_of_theory != engine.level_of_theory:
        raise ConfigError(
            f"the data are {store.attributes.level_of_theory}, the engine that would label the frames of E-F+ gives "
            f"{engine.level_of_theory}",
            where=store.path,
            hint="leave E-F+ out of `regimes`, or set labels.engine",
        )


@dataclass(frozen=True)
class _Job:
    """Frames of one structure, kept in a file."""

    folder: Path
    structure: Structure
    number: int
    settings: LabelSettings

    @property
    def path(self) -> Path:
        """Named after all that they depend on."""
        positions = self.structure.positions.tobytes().hex()
        key = f"{self.structure.name} {self.number} {self.settings.model_dump_json()} {positions}"
        return self.folder / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.npz"

    def kept(self) -> list[Structure] | None:
        """The frames in the file; ``None`` where there is none, or a damaged one."""
        try:
            with np.load(self.path, allow_pickle=False) as kept:
                columns = zip(kept["positions"], kept["energy"], kept["forces"], strict=True)
                return [_frame(self.structure, k, *column) for k, column in enumerate(columns)]
        except (OSError, KeyError, ValueError, zipfile.BadZipFile):
            return None

    def frames(self) -> list[Structure]:
        """The frames, which have been labelled."""
        found = self.kept()
        assert found is not None, self.path
        return found


def _label(jobs: Sequence[_Job], processes: int, observer: Callable[[int, int], None] | None, where: Path) -> None:
    """Label what is not kept yet."""
    todo = [job for job in jobs if job.kept() is None]

    def tell(done: int) -> None:
        if observer is not None:
            observer(len(jobs) - len(todo) + done, len(jobs))

    if not todo:
        return
    tell(0)
    alone = min(processes, len(todo)) < 2
    finished = map(_label_one, todo) if alone else each(_label_one, todo, processes, where=where)
    for done, _ in enumerate(finished, 1):
        tell(done)


def _label_one(job: _Job) -> None:
    """With an engine of its own, as it takes the density of the last geometry for a guess of the next one."""
    frames = displaced_frames(job.structure, job.number, make_engine(job.settings.engine), job.settings)
    with atomic_path(job.path) as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            positions=np.array([frame.positions for frame in frames]),
            energy=np.array([frame.energy for frame in frames]),
            forces=np.array([frame.forces for frame in frames]),
        )


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
