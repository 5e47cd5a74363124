"""Structures on whose curvature an ensemble of models disagrees: query by committee.

Seung, Opper, Sompolinsky, "Query by committee", COLT 1992. The spread of predictions is what there is to know of their
error before a label is made; models that differ in their seed alone share what the architecture cannot represent.
"""

from __future__ import annotations

import numpy as np

from hessgnn.data.structure import Array
from hessgnn.factory.selection import SELECTORS, Pool, Selector
from hessgnn.factory.selection.predictions import predict


@SELECTORS.register("disagreement")
class Disagreement(Selector):
    """Standard deviation of a component of ``H·v`` over the models, RMS over components and random signs v.

    With ``ΔH`` the deviation of a model from their mean, the square estimates the mean of ``‖ΔH‖²_F / 3N`` over the
    models, with one degree of freedom subtracted. All models are given the same directions.
    """

    unit = "eV/Å²"
    models = 2

    def scores(self, pool: Pool) -> Array:
        """See :meth:`Selector.scores`."""
        members = [predict(model, pool, pool.candidates, "products") for model in pool.models]
        return np.array([np.sqrt(np.var(products, axis=0, ddof=1).mean()) for products in zip(*members, strict=True)])
