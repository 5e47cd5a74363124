"""An elementary step: its saddle point, its path, its ends, and the proof that they belong together."""

from __future__ import annotations

from dataclasses import dataclass

from ase import Atoms

from hessgnn.data.structure import Array
from hessgnn.factory import irc
from hessgnn.factory.guesses import guesses
from hessgnn.factory.minimum import Stationary, find_minimum
from hessgnn.factory.recipe import Recipe
from hessgnn.factory.saddle import find_saddle
from hessgnn.factory.targets import Target
from hessgnn.surface.engines import Engine, LabelError


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
    """

    reactant: Stationary
    product: Stationary
    saddle: Stationary
    frames: list[Array]


def find_step(recipe: Recipe, engine: Engine, target: Target) -> Step:
    """Find and prove an elementary step.

    Parameters
    ----------
    recipe
        Ways to guess, limits of each search.
    engine
        What computes labels.
    target
        What to look for.

    Returns
    -------
    Step
        Its saddle point has exactly one imaginary mode, and steepest descent from it ends in the two minima that the
        target says.

    Raises
    ------
    LabelError
        When no guess leads to that, with the reasons.
    """
    reasons: list[str] = []
    tried = guesses(recipe, engine, target)
    while True:
        try:
            return _proved(recipe, engine, target, next(tried))
        except StopIteration:
            break
        except LabelError as error:
            reasons.append(str(error))
    raise LabelError("; ".join(dict.fromkeys(reasons)) or "there is no guess of the saddle point")


def _proved(recipe: Recipe, engine: Engine, target: Target, guess: Atoms) -> Step:
    """Refine a guess and follow the path from it."""
    saddle = find_saddle(recipe.saddle, engine, guess)
    branches = irc.follow(recipe.irc, engine, saddle)
    # Steepest descent keeps a symmetry that it begins with, and can end on the ridge between two equal minima.
    minima = [find_minimum(recipe.minimum, engine, Atoms(guess.numbers, branch.end)) for branch in branches]
    sides = [target.side(minimum.atoms) for minimum in minima]
    if sorted(map(str, sides)) != ["product", "reactant"]:
        raise LabelError(f"the path joins {' and '.join(side or 'something else' for side in sides)}")
    if sides[0] == "product":
        minima.reverse()
        branches = branches[1], branches[0]
    before, after = (irc.frames(branch, recipe.irc.frames) for branch in branches)
    return Step(minima[0], minima[1], saddle, [*reversed(before), *after])
