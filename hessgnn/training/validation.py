"""Errors on a split, and the score that checkpoints and trials are chosen by."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from hessgnn.curvature.hessian import padded_hessians
from hessgnn.curvature.probes import draw
from hessgnn.data.batch import Batch
from hessgnn.data.labels import Labels
from hessgnn.potentials.base import Potential
from hessgnn.training.config import ValidationConfig
from hessgnn.training.loss import energy_error, forces_error, hessian_error

UNITS = {"energy": 1e-3, "forces": 1e-2, "hessian": 0.1}
"""Errors that count as 1 in the score: 1 meV/atom, 10 meV/Å, 0.1 eV/Å². Fixed, and far from any tuned weight."""

_PROBE_SEED = 20250307  # fixed probes: redrawn ones would make the choice of the checkpoint noisy


@dataclass(frozen=True)
class Errors:
    """Root mean square errors, ``None`` where no structure has the label.

    Attributes
    ----------
    energy
        eV/atom.
    forces
        eV/Å.
    hessian
        eV/Å².
    """

    energy: float | None
    forces: float | None
    hessian: float | None

    def score(self, weights: dict[str, float]) -> float:
        """Weighted geometric mean of the errors in :data:`UNITS`; lower is better.

        Parameters
        ----------
        weights
            Exponent of each error. An error that is not known is left out for every potential alike, since it is
            the data that lacks it.

        Returns
        -------
        float
            Infinite when an error is not finite.
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


def validate(potential: Potential, batches: Iterable[Batch], config: ValidationConfig) -> Errors:
    """Errors of a potential, each the root of the mean over structures of that structure's mean square error.

    Parameters
    ----------
    potential
        The potential.
    batches
        With labels.
    config
        Whether the whole Hessian is compared or fixed probes.

    Returns
    -------
    Errors
        Energy, forces and Hessian.
    """
    generator = torch.Generator().manual_seed(_PROBE_SEED)
    sums = {"energy": 0.0, "forces": 0.0, "hessian": 0.0}
    counts = dict.fromkeys(sums, 0)
    for batch in batches:
        labels = batch.labels
        assert labels is not None
        prediction = potential(batch)
        errors = {
            "energy": (labels.has_energy, energy_error(prediction.energy, labels.energy, batch)),
            "forces": (labels.has_forces, forces_error(prediction.forces, labels.forces, batch)),
        }
        if bool(labels.has_hessian.any()):
            errors["hessian"] = labels.has_hessian, _hessian_error(potential, batch, labels, config, generator)
        for name, (labelled, values) in errors.items():
            sums[name] += float(values[labelled].sum())
            counts[name] += int(labelled.sum())
    return Errors(**{name: math.sqrt(sums[name] / counts[name]) if counts[name] else None for name in sums})


def _hessian_error(
    potential: Potential, batch: Batch, labels: Labels, config: ValidationConfig, generator: torch.Generator
) -> Tensor:
    if config.hessian == "full":
        residual = (padded_hessians(potential, batch) - labels.hessian).double()
        return residual.square().sum((1, 2)) / (9 * batch.n_atoms.double().square())
    probes = draw("rademacher", config.n_probes, batch, generator)
    return hessian_error(potential.hvp(batch, probes.vectors), batch, labels, probes)
