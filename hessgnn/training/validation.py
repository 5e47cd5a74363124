"""Errors on a split, and the score that checkpoints and trials are chosen by."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hessgnn.curvature.hessian import padded_hessians
from hessgnn.curvature.probes import PROBES, Probes, draw
from hessgnn.data.batch import Batch
from hessgnn.data.labels import Labels
from hessgnn.potentials.base import Potential
from hessgnn.training.config import ValidationConfig
from hessgnn.training.distributed import Ranks
from hessgnn.training.loss import energy_error, forces_error, hessian_error

UNITS = {"energy": 1e-3, "energy_molecule": 1e-2, "forces": 1e-2, "hessian": 0.1}
"""Errors that count as 1 in the score: 1 meV/atom, 10 meV a molecule, 10 meV/Å, 0.1 eV/Å². Fixed, and far from any
tuned weight."""

_TERMS = ("energy", "forces", "hessian", "energy_molecule")
_PROBE_SEED = 20250307  # fixed probes: redrawn ones would make the choice of the checkpoint noisy
_TOGETHER = 16  # stored directions that are multiplied at a time


@dataclass(frozen=True)
class Errors:
    """Root mean square errors (eV/atom, eV/Å, eV/Å², eV), ``None`` where no structure has the label.

    That of the Hessian is also ``None`` where it has no weight in the score, and so was not computed. Of structures
    that have products but no Hessian it is the estimate of all their products.
    """

    energy: float | None
    forces: float | None
    hessian: float | None
    energy_molecule: float | None = None

    def score(self, weights: Mapping[str, float]) -> float:
        """Score of a single store, see :func:`score`."""
        return score([(self, 1.0)], weights)


def score(stores: Sequence[tuple[Errors, float]], weights: Mapping[str, float]) -> float:
    """Weighted geometric mean of the errors in :data:`UNITS`; lower is better.

    It is infinite when an error is not finite. An error that is not known is left out for every potential alike, since
    it is the data that lacks it.

    Parameters
    ----------
    stores
        Errors on each store, and its weight: a factor of the exponents.
    weights
        Exponents of the errors.
    """
    total, exponent = 0.0, 0.0
    for errors, factor in stores:
        for name, weight in weights.items():
            error = getattr(errors, name)
            if error is None or not weight or not factor:
                continue
            if not math.isfinite(error):
                return math.inf
            total += factor * weight * math.log(max(error, 1e-12) / UNITS[name])
            exponent += factor * weight
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
        compared = torch.zeros_like(labels.has_hessian)
        if config.compares_hessians:
            kind = "full" if config.probes is None else config.probes
            compared = PROBES[kind]().labelled(labels.has_hessian, labels.has_directions)
            if config.probes is not None and bool(compared.any()):
                probes = draw(kind, config.n_probes, batch, generator)  # also where another process needs them
        sums, counts = dict.fromkeys(_TERMS, 0.0), dict.fromkeys(_TERMS, 0)
        if number % ranks.number == ranks.rank:
            found = _errors(potential, batch, labels)
            if config.compares_hessians:
                found["hessian"] = _hessian_errors(potential, batch, labels, probes, compared)
            for name, (labelled, values) in found.items():
                sums[name], counts[name] = float(values[labelled].sum()), int(labelled.sum())
        rows.append([*sums.values(), *counts.values()])
    # Added in the order of the batches, so that the number of processes changes no digit.
    table = ranks.total(torch.tensor(rows, dtype=torch.float64).view(-1, 2 * len(_TERMS)))
    added = sum(table.numpy(), np.zeros(table.shape[1])).tolist()
    errors = zip(_TERMS, added[: len(_TERMS)], added[len(_TERMS) :], strict=True)
    return Errors(**{name: math.sqrt(total / count) if count else None for name, total, count in errors})


def _errors(potential: Potential, batch: Batch, labels: Labels) -> dict[str, tuple[Tensor, Tensor]]:
    """Term -> which structures are labelled, and the mean square error of each."""
    prediction = potential(batch)
    return {
        "energy": (labels.has_energy, energy_error(prediction.energy, labels.energy, batch)),
        "energy_molecule": (labels.has_energy, (prediction.energy - labels.energy).square()),
        "forces": (labels.has_forces, forces_error(prediction.forces, labels.forces, batch)),
    }


def _hessian_errors(
    potential: Potential, batch: Batch, labels: Labels, probes: Probes | None, compared: Tensor
) -> tuple[Tensor, Tensor]:
    """Which structures have a curvature label, and the mean square error of their Hessians, ``(n_structures,)``.

    Those that are ``compared`` by probes, or by their whole Hessians, are; the others by all their stored products.
    """
    errors = torch.zeros(batch.n_structures, dtype=torch.float64, device=compared.device)
    if probes is not None:
        products = potential.hvp(batch, probes.vectors)
        errors = hessian_error(products, batch, labels, probes)
    elif bool(compared.any()):
        errors = errors.masked_scatter(compared, _whole_errors(potential, _selected(batch, compared)))
    only = labels.has_directions & ~compared
    if bool(only.any()):
        errors = errors.masked_scatter(only, stored_error(potential, _selected(batch, only)))
    return compared | only, errors


def _selected(batch: Batch, structures: Tensor) -> Batch:
    return batch if bool(structures.all()) else batch.select(structures)


def _whole_errors(potential: Potential, batch: Batch) -> Tensor:
    assert batch.labels is not None
    residual = (padded_hessians(potential, batch) - batch.labels.hessian).double()
    return residual.square().sum((1, 2)) / (9 * batch.n_atoms.double().square())


def stored_error(potential: Potential, batch: Batch) -> Tensor:
    """Mean square error of the Hessian, estimated from all stored products, ``(n_structures,)`` float64, eV²/Å⁴.

    The batch has labels; structures without stored products are zero if they have no Hessian either.
    """
    labels = batch.labels
    assert labels is not None
    number = int(labels.directions.number.max())
    whole = draw("stored", number, batch, torch.Generator().manual_seed(_PROBE_SEED))
    assert whole.stored is not None
    errors = torch.zeros(batch.n_structures, dtype=torch.float64, device=batch.positions.device)
    for start in range(0, number, _TOGETHER):
        some = slice(start, start + _TOGETHER)
        probes = Probes(whole.vectors[some], whole.weights[some], stored=whole.stored[some])
        errors += hessian_error(potential.hvp(batch, probes.vectors), batch, labels, probes)
    return errors
