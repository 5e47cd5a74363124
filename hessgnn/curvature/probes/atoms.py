"""The three rows of each of some atoms, without replacement."""

from __future__ import annotations

import torch
from torch import Generator

from hessgnn.curvature.probes.base import PROBES, ProbeKind, Probes, shuffled, unit_vectors
from hessgnn.data.batch import Batch


@PROBES.register("atoms")
class AtomRows(ProbeKind):
    """The three rows of each of ``number`` atoms, so three times as many products."""

    whole_rows = True

    def draw(self, number: int, batch: Batch, generator: Generator | None) -> Probes:
        """See :meth:`ProbeKind.draw`."""
        order = shuffled(batch.n_atoms, generator)[:, :number]
        rows = 3 * order.unsqueeze(-1) + torch.arange(3, device=order.device)
        return unit_vectors(rows.flatten(1), batch)
