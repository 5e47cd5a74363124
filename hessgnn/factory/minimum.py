"""Minima: optimised, and proved by their frequencies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.optimize import BFGS

from hessgnn.factory.recipe import MinimumSettings
from hessgnn.molecules.vibrations import Vibrations, vibrations
from hessgnn.surface.engines import Engine, EngineCalculator, HessianLabel, LabelError

_PUSH = 0.1
"""Largest displacement of an atom when a saddle point is left along its imaginary mode, Å."""


@dataclass(frozen=True, eq=False)
class Stationary:
    """A point where all forces vanish, with its Hessian and its modes."""

    atoms: Atoms
    hessian: HessianLabel
    modes: Vibrations


def find_minimum(settings: MinimumSettings, engine: Engine, start: Atoms) -> Stationary:
    """Optimise until the frequencies prove a minimum; saddle points are left along their imaginary mode.

    Parameters
    ----------
    settings
        When a geometry counts as a minimum.
    engine
        What computes labels.
    start
        Not changed.

    Returns
    -------
    Stationary
        The minimum.

    Raises
    ------
    LabelError
        When the optimisation does not converge or keeps ending on saddle points.
    """
    atoms = start.copy()
    for _ in range(settings.pushes + 1):
        optimise(engine, atoms, settings.fmax, settings.max_steps)
        label = engine.hessian(atoms)
        modes = vibrations(atoms.numbers, atoms.positions, label.matrix)
        if not modes.n_imaginary():
            return Stationary(atoms, label, modes)
        lowest = modes.modes[0]
        atoms.positions += _PUSH * lowest / np.abs(lowest).max()
    raise LabelError(f"ends on a saddle point, lowest frequency {modes.frequencies[0]:.0f} cm⁻¹")


def optimise(engine: Engine, atoms: Atoms, fmax: float, max_steps: int) -> None:
    """Relax to the nearest stationary point.

    Parameters
    ----------
    engine
        What computes energies and forces.
    atoms
        Changed in place.
    fmax
        Largest force on any atom, eV/Å.
    max_steps
        Of the optimiser.

    Raises
    ------
    LabelError
        When that is not reached.
    """
    atoms.calc = EngineCalculator(engine)
    try:
        converged = BFGS(atoms, logfile=None).run(fmax=fmax, steps=max_steps)
    finally:
        atoms.calc = None
    if not converged:
        raise LabelError(f"not optimised to {fmax} eV/Å in {max_steps} steps")
