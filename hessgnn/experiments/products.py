"""Products of the Hessian with directions, differenced from an engine's forces: ``E-F-P1``, ``E-F-S1`` and so on."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hessgnn.curvature.probes.modes import signed_parts
from hessgnn.data.directions import Directions, random_signs
from hessgnn.data.structure import Array, Structure
from hessgnn.errors import DataError
from hessgnn.experiments.frames import LabelJob
from hessgnn.molecules.geometry import molecule_rng
from hessgnn.molecules.vibrations import eckart_projector, vibrations
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
class ProductJob(LabelJob[Directions]):
    """Products of one structure, with directions of some ``kind``.

    Directions are drawn one after the other, so the first of many are the same as few, but for parts of ``modes``. The
    softest modes are the same for all draws.
    """

    kind: str

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
        return self.file_of(f"{self.structure.name} {self.kind} {engines} {drawn} {positions}")

    def kept(self) -> Directions | None:
        """What is wanted of the file; ``None`` where it holds fewer, or is damaged or absent."""
        found = self._stored()
        wanted = n_directions(self.structure, self.number, self.kind)
        return None if found is None or len(found) < wanted else found.select(range(wanted))

    def make(self) -> None:
        """Compute what the file lacks."""
        known, engine = self._stored(), make_engine(self.settings.engine)
        vectors = self._vectors()[0 if known is None else len(known) :]
        products = [hessian_product(engine, self.structure, vector) for vector in vectors]
        found = Directions.make(vectors, np.reshape(products, vectors.shape), self.kind)
        kept = found if known is None else Directions.join([known, found])
        self.write(vectors=kept.vectors, products=kept.products)

    def _vectors(self) -> Array:
        shape = len(self.structure), 3
        if self.kind == "rademacher":
            rng = molecule_rng((self.settings.seed, self.draw, 2), self.structure.name)
            return np.array([random_signs(rng, shape) for _ in range(self.number)])
        atoms, positions = self.structure.to_atoms(), self.structure.positions
        hessian = _answer(lambda: make_engine(self.settings.mode_engine).hessian(atoms).matrix, self.structure.name)
        if self.kind == "softest":
            return vibrations(np.ones(len(atoms)), positions, hessian).modes[: self.number]  # of the Hessian itself
        rng = molecule_rng((self.settings.seed, self.draw, 3), self.structure.name)
        return signed_parts(hessian, n_directions(self.structure, self.number, self.kind), rng)

    def _stored(self) -> Directions | None:
        found = self.read("vectors", "products")
        if found is None:
            return None
        with suppress(DataError, ValueError):  # a damaged file
            return Directions.make(found[0], found[1], self.kind)
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
