"""Structures with large forces, or with large errors of forces where there are models."""

from __future__ import annotations

import numpy as np

from hessgnn.data.structure import Array
from hessgnn.factory.selection import SELECTORS, Pool, Selector
from hessgnn.factory.selection.predictions import predict


@SELECTORS.register("force")
class Force(Selector):
    """RMS component of the labelled forces; with models, of the error of their mean force."""

    unit = "eV/Å"
    noise = 1e-4  # of converged forces it is 1e-9 to 1e-5, and optimisations to stationary points end below

    def scores(self, pool: Pool) -> Array:
        """See :meth:`Selector.scores`."""
        labelled = pool.store.has_forces[pool.candidates]
        scores = np.full(len(pool.candidates), np.nan)
        chosen = pool.candidates[labelled]
        residuals = [pool.store.per_atom("forces", int(i)) for i in chosen]
        for model in pool.models:
            predicted = predict(model, pool, chosen, "forces")
            residuals = [one - forces / len(pool.models) for one, forces in zip(residuals, predicted, strict=True)]
        scores[labelled] = [np.sqrt(np.square(one).mean()) for one in residuals]
        return scores
