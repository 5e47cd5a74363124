"""Structures at random: what every other rule has to beat."""

from __future__ import annotations

import numpy as np

from hessgnn.data.structure import Array
from hessgnn.factory.selection import SELECTORS, Pool, Selector


@SELECTORS.register("random")
class RandomChoice(Selector):
    """A random number between 0 and 1 for each structure, from the seed."""

    def scores(self, pool: Pool) -> Array:
        """See :meth:`Selector.scores`."""
        return np.random.default_rng(pool.seed).random(len(pool.candidates))
