"""An elementary step: guesses of its saddle point, its path, its ends, and the proof that they belong together.

The cheapest guesses are tried first: many reactions need no path to begin with.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

import numpy as np
from ase import Atoms
from ase.build import minimize_rotation_and_translation
from ase.optimize import FIRE

from hessgnn.data.structure import Array
from hessgnn.factory.recipe import Recipe
from hessgnn.factory.targets import Target
from hessgnn.surface.base import Surface, SurfaceError
from hessgnn.surface.path import climbing_band, follow_irc, interpolate, irc_frames
from hessgnn.surface.stationary import Optimised, Stationary, find_minimum, find_saddle, quasi_newton

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
_IDPP_STEPS = 200
"""Of the interpolation that a band begins with."""
_ROUGH = 5.0
"""The band climbs once its forces are below so many times the limit."""


@dataclass(frozen=True, eq=False)
class Step:
    """A verified elementary step, all in one atom order; its saddle point has one imaginary mode.

    ``frames`` are those of the path, ``(N, 3)`` in Å, from reactant to product without stationary points.
    """

    reactant: Stationary
    product: Stationary
    saddle: Stationary
    frames: list[Array]


def find_step(recipe: Recipe, surface: Surface, target: Target) -> Step:
    """Find and prove an elementary step.

    Its saddle point has exactly one imaginary mode, and steepest descent from it ends in the two minima that the target
    says. Raises :class:`SurfaceError` when no guess leads to that, with the reasons.
    """
    reasons: list[str] = []
    tried = guesses(recipe, surface, target)
    while True:
        try:
            return _proved(recipe, surface, target, next(tried))
        except StopIteration:
            break
        except SurfaceError as error:
            reasons.append(str(error))
    raise SurfaceError("; ".join(dict.fromkeys(reasons)) or "there is no guess of the saddle point")


def _proved(recipe: Recipe, surface: Surface, target: Target, guess: Atoms) -> Step:
    """Refine a guess and follow the path from it."""
    limits, well = recipe.saddle, recipe.minimum
    saddle = find_saddle(surface, guess, limits.fmax, limits.max_steps, renew=limits.renew, far=None)
    branches = follow_irc(surface, saddle.atoms, saddle.modes, fmax=recipe.irc.fmax, tolerance=recipe.irc.tolerance)
    # Steepest descent keeps a symmetry that it begins with, and can end on the ridge between two equal minima.
    minima = [
        find_minimum(surface, Atoms(guess.numbers, branch.end), well.fmax, well.max_steps, pushes=well.pushes, far=None)
        for branch in branches
    ]
    sides = [target.side(minimum.atoms) for minimum in minima]
    if sorted(map(str, sides)) != ["product", "reactant"]:
        raise SurfaceError(f"the path joins {' and '.join(side or 'something else' for side in sides)}")
    if sides[0] == "product":
        minima.reverse()
        branches = branches[1], branches[0]
    before, after = (irc_frames(branch, recipe.irc.frames) for branch in branches)
    return Step(minima[0], minima[1], saddle, [*reversed(before), *after])


def guesses(recipe: Recipe, surface: Surface, target: Target) -> Iterator[Atoms]:
    """Guess where the saddle point of a reaction is, again and again, in the atom order of the target.

    Raises :class:`SurfaceError` when a way fails; there are no more guesses then.
    """
    for way in recipe.path.guesses:
        if way == "halfway":
            yield from _halfway(recipe, surface, target)
        else:
            yield _from_band(way, recipe, surface, target)


def _halfway(recipe: Recipe, surface: Surface, target: Target) -> Iterator[Atoms]:
    """Geometries between both sides, relaxed while the bonds that change are held."""
    held = target.changing_bonds()
    if not held:
        yield from target.halfway(recipe.seed, _STRETCHES[0])[:2]
        return
    for stretch in _STRETCHES:
        relaxed: list[Optimised] = []
        for atoms in target.halfway(recipe.seed, stretch)[:_EMBEDDINGS]:
            atoms.set_constraint(_Springs(atoms, held))
            with suppress(SurfaceError):
                relaxed.append(
                    quasi_newton(surface, atoms, _RELAX_FMAX, _RELAX_STEPS, longest=0.1, far=None, converge=False)
                )
        if relaxed:
            yield Atoms(atoms.numbers, min(relaxed, key=lambda end: end.energy).positions)


def _from_band(way: Literal["geodesic", "idpp"], recipe: Recipe, surface: Surface, target: Target) -> Atoms:
    """The highest image of an elastic band between both sides. It need not converge: the saddle point is refined."""
    settings, ends = recipe.path, target.ends(recipe.seed)
    for end in ends:
        end.positions = quasi_newton(surface, end, _END_FMAX, recipe.minimum.max_steps, far=None).positions
    sides = [target.side(end) for end in ends]
    if sorted(map(str, sides)) != ["product", "reactant"]:  # which hand is which in an inversion is nobody's choice
        raise SurfaceError(f"the ends relax to {' and '.join(side or 'something else' for side in sides)}")
    minimize_rotation_and_translation(*ends)
    path = interpolate(way, settings.images, *ends, steps=_IDPP_STEPS)
    numbers = ends[0].numbers
    band = climbing_band(
        surface,
        numbers,
        path,
        spring=settings.spring,
        rough=_ROUGH * settings.fmax,
        fmax=settings.fmax,
        max_steps=settings.max_steps,
        method=FIRE,
        converge=False,
        far=None,
    )
    return Atoms(numbers, band.top)


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
