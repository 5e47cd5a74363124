"""Structures whose curvature is predicted to be large."""

from __future__ import annotations

import numpy as np

from hessgnn.data.structure import Array
from hessgnn.errors import ConfigError
from hessgnn.factory.selection import SELECTORS, Pool, Selector
from hessgnn.factory.selection.predictions import differenced_products, predict


@SELECTORS.register("curvature")
class Curvature(Selector):
    """RMS component of predicted products with random signs, which estimates ``‖H‖_F / √(3N)``.

    Products are those of the models, whose scores are averaged, or of a cheap engine.
    """

    unit = "eV/Å²"

    def scores(self, pool: Pool) -> Array:
        """See :meth:`Selector.scores`."""
        if not pool.models and pool.engine is None:
            raise ConfigError(
                "needs something that predicts a curvature",
                where="curvature",
                hint="give a trained potential, --models RUN, or a cheap engine, --engine tblite",
            )
        sources = [predict(model, pool, pool.candidates, "products") for model in pool.models]
        if pool.engine is not None:
            sources.append(differenced_products(pool.engine, pool))
        norms = [[np.sqrt(np.square(products).mean()) for products in source] for source in sources]
        return np.mean(norms, axis=0)
