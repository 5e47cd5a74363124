"""Guesses of a saddle point, the cheapest first: many reactions need no path to begin with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
from ase import Atoms
from ase.build import minimize_rotation_and_translation
from ase.optimize import BFGS

from hessgnn.data.structure import Array
from hessgnn.factory.band import highest_image, interpolate
from hessgnn.factory.minimum import optimise
from hessgnn.factory.recipe import Recipe
from hessgnn.factory.targets import Target
from hessgnn.surface.engines import Engine, EngineCalculator, LabelError

_STRETCHES = (1.35, 1.55, 1.2)
"""Lengths of the bonds that change, in units of whole ones, in the order in which they are tried."""
_EMBEDDINGS = 5
"""Geometries relaxed for each of them; the lowest is tried."""
_SPRING = 30.0
"""Holds the bonds that change, eV/Å²."""
_RELAX_FMAX, _RELAX_STEPS = 0.3, 30
"""Where the rest stops relaxing, eV/Å; the saddle search does the same better."""
_END_FMAX = 1e-2
"""Largest force at the ends of a band, eV/Å; the true ends are those of the path from the saddle point."""


def guesses(recipe: Recipe, engine: Engine, target: Target) -> Iterator[Atoms]:
    """Guess where the saddle point of a reaction is, again and again.

    Parameters
    ----------
    recipe
        The ways to guess, in their order.
    engine
        What computes energies and forces.
    target
        What to look for.

    Yields
    ------
    ase.Atoms
        In the atom order of the target.

    Raises
    ------
    LabelError
        When a way fails; there are no more guesses then.
    """
    for way in recipe.path.guesses:
        if way == "halfway":
            yield from _halfway(recipe, engine, target)
        else:
            yield _from_band(way, recipe, engine, target)


def _halfway(recipe: Recipe, engine: Engine, target: Target) -> Iterator[Atoms]:
    """Geometries between both sides, relaxed while the bonds that change are held."""
    held = target.changing_bonds()
    if not held:
        yield from target.halfway(recipe.seed, _STRETCHES[0])[:2]
        return
    for stretch in _STRETCHES:
        relaxed: list[tuple[float, Atoms]] = []
        for atoms in target.halfway(recipe.seed, stretch)[:_EMBEDDINGS]:
            atoms.calc = EngineCalculator(engine)
            atoms.set_constraint(_Springs(atoms, held))
            try:
                BFGS(atoms, logfile=None, maxstep=0.1).run(fmax=_RELAX_FMAX, steps=_RELAX_STEPS)
                relaxed.append((atoms.get_potential_energy(apply_constraint=False), atoms))
            except LabelError:
                continue
        if relaxed:
            best = min(relaxed, key=lambda pair: pair[0])[1]
            yield Atoms(best.numbers, best.positions)


def _from_band(way: Literal["geodesic", "idpp"], recipe: Recipe, engine: Engine, target: Target) -> Atoms:
    """The highest image of an elastic band between both sides."""
    ends = target.ends(recipe.seed)
    for end in ends:
        optimise(engine, end, _END_FMAX, recipe.minimum.max_steps)
    sides = [target.side(end) for end in ends]
    if sorted(map(str, sides)) != ["product", "reactant"]:  # which hand is which in an inversion is nobody's choice
        raise LabelError(f"the ends relax to {' and '.join(side or 'something else' for side in sides)}")
    minimize_rotation_and_translation(*ends)
    path = interpolate(way, recipe.path.images, *ends)
    return highest_image(recipe.path, engine, path, ends[0].numbers)


class _Springs:
    """Holds pairs of atoms at their distances while the rest relaxes; a constraint of ASE."""

    def __init__(self, atoms: Atoms, pairs: list[tuple[int, int]]) -> None:
        self._first, self._second = np.array(pairs).T
        self._lengths = np.linalg.norm(atoms.positions[self._second] - atoms.positions[self._first], axis=1)

    def adjust_positions(self, atoms: Atoms, new: Array) -> None:
        """Nothing is fixed."""

    def adjust_forces(self, atoms: Atoms, forces: Array) -> None:
        """Add the pull of the springs."""
        vectors = atoms.positions[self._second] - atoms.positions[self._first]
        lengths = np.linalg.norm(vectors, axis=1)
        pull = (_SPRING * (lengths - self._lengths) / lengths)[:, None] * vectors
        np.add.at(forces, self._first, pull)
        np.add.at(forces, self._second, -pull)
