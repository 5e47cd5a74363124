"""Saddle points of first order, refined with Sella and proved by their frequencies."""

from __future__ import annotations

import numpy as np
from ase import Atoms

from hessgnn.data.structure import Array
from hessgnn.factory.minimum import Stationary
from hessgnn.factory.recipe import SaddleSettings
from hessgnn.molecules.vibrations import vibrations
from hessgnn.runtime.imports import require
from hessgnn.surface.engines import Engine, EngineCalculator, LabelError


def find_saddle(settings: SaddleSettings, engine: Engine, guess: Atoms) -> Stationary:
    """Walk from a guess to a saddle point.

    E. D. Hermes, K. Sargsyan, H. N. Najm, J. Zádor, JCTC 18, 6974 (2022), with the engine's own Hessian to start from.

    Parameters
    ----------
    settings
        When it counts as converged.
    engine
        What computes labels.
    guess
        Not changed.

    Returns
    -------
    Stationary
        With exactly one imaginary mode, the first.

    Raises
    ------
    LabelError
        When the search does not converge, or ends elsewhere.
    """
    sella = require("sella", package="sella", extra="factory", purpose="the search for saddle points")
    atoms = guess.copy()
    atoms.calc = EngineCalculator(engine)

    def hessian(image: Atoms) -> Array:
        return engine.hessian(image).matrix

    # Each search begins with the exact Hessian, which it then only updates.
    for done in range(0, settings.max_steps, settings.renew):
        search = sella.Sella(atoms, order=1, internal=False, logfile=None, hessian_function=hessian)
        try:
            converged = search.run(fmax=settings.fmax, steps=min(settings.renew, settings.max_steps - done))
        except (RuntimeError, ValueError, np.linalg.LinAlgError) as error:
            raise LabelError(f"the search for a saddle point failed: {error}") from error
        if converged:
            break
    else:
        raise LabelError(f"no saddle point to {settings.fmax} eV/Å in {settings.max_steps} steps")
    atoms.calc = None
    label = engine.hessian(atoms)
    modes = vibrations(atoms.numbers, atoms.positions, label.matrix)
    if modes.n_imaginary() != 1:
        raise LabelError(f"the search ended where {modes.n_imaginary()} modes are imaginary, not one")
    return Stationary(atoms, label, modes)
