"""One molecule through the factory: optimise, prove that it is a minimum, label it, displace it, label the frames."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.optimize import BFGS

from hessgnn.curvature.vibrations import Vibrations, masses_of, vibrations
from hessgnn.data.factory.displace import molecule_rng, sample_frames
from hessgnn.data.factory.engine import Engine, HessianLabel, LabelError
from hessgnn.data.factory.recipe import MinimumSettings, Recipe
from hessgnn.data.splits import NMS
from hessgnn.data.structure import Array, Structure

_PUSH = 0.1
"""Largest displacement of an atom when a saddle point is left along its imaginary mode, Å."""


def label_molecule(recipe: Recipe, engine: Engine, name: str, start: Atoms) -> list[Structure]:
    """Make the minimum of a molecule and the frames displaced from it, all labelled.

    Parameters
    ----------
    recipe
        What to make.
    engine
        What computes labels.
    name
        The molecule's; also its group.
    start
        Where the optimisation begins.

    Returns
    -------
    list of Structure
        The minimum, named after the molecule, then the frames ``name/nms-0``, …; splits are not assigned yet.

    Raises
    ------
    LabelError
        When there is no minimum to be had or a label fails.
    """
    atoms, label, modes = find_minimum(recipe.minimum, engine, start)
    minimum = _labelled(engine, atoms, label, name=name, group=name, kind="minimum", split="train")
    lowest = engine.energy_forces(atoms)[0]

    def energy_above_minimum(positions: Array) -> float:
        return engine.energy_forces(Atoms(atoms.numbers, positions))[0] - lowest

    masses, rng = masses_of(atoms.numbers), molecule_rng(recipe.seed, name)
    made = [minimum]
    for k, positions in enumerate(
        sample_frames(atoms.positions, masses, modes, energy_above_minimum, recipe.displaced, rng)
    ):
        frame = Atoms(atoms.numbers, positions)
        label = engine.hessian(frame)
        made.append(_labelled(engine, frame, label, name=f"{name}/nms-{k}", group=name, kind=NMS, split=NMS))
    return made


def find_minimum(settings: MinimumSettings, engine: Engine, start: Atoms) -> tuple[Atoms, HessianLabel, Vibrations]:
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
    ase.Atoms, HessianLabel, Vibrations
        The minimum, its Hessian and its modes.

    Raises
    ------
    LabelError
        When the optimisation does not converge or keeps ending on saddle points.
    """
    atoms = start.copy()
    for _ in range(settings.pushes + 1):
        atoms.calc = engine.calculator()
        if not BFGS(atoms, logfile=None).run(fmax=settings.fmax, steps=settings.max_steps):
            raise LabelError(f"not optimised to {settings.fmax} eV/Å in {settings.max_steps} steps")
        label = engine.hessian(atoms)
        modes = vibrations(atoms.numbers, atoms.positions, label.matrix)
        if not modes.n_imaginary():
            return atoms, label, modes
        lowest = modes.modes[0]
        atoms.positions += _PUSH * lowest / np.abs(lowest).max()
    raise LabelError(f"ends on a saddle point, lowest frequency {modes.frequencies[0]:.0f} cm⁻¹")


def _labelled(
    engine: Engine, atoms: Atoms, label: HessianLabel, *, name: str, group: str, kind: str, split: str
) -> Structure:
    energy, forces = engine.energy_forces(atoms)
    return Structure(
        numbers=atoms.numbers,
        positions=atoms.positions,
        energy=energy,
        forces=forces,
        hessian=label.matrix,
        hessian_asymmetry=label.asymmetry,
        name=name,
        group=group,
        kind=kind,
        split=split,
    )
