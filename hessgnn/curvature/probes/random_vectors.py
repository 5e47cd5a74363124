"""Random vectors as probes: normally distributed numbers, or random signs (Hutchinson)."""

from __future__ import annotations

import torch
from torch import Generator

from hessgnn.curvature.probes import PROBES, ProbeKind, Probes, averaged
from hessgnn.data.batch import Batch


@PROBES.register("gaussian")
class Gaussian(ProbeKind):
    """``number`` vectors of standard normal numbers."""

    def draw(self, number: int, batch: Batch, generator: Generator | None) -> Probes:
        """See :meth:`ProbeKind.draw`."""
        vectors = torch.randn(number, *batch.positions.shape, generator=generator, dtype=torch.float64)
        return averaged(vectors, batch)


@PROBES.register("rademacher")
class Rademacher(ProbeKind):
    """``number`` vectors of random signs."""

    def draw(self, number: int, batch: Batch, generator: Generator | None) -> Probes:
        """See :meth:`ProbeKind.draw`."""
        signs = torch.randint(0, 2, (number, *batch.positions.shape), generator=generator) * 2 - 1
        return averaged(signs, batch)
