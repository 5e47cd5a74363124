"""Molecular dynamics of many molecules side by side, on any force field."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import units
from numpy.typing import NDArray

from hessgnn.data.structure import Array, Structure
from hessgnn.molecules.vibrations import masses_of
from hessgnn.surface.base import ForceField


class Dynamics:
    """Positions and velocities of molecules that do not see each other, and the integrator that moves them.

    The integrator is BAOAB (B. Leimkuhler, C. Matthews, Appl. Math. Res. Express 2013, 34): half a kick, half a drift,
    friction and noise, half a drift, half a kick. Without friction it is velocity Verlet. Each molecule has a stream of
    random numbers of its own, so its trajectory does not depend on the company it is in.

    Parameters
    ----------
    positions
        ``(N, 3)`` for each structure, Å.
    velocities
        ``(N, 3)`` for each, in ASE's unit (Å √(eV/amu)); at rest if not given.
    rngs
        A generator for each; not needed without friction.
    """

    def __init__(
        self,
        force_field: ForceField,
        structures: Sequence[Structure],
        positions: Sequence[Array],
        velocities: Sequence[Array] | None = None,
        rngs: Sequence[np.random.Generator] = (),
    ) -> None:
        self._force_field, self._rngs = force_field, rngs
        self._sizes = np.array([len(s) for s in structures])
        self._stops = np.cumsum(self._sizes)[:-1]
        self.masses = np.concatenate([masses_of(s.numbers) for s in structures])[:, None]
        self.positions = np.concatenate(positions)
        self.velocities = np.zeros_like(self.positions) if velocities is None else np.concatenate(velocities)
        self._home = self.positions.copy()
        self.alive = np.ones(len(structures), dtype=bool)
        self._forces = np.zeros_like(self.positions)
        self.energies, self._forces = self._answer()

    def step(self, timestep: float, temperature: float = 0.0, friction: float = 0.0) -> None:
        """Move all molecules by one step of ``timestep``, fs.

        The heat bath has a temperature in K and a friction in 1/fs; there is no bath if the friction is zero.
        """
        half, damping = 0.5 * timestep * units.fs, np.exp(-friction * timestep)
        self.velocities += half * self._forces / self.masses
        self.positions += half * self.velocities
        if friction:
            spread = np.sqrt((1 - damping**2) * units.kB * temperature / self.masses)
            noise = np.concatenate([r.normal(size=(n, 3)) for r, n in zip(self._rngs, self._sizes, strict=True)])
            self.velocities = damping * self.velocities + spread * noise
        self.positions += half * self.velocities
        self.energies, self._forces = self._answer()
        self.velocities += half * self._forces / self.masses

    def kinetic_energies(self) -> Array:
        """Kinetic energy of each molecule, eV."""
        per_atom = 0.5 * (self.masses * self.velocities**2).sum(axis=1)
        return np.add.reduceat(per_atom, np.append(0, self._stops))

    def split(self, per_atom: Array) -> list[Array]:
        """The share of each molecule."""
        return np.split(per_atom, self._stops)

    def stop(self, molecules: NDArray[np.bool_]) -> None:
        """Stop molecules, ``(n,)`` bool: they are put back where they began and stay there at rest."""
        self.alive &= ~molecules
        at_rest = np.repeat(~self.alive, self._sizes)
        self.positions[at_rest], self.velocities[at_rest] = self._home[at_rest], 0.0
        self._forces[at_rest] = 0.0

    def _answer(self) -> tuple[Array, Array]:
        """Energies and forces; a molecule for which they are not finite stops."""
        self._confine()
        energies, forces = self._force_field(self.positions)
        self._forces = forces.copy()
        parts = zip(energies, self.split(forces), strict=True)
        finite = np.array([bool(np.isfinite(e) and np.isfinite(f).all()) for e, f in parts])
        if not (finite | ~self.alive).all():
            self.stop(~finite)
        self._forces[np.repeat(~self.alive, self._sizes)] = 0.0
        return energies, self._forces

    def _confine(self) -> None:
        """Stop what flies apart before anyone looks for neighbours there."""
        far = np.abs(self.positions - self._home).max(axis=1) < 1e3
        self.stop(np.array([not part.all() for part in self.split(far)]))
