"""Thermal frames: short molecular dynamics from a minimum."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from ase import units
from ase.md.langevin import Langevin

from hessgnn.data.structure import Array, Structure
from hessgnn.factory.recipe import ThermalSettings
from hessgnn.surface.engines import Engine, EngineCalculator

_FRICTION = 0.02  # 1/fs: equilibrates within the tens of femtoseconds between frames


def thermal_frames(
    structure: Structure, engine: Engine, settings: ThermalSettings, rng: np.random.Generator
) -> Iterator[Array]:
    """Run Langevin dynamics and take frames from it.

    Parameters
    ----------
    structure
        Where it begins.
    engine
        What computes forces.
    settings
        Temperature, time step and interval.
    rng
        Source of velocities and noise.

    Yields
    ------
    (N, 3) float64
        Positions, Å.
    """
    atoms = structure.to_atoms()
    atoms.calc = EngineCalculator(engine)
    spread = np.sqrt(units.kB * settings.temperature * atoms.get_masses())[:, None]
    atoms.set_momenta(spread * rng.standard_normal(atoms.positions.shape))
    dynamics = Langevin(
        atoms,
        timestep=settings.time_step * units.fs,
        temperature_K=settings.temperature,
        friction=_FRICTION / units.fs,
        fixcm=False,
        rng=rng,
    )
    for _ in range(settings.frames):
        dynamics.run(max(1, round(settings.interval / settings.time_step)))
        yield atoms.positions.copy()
