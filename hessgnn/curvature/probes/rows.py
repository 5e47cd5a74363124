"""Unit vectors as probes: single rows of each Hessian, the three rows of an atom, or all rows."""

from __future__ import annotations

import torch
from torch import Generator

from hessgnn.curvature.probes import PROBES, ProbeKind, Probes, all_rows, shuffled, unit_vectors
from hessgnn.data.batch import Batch


@PROBES.register("rows")
class Rows(ProbeKind):
    """``number`` rows of each Hessian, at most its 3N."""

    whole_rows = True

    def draw(self, number: int, batch: Batch, generator: Generator | None) -> Probes:
        """See :meth:`ProbeKind.draw`."""
        return unit_vectors(shuffled(3 * batch.n_atoms, generator)[:, :number], batch)


@PROBES.register("atoms")
class AtomRows(ProbeKind):
    """The three rows of each of ``number`` atoms, so three times as many products."""

    whole_rows = True

    def draw(self, number: int, batch: Batch, generator: Generator | None) -> Probes:
        """See :meth:`ProbeKind.draw`."""
        order = shuffled(batch.n_atoms, generator)[:, :number]
        rows = 3 * order.unsqueeze(-1) + torch.arange(3, device=order.device)
        return unit_vectors(rows.flatten(1), batch)


@PROBES.register("full")
class Full(ProbeKind):
    """All rows; ``number`` is ignored."""

    whole_rows = True

    def draw(self, number: int, batch: Batch, generator: Generator | None) -> Probes:  # noqa: ARG002 (one signature)
        """See :meth:`ProbeKind.draw`."""
        return all_rows(batch)
