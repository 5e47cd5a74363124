"""Rows of each Hessian, without replacement."""

from __future__ import annotations

from torch import Generator

from hessgnn.curvature.probes.base import PROBES, ProbeKind, Probes, shuffled, unit_vectors
from hessgnn.data.batch import Batch


@PROBES.register("rows")
class Rows(ProbeKind):
    """``number`` rows of each Hessian, at most its 3N."""

    whole_rows = True

    def draw(self, number: int, batch: Batch, generator: Generator | None) -> Probes:
        """See :meth:`ProbeKind.draw`."""
        return unit_vectors(shuffled(3 * batch.n_atoms, generator)[:, :number], batch)
