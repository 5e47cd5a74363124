"""Vectors of random signs (Hutchinson)."""

from __future__ import annotations

import torch
from torch import Generator

from hessgnn.curvature.probes.base import PROBES, ProbeKind, Probes, averaged
from hessgnn.data.batch import Batch


@PROBES.register("rademacher")
class Rademacher(ProbeKind):
    """``number`` vectors of random signs."""

    def draw(self, number: int, batch: Batch, generator: Generator | None) -> Probes:
        """See :meth:`ProbeKind.draw`."""
        signs = torch.randint(0, 2, (number, *batch.positions.shape), generator=generator) * 2 - 1
        return averaged(signs, batch)
