"""Single rows of the Hessian: unit vectors, drawn without replacement, unbiased with weight 3N."""

from __future__ import annotations

import numpy as np

from hessgnn.data.directions import Array
from hessgnn.factory.directions import DIRECTIONS, DirectionKind, Subject


@DIRECTIONS.register("rows")
class Rows(DirectionKind):
    """Unit vectors; at most 3N."""

    def draw(self, subject: Subject, number: int) -> Array:
        """See :meth:`DirectionKind.draw`."""
        size = 3 * len(subject.structure)
        order = subject.rng("rows").permutation(size)
        return subject.new((np.eye(size)[row].reshape(-1, 3) for row in order), "rows", number)

    def remaining(self, n_atoms: int, earlier: int, periodic: bool) -> float:  # noqa: ARG002
        """See :meth:`DirectionKind.remaining`."""
        return 3 * n_atoms - earlier
