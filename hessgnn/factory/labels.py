"""What a recipe labels structures with, and the maker of directions: products ``H·v`` at the price of a few gradients.

Each product costs two gradients of the label engine by central differences, one by one-sided ones. Before the first, a
few lines are measured, from which step and error estimates follow, see :mod:`hessgnn.surface.differences`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal

import numpy as np
from ase import Atoms
from pydantic import Field, PositiveInt, field_validator, model_validator

from hessgnn.data.directions import Array, Directions
from hessgnn.data.structure import STATIONARY, Structure
from hessgnn.errors import ConfigError
from hessgnn.factory.directions import DIRECTIONS, Subject
from hessgnn.runtime.config import Settings
from hessgnn.surface.base import Surface, SurfaceError
from hessgnn.surface.differences import GRADIENTS, LINE_CALLS, Line, Scheme, Smoothness, probe_line, product
from hessgnn.surface.engines.base import EngineChoice, make_engine
from hessgnn.surface.engines.tblite import TBLiteSettings

LINES = 4
"""Lines that are measured before the first product."""
LINE_COST = LINE_CALLS + 2
"""Gradient calls of a structure with one line, with those at the structure itself, before and after."""


class SourceOfModes(Settings):
    """The cheap surface whose Hessian gives the modes: an engine or a trained potential."""

    engine: EngineChoice | None = None
    potential: Path | None = Field(default=None, description="run folder of a trained potential")

    @model_validator(mode="after")
    def _one(self) -> SourceOfModes:
        if (self.engine is None) == (self.potential is None):
            raise ValueError("give one of engine and potential")
        return self

    def surface(self) -> Surface:
        """Make it; :class:`ConfigError` when a package or the run is missing."""
        if self.engine is not None:
            return make_engine(self.engine)
        from hessgnn.potentials.saved import load
        from hessgnn.surface.potential import PotentialSurface

        assert self.potential is not None
        return PotentialSurface(load(self.potential), str(self.potential))


SMALLEST_STEP, LARGEST_STEP = 1e-6, 0.1
"""Å, of finite differences: below, the noise of any forces is all that is left; above, the anharmonicity."""


class DirectionSettings(Settings):
    """Directions of each structure."""

    kind: str = Field(default="rademacher", description="how they are chosen: rademacher, gaussian, rows, modes, …")
    number: PositiveInt = 1
    scheme: Scheme = Field(default="central", description="two gradients each, or one and an error of first order")
    step: Literal["auto"] | float = Field(default="auto", description="displacement of the atom that moves most, Å")
    source: SourceOfModes = Field(
        default=SourceOfModes(engine=TBLiteSettings()), description="whose modes, for the kinds modes and softest"
    )

    @field_validator("kind")
    @classmethod
    def _known(cls, kind: str) -> str:
        DIRECTIONS[kind]
        return kind

    @field_validator("step")
    @classmethod
    def _small(cls, step: Literal["auto"] | float) -> Literal["auto"] | float:
        if step != "auto" and not SMALLEST_STEP <= step <= LARGEST_STEP:
            raise ValueError(f"a step lies between {SMALLEST_STEP:g} and {LARGEST_STEP:g} Å")
        return step


class RecipeLabels(Settings):
    """What structures are labelled with beside energy and forces."""

    hessian: bool | Literal["stationary"] = Field(
        default=True,
        description="the full Hessian, analytic or 6N gradients; stationary: only those that verify stationary points",
    )
    directions: DirectionSettings | None = None

    def wants_hessian(self, kind: str) -> bool:
        """Whether structures of a kind are to have one."""
        return kind in STATIONARY if self.hessian == "stationary" else self.hessian


@dataclass(frozen=True)
class Measured:
    """Lines of a structure, and how far the forces that it had are from those computed now, RMS, eV/Å."""

    lines: list[Line]
    mismatch: float = 0.0


class DirectionMaker:
    """Adds directions to structures.

    Parameters
    ----------
    settings
        Which.
    surface
        The label engine, whose calls are counted.
    seed
        Of all that is drawn.

    Attributes
    ----------
    cheap : Surface or None
        Whose Hessian gives the modes; its calls are counted too.
    """

    def __init__(self, settings: DirectionSettings, surface: Surface, seed: int) -> None:
        self.settings, self.surface, self.seed = settings, surface, seed
        self.kind = DIRECTIONS[settings.kind]()
        self.cheap = settings.source.surface() if self.kind.needs_hessian else None
        self._cheap_hessian = lru_cache(maxsize=1)(self._computed)  # what is measured first gets its directions next

    def measure(self, structure: Structure, number: int = 1) -> Measured:
        """Measure lines along the first directions that a structure would get.

        Raises
        ------
        SurfaceError
            When a calculation fails.
        """
        atoms = _bare(structure)
        reference = self.surface.energy_forces(atoms)[1]
        mismatch = 0.0 if structure.forces is None else _rms(reference - structure.forces)
        forces = self.surface.forces_of(atoms)
        vectors = self._draw(structure, max(number, self.settings.number))[:number]
        lines = [probe_line(forces, structure.positions, reference, vector) for vector in vectors]
        if not lines:
            raise SurfaceError("there are no more directions of this kind")
        # What a self-consistent field keeps of where it started shows only when it comes back to the same place.
        repeated = _rms(forces(structure.positions) - reference) / np.sqrt(2)
        return Measured([replace(line, noise=float(np.hypot(line.noise, repeated))) for line in lines], mismatch)

    def directions(self, structure: Structure, known: Smoothness, reference: Array) -> Directions | None:
        """Compute new directions of a structure; ``None`` where there are no more.

        Parameters
        ----------
        structure
            With its earlier directions.
        known
            What was measured of the surface.
        reference
            Forces at the structure ``(N, 3)``, eV/Å.

        Raises
        ------
        SurfaceError
            When a calculation fails.
        """
        vectors = self._draw(structure, self.settings.number)
        if not len(vectors):
            return None
        forces = self.surface.forces_of(_bare(structure))
        step = None if self.settings.step == "auto" else float(self.settings.step)
        found = [
            product(forces, structure.positions, reference, v, known, scheme=self.settings.scheme, step=step)
            for v in vectors
        ]
        products, errors = (np.array(column) for column in zip(*found, strict=True))
        return self.kind.join(self.settings.kind, vectors, products, errors)

    def gradients(self, remaining: float) -> int:
        """Gradient calls of new directions where the forces are known and so many directions are left at most."""
        return GRADIENTS[self.settings.scheme] * int(min(self.settings.number, max(remaining, 0)))

    def _draw(self, structure: Structure, number: int) -> Array:
        return self.kind.draw(Subject(structure, self.seed, partial(self._cheap_hessian, structure)), number)

    def _computed(self, structure: Structure) -> Array:
        if self.cheap is None:
            raise ConfigError(
                "asks for a Hessian without saying so", where=self.settings.kind, hint="set needs_hessian = True"
            )
        return self.cheap.hessian(_bare(structure)).symmetric


def smoothness_of(measured: Sequence[Measured]) -> Smoothness:
    """Sum up what was measured of several structures."""
    lines = [line for one in measured for line in one.lines]
    return Smoothness.of(lines, max(one.mismatch for one in measured))


def _bare(structure: Structure) -> Atoms:
    return Atoms(structure.numbers, structure.positions, cell=structure.cell, pbc=structure.pbc)


def _rms(values: Array) -> float:
    return float(np.sqrt(np.mean(np.square(values))))
