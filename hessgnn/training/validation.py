"""Errors on a split, and the score that checkpoints and trials are chosen by."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hessgnn.curvature.hessian import padded_hessians
from hessgnn.curvature.probes import Probes, draw
from hessgnn.data.batch import Batch
from hessgnn.data.labels import Labels
from hessgnn.potentials.base import Potential
from hessgnn.training.config import ValidationConfig
from hessgnn.training.distributed import Ranks
from hessgnn.training.loss import energy_error, forces_error, hessian_error

UNITS = {"energy": 1e-3, "forces": 1e-2, "hessian": 0.1}
"""Errors that count as 1 in the score: 1 meV/atom, 10 meV/Å, 0.1 eV/Å². Fixed, and far from any tuned weight."""

_TERMS = ("energy", "forces", "hessian")
_PROBE_SEED = 20250307  # fixed probes: redrawn ones would make the choice of the checkpoint noisy


@dataclass(frozen=True)
class Errors:
    """Root mean square errors (eV/atom, eV/Å, eV/Å²), ``None`` where no structure has the label.

    That of the Hessian is also ``None`` where it has no weight in the score, and so was not computed.
    """

    energy: float | None
    forces: float | None
    hessian: float | None

    def score(self, weights: dict[str, float]) -> float:
        """Weighted geometric mean of the errors in :data:`UNITS`; lower is better.

        It is infinite when an error is not finite. ``weights`` are the exponents. An error that is not known is left
        out for every potential alike, since it is the data that lacks it.
        """
        total, exponent = 0.0, 0.0
        for name, weight in weights.items():
            error = getattr(self, name)
            if error is None or not weight:
                continue
            if not math.isfinite(error):
                return math.inf
            total += weight * math.log(max(error, 1e-12) / UNITS[name])
            exponent += weight
        return math.exp(total / exponent) if exponent else math.inf


def validate(
    potential: Potential, batches: Iterable[Batch], config: ValidationConfig, ranks: Ranks | None = None
) -> Errors:
    """Errors of a potential, each the root of the mean over structures of that structure's mean square error.

    Parameters
    ----------
    potential
        The potential.
    batches
        With labels.
    config
        Whether Hessians are compared, and if so the whole of them or fixed probes.
    ranks
        Divide the batches: whole Hessians take long, and whoever only waits for them is idle.
    """
    ranks = ranks or Ranks()
    generator = torch.Generator().manual_seed(_PROBE_SEED)
    rows = []  # of each batch: sums of errors and numbers of structures
    for number, batch in enumerate(batches):
        labels = batch.labels
        assert labels is not None
        probes = None
        hessians = config.compares_hessians and bool(labels.has_hessian.any())
        if hessians and config.probes is not None:
            probes = draw(config.probes, config.n_probes, batch, generator)  # also where another process needs them
        sums, counts = dict.fromkeys(_TERMS, 0.0), dict.fromkeys(_TERMS, 0)
        if number % ranks.number == ranks.rank:
            for name, (labelled, values) in _errors(potential, batch, labels, probes, hessians=hessians).items():
                sums[name], counts[name] = float(values[labelled].sum()), int(labelled.sum())
        rows.append([*sums.values(), *counts.values()])
    # Added in the order of the batches, so that the number of processes changes no digit.
    table = ranks.total(torch.tensor(rows, dtype=torch.float64).view(-1, 2 * len(_TERMS)))
    added = sum(table.numpy(), np.zeros(table.shape[1])).tolist()
    errors = zip(_TERMS, added[: len(_TERMS)], added[len(_TERMS) :], strict=True)
    return Errors(**{name: math.sqrt(total / count) if count else None for name, total, count in errors})


def _errors(
    potential: Potential, batch: Batch, labels: Labels, probes: Probes | None, *, hessians: bool
) -> dict[str, tuple[Tensor, Tensor]]:
    """Term -> which structures are labelled, and the mean square error of each."""
    prediction = potential(batch)
    errors = {
        "energy": (labels.has_energy, energy_error(prediction.energy, labels.energy, batch)),
        "forces": (labels.has_forces, forces_error(prediction.forces, labels.forces, batch)),
    }
    if probes is not None:
        products = potential.hvp(batch, probes.vectors)
        errors["hessian"] = labels.has_hessian, hessian_error(products, batch, labels, probes)
    elif hessians:
        residual = (padded_hessians(potential, batch) - labels.hessian).double()
        squares = residual.square().sum((1, 2)) / (9 * batch.n_atoms.double().square())
        errors["hessian"] = labels.has_hessian, squares
    return errors
