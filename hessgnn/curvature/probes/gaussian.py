"""Vectors of normally distributed numbers."""

from __future__ import annotations

import torch
from torch import Generator

from hessgnn.curvature.probes.base import PROBES, ProbeKind, Probes, averaged
from hessgnn.data.batch import Batch


@PROBES.register("gaussian")
class Gaussian(ProbeKind):
    """``number`` vectors of standard normal numbers."""

    def draw(self, number: int, batch: Batch, generator: Generator | None) -> Probes:
        """See :meth:`ProbeKind.draw`."""
        vectors = torch.randn(number, *batch.positions.shape, generator=generator, dtype=torch.float64)
        return averaged(vectors, batch)
