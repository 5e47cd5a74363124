"""Two reactions small enough to be made in seconds: hydrogen cyanide isomerises, ammonia inverts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.optimize import BFGS
from surfaces import reference_surface

from hessgnn.data.store.store import write_store
from hessgnn.data.structure import Array, Structure
from hessgnn.molecules.vibrations import vibrations
from hessgnn.surface.stationary import newton

GUESSES = {
    "hcn": Atoms("CNH", [[0, 0, 0], [1.18, 0, 0], [0.5, 1.1, 0]]),
    "nh3": Atoms("NH3", [[0, 0, 0], [1, 0, 0], [-0.5, 0.87, 0], [-0.5, -0.87, 0]]),
}
FRAMES = 4
"""Of each side of a path."""


def write_reaction_store(path: Path) -> Path:
    """Saddle points, minima and paths of :data:`GUESSES`, one in train, one in test, and a displaced frame of each."""
    splits = dict(zip(GUESSES, ("test", "train"), strict=True))
    structures = [s for name, split in splits.items() for s in reaction(name, split)]
    water = Structure(numbers=[8, 1, 1], positions=[[0, 0, 0.1], [0, 0.77, -0.48], [0, -0.77, -0.48]], name="water")
    end = newton(reference_surface(), Atoms(water.numbers, water.positions), 1e-5, 100).positions
    structures += [labelled(Atoms("OHH", end), name=f"water-{k}", kind="minimum", split="validation") for k in range(2)]
    write_store(path, structures, level_of_theory="GFN2-xTB")
    return path


def reaction(name: str, split: str) -> Iterator[Structure]:
    """All structures of a reaction."""
    surface, atoms, top = reference_surface(), GUESSES[name].copy(), f"{name}-ts"
    calculator = surface.calculator()
    atoms.positions = saddle_point(calculator, atoms)
    saddle = labelled(atoms, name=top, group=name, kind="transition-state", split=split)
    yield saddle
    modes = vibrations(saddle.numbers, saddle.positions, saddle.hessian)
    assert modes.n_imaginary() == 1
    sides = [list(downhill(calculator, atoms, sign * modes.modes[0])) for sign in (1, -1)]
    for kind, side in zip(("reactant", "product"), sides, strict=True):
        end = newton(surface, Atoms(atoms.numbers, side[-1]), 1e-5, 200).positions
        yield labelled(Atoms(atoms.numbers, end), name=f"{name}-{kind}", group=name, kind=kind, split=split, parent=top)
    frames = [*sides[0][::-1], *sides[1]]
    for k, frame in enumerate(frames):
        image = Atoms(atoms.numbers, frame)
        yield labelled(image, name=f"{top}/irc-{k:02d}", group=name, kind="irc", split="irc", parent=top)
    rng = np.random.default_rng(1)
    real = modes.modes[1:]
    shift = np.einsum("k,kia->ia", 0.05 * rng.normal(size=len(real)), real)
    image = Atoms(atoms.numbers, atoms.positions + shift)
    yield labelled(image, name=f"{name}-nms", group=name, kind="nms", split="nms", parent=top)


def saddle_point(calculator, atoms: Atoms) -> Array:
    """Newton's method, from a guess near enough: a step on the whole Hessian leads to the nearest stationary point."""
    positions = atoms.positions.copy()
    for _ in range(50):
        image = Atoms(atoms.numbers, positions)
        image.calc = calculator
        forces = image.get_forces()
        if np.abs(forces).max() < 1e-6:
            return positions
        modes = vibrations(atoms.numbers, positions, calculator.get_hessian(image))
        along = np.einsum("kia,ia->k", modes.modes, forces) / np.abs(modes.eigenvalues)
        along[0] *= -1  # uphill along the lowest mode
        step = np.einsum("k,kia->ia", along, modes.modes)
        positions = positions + step * min(1.0, 0.1 / np.abs(step).max())
    raise AssertionError("no saddle point")


def downhill(calculator, atoms: Atoms, mode: Array) -> Iterator[Array]:
    """Some frames of a descent in short steps."""
    image = Atoms(atoms.numbers, atoms.positions + 0.05 * mode / np.abs(mode).max())
    image.calc = calculator
    descent = BFGS(image, logfile=None, maxstep=0.05).irun(fmax=0.02, steps=200)
    seen = [image.positions.copy() for _ in descent]
    yield from (seen[k] for k in np.linspace(0, len(seen) - 1, FRAMES).astype(int))


def labelled(atoms: Atoms, **fields: str) -> Structure:
    """With energy, forces and Hessian of the reference."""
    (answer,) = reference_surface().answers([Structure.from_atoms(atoms)])
    labels = {"energy": answer.energy, "forces": answer.forces, "hessian": answer.hessian}
    return Structure.from_atoms(atoms, **labels, **fields)
