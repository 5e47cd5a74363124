"""An elementary step: its ends, its saddle point, its path, and the proof that they belong together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.build import minimize_rotation_and_translation

from hessgnn.data.factory import irc
from hessgnn.data.factory.band import highest_image, interpolate
from hessgnn.data.factory.bonds import bonds
from hessgnn.data.factory.engines import Engine, LabelError
from hessgnn.data.factory.minimum import Stationary, find_minimum, optimise
from hessgnn.data.factory.reactions import Reaction
from hessgnn.data.factory.recipe import Recipe
from hessgnn.data.factory.saddle import find_saddle
from hessgnn.data.factory.smiles import reaction_ends
from hessgnn.data.structure import Array

_ROUGH_FMAX = 1e-2
"""Largest force at the ends of the first band, eV/Å; the true ends are those of the path."""
_SAME = 0.1
"""Two geometries in one atom order are the same molecule within this root mean square distance, Å."""


@dataclass(frozen=True, eq=False)
class Step:
    """A verified elementary step, all in one atom order.

    Attributes
    ----------
    reactant, product : Stationary
        The minima where the path ends.
    saddle : Stationary
        With one imaginary mode.
    frames : list of (N, 3) float64
        Of the path, from reactant to product without them and without the saddle point, Å.
    intended : bool
        Whether the minima have the bonds that the reaction says.
    """

    reactant: Stationary
    product: Stationary
    saddle: Stationary
    frames: list[Array]
    intended: bool


def find_step(recipe: Recipe, engine: Engine, reaction: Reaction) -> Step:
    """Find and prove an elementary step.

    Parameters
    ----------
    recipe
        Limits of each search.
    engine
        What computes labels.
    reaction
        What to look for.

    Returns
    -------
    Step
        Its saddle point has exactly one imaginary mode, and steepest descent from it ends in two different minima.

    Raises
    ------
    LabelError
        When any of that fails, with the reason; also when the minima are other ones than the reaction says and the
        recipe drops these.
    """
    ends = reaction_ends(reaction, seed=recipe.seed)
    intended = tuple(bonds(end) for end in ends)
    for end in ends:
        optimise(engine, end, _ROUGH_FMAX, recipe.minimum.max_steps)
    for side, end, expected in zip(("reactant", "product"), ends, intended, strict=True):
        if bonds(end) != expected and recipe.irc.unintended == "drop":
            raise LabelError(f"the {side} is no minimum: it relaxes to other bonds")
    minimize_rotation_and_translation(*ends)
    path = interpolate(recipe.path, *ends)
    guess = highest_image(recipe.path, engine, path, ends[0].numbers)
    saddle = find_saddle(recipe.saddle, engine, guess)
    branches = irc.follow(recipe.irc, engine, saddle)
    minima = [
        find_minimum(recipe.minimum.model_copy(update={"pushes": 0}), engine, Atoms(guess.numbers, branch.end))
        for branch in branches
    ]
    if distance(minima[0].atoms, minima[1].atoms) < _SAME:
        raise LabelError("both sides of the path end in the same minimum")
    if _runs_backwards(minima, ends):
        minima.reverse()
        branches = branches[1], branches[0]
    found = tuple(bonds(minimum.atoms) for minimum in minima)
    if found != intended and recipe.irc.unintended == "drop":
        raise LabelError("the path joins other minima than intended")
    before, after = (irc.frames(branch, recipe.irc.frames) for branch in branches)
    return Step(minima[0], minima[1], saddle, [*reversed(before), *after], found == intended)


def distance(first: Atoms, second: Atoms) -> float:
    """Root mean square distance of atoms after superposition by a proper rotation, Å.

    Parameters
    ----------
    first, second
        In one atom order.

    Returns
    -------
    float
        Zero for the same geometry, not for mirror images.
    """
    moved = second.copy()
    minimize_rotation_and_translation(first, moved)
    return float(np.sqrt(np.mean(np.sum((first.positions - moved.positions) ** 2, axis=1))))


def _runs_backwards(minima: list[Stationary], ends: tuple[Atoms, Atoms]) -> bool:
    """Whether the first minimum is rather the product: by bonds, or where these are equal by distance."""
    graphs = [bonds(minimum.atoms) for minimum in minima]
    wanted = [bonds(end) for end in ends]
    matches = [graphs == wanted, graphs[::-1] == wanted]
    if matches[0] != matches[1]:
        return matches[1]
    forward, backward = (
        sum(distance(end, minimum.atoms) for end, minimum in zip(ends, order, strict=True))
        for order in (minima, minima[::-1])
    )
    return backward < forward
