"""Products of the Hessian with directions, differenced from an engine's forces: ``E-F-P1``, ``E-F-S1`` and so on."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hessgnn.curvature.probes.modes import ReferenceModes
from hessgnn.data.directions import Directions
from hessgnn.data.structure import Array, Structure
from hessgnn.errors import DataError
from hessgnn.experiments.config import LabelSettings
from hessgnn.molecules.geometry import molecule_rng
from hessgnn.molecules.vibrations import eckart_projector, vibrations
from hessgnn.runtime.files import atomic_path
from hessgnn.surface.base import SurfaceError
from hessgnn.surface.differences import central_product
from hessgnn.surface.engines.base import Engine, make_engine

STEP = 1e-3
"""Å: displacement of the atom that moves most."""


def n_directions(structure: Structure, number: int, kind: str) -> int:
    """Directions that a structure gets when ``number`` are wanted: it has 3N modes, and fewer vibrations."""
    if kind == "modes":
        return min(number, 3 * len(structure))
    if kind != "softest" or number <= 3 * len(structure) - 6:
        return number
    return min(number, round(float(np.trace(eckart_projector(np.ones(len(structure)), structure.positions)))))


@dataclass(frozen=True)
class ProductJob:
    """Products of one structure, kept in a file.

    Directions are drawn one after the other, so the first of many are the same as few, but for parts of ``modes``. Each
    ``draw``, the seed of a run, has random directions of its own; the softest modes are the same for all.
    """

    folder: Path
    structure: Structure
    kind: str
    number: int
    settings: LabelSettings
    draw: int

    @property
    def path(self) -> Path:
        """Named after all that the products depend on, but for their number: the file grows."""
        positions = self.structure.positions.tobytes().hex()
        engines = self.settings.engine.model_dump_json()
        drawn = f"{self.settings.seed} {self.draw}"
        if self.kind == "softest":
            drawn = self.settings.mode_engine.model_dump_json()
        if self.kind == "modes":
            drawn += f" {self.number} {self.settings.mode_engine.model_dump_json()}"
        key = f"{self.structure.name} {self.kind} {engines} {drawn} {positions}"
        return self.folder / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.npz"

    def kept(self) -> Directions | None:
        """What is wanted of the file; ``None`` where it holds fewer, or is damaged or absent."""
        found = self._read()
        wanted = n_directions(self.structure, self.number, self.kind)
        return None if found is None or len(found) < wanted else found.select(range(wanted))

    def directions(self) -> Directions:
        """The products, which have been made."""
        found = self.kept()
        assert found is not None, self.path
        return found

    def make(self) -> None:
        """Compute what the file lacks, with an engine of its own."""
        known, engine = self._read(), make_engine(self.settings.engine)
        vectors = self._vectors()
        done = 0 if known is None else len(known)
        products = [hessian_product(engine, self.structure, vector) for vector in vectors[done:]]
        if products:
            found = Directions.make(vectors[done:], np.array(products), self.kind)
            known = found if known is None else Directions.join([known, found])
        kept = known if known is not None else _none(len(self.structure))
        with atomic_path(self.path) as temporary, temporary.open("wb") as file:
            np.savez(file, vectors=kept.vectors, products=kept.products)

    def _vectors(self) -> Array:
        shape = len(self.structure), 3
        if self.kind == "rademacher":
            rng = molecule_rng((self.settings.seed, self.draw, 2), self.structure.name)
            return np.array([2.0 * rng.integers(2, size=shape) - 1.0 for _ in range(self.number)])
        atoms, positions = self.structure.to_atoms(), self.structure.positions
        hessian = _answer(lambda: make_engine(self.settings.mode_engine).hessian(atoms).matrix, self.structure.name)
        if self.kind == "softest":
            return vibrations(np.ones(len(atoms)), positions, hessian).modes[: self.number]  # of the Hessian itself
        number = n_directions(self.structure, self.number, self.kind)
        modes = ReferenceModes(number).of_structure(hessian, len(atoms))
        rng = molecule_rng((self.settings.seed, self.draw, 3), self.structure.name)
        signed = modes["vectors"] * (2.0 * rng.integers(2, size=len(hessian)) - 1.0)
        return np.array([signed[:, modes["part"] == k].sum(1).reshape(shape) for k in range(number)])

    def _read(self) -> Directions | None:
        try:
            with np.load(self.path, allow_pickle=False) as kept:
                if not len(kept["vectors"]):
                    return _none(len(self.structure))
                return Directions.make(kept["vectors"], kept["products"], self.kind)
        except (OSError, KeyError, ValueError, zipfile.BadZipFile, DataError):
            return None


def hessian_product(engine: Engine, structure: Structure, vector: Array) -> Array:
    """Compute ``H·v`` ``(N, 3)``, eV/Å², by a central difference of the engine's forces."""
    forces = engine.forces_of(structure.to_atoms())
    return _answer(lambda: central_product(forces, structure.positions, vector, STEP), structure.name)


def _answer(ask: Callable[[], Array], name: str) -> Array:
    try:
        return np.asarray(ask(), dtype=np.float64)
    except SurfaceError as error:
        raise DataError(f"its Hessian products could not be computed: {error}", where=name) from error


def _none(n_atoms: int) -> Directions:
    empty = np.empty((0, n_atoms, 3))
    return Directions(vectors=empty, products=empty, kinds=(), weights=np.empty(0), errors=np.empty(0))
