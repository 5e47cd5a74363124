"""All rows of each Hessian: no estimate, the whole residual."""

from __future__ import annotations

from torch import Generator

from hessgnn.curvature.probes.base import PROBES, ProbeKind, Probes, all_rows
from hessgnn.data.batch import Batch


@PROBES.register("full")
class Full(ProbeKind):
    """All rows; ``number`` is ignored."""

    whole_rows = True

    def draw(self, number: int, batch: Batch, generator: Generator | None) -> Probes:  # noqa: ARG002 (one signature)
        """See :meth:`ProbeKind.draw`."""
        return all_rows(batch)
