"""Directions whose products are stored with the structure: for data that have products instead of full Hessians."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from hessgnn.curvature.probes import PROBES, ProbeKind, Probes, shuffled
from hessgnn.data.batch import Batch
from hessgnn.errors import UserError


@PROBES.register("stored")
class Stored(ProbeKind):
    """``number`` of a structure's stored directions, without replacement; all of them where it has fewer.

    Structures without directions get random signs, which their Hessian is compared on if they have one. With weights w
    of ``E[w v vᵀ] = 1`` the estimate is unbiased; of other directions see :mod:`hessgnn.data.directions`.
    """

    whole_rows = None

    def draw(self, number: int, batch: Batch, generator: Generator | None) -> Probes:
        """See :meth:`ProbeKind.draw`."""
        labels = batch.labels
        if labels is None:
            raise UserError("these probes are stored with labels, and this batch has none", hint="use rademacher")
        device = batch.positions.device
        available = torch.from_numpy(labels.directions.number).to(device)
        chosen = torch.full((number, batch.n_structures), -1, device=device)
        if bool(available.any()):
            order = shuffled(available, generator)[:, :number].T
            chosen[: len(order)] = order.where(order < available, -1)
        vectors = labels.directions.read_vectors(chosen)
        # The mean over those that were drawn estimates the mean over all.
        used = available.clamp(min=1, max=number)
        weights = labels.directions.read_weights(chosen) / used
        fresh = available == 0
        if bool(fresh.any()):
            signs = torch.randint(0, 2, vectors.shape, generator=generator).to(vectors) * 2 - 1
            vectors = torch.where(fresh[batch.batch].unsqueeze(-1), signs, vectors)
            weights = torch.where(fresh, 1 / number, weights)
        return Probes(vectors, weights, stored=chosen)

    def labelled(self, has_hessian: Tensor, has_directions: Tensor) -> Tensor:
        """See :meth:`ProbeKind.labelled`."""
        return has_hessian | has_directions
