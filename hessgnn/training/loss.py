"""The loss: energy, forces and Hessian, each a mean over the structures that carry its label.

With N atoms in a structure and Δ for predicted minus reference:

========  ====================================  =================================================
term      of one structure                      weight
========  ====================================  =================================================
energy    ``(ΔE/N)²`` (or ``ΔE²/√N``)           1
forces    ``‖ΔF‖² / 3N``                        ``w_F`` in Å²
hessian   ``Σ_k w_k ‖ΔH v_k‖² / 9N²``           ``w_H`` in Å⁴
========  ====================================  =================================================

The probes ``v_k, w_k`` make the Hessian term an unbiased estimate of ``‖ΔH‖²_F / 9N²``, so a weight means the same for
any kind and number of probes. The form of the loss is that of arXiv 2503.07839; random probes are those of Projected
Hessian Learning (arXiv 2603.04523).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn import functional

from hessgnn.curvature.probes import Probes, draw
from hessgnn.data.batch import Batch, Labels
from hessgnn.potentials.base import Potential
from hessgnn.potentials.prediction import Prediction
from hessgnn.training.config import LossConfig, WeightRamp


@dataclass(frozen=True)
class Weights:
    """Weights of the loss terms in one step."""

    forces: float
    hessian: float

    @classmethod
    def at(cls, step: int, config: LossConfig) -> Weights:
        """Weights at a step, counted from 0."""
        share = _ramped(step, config.ramp)
        return cls(config.forces * share, config.hessian * share)


@dataclass(frozen=True)
class LossValue:
    """A loss with its parts.

    Attributes
    ----------
    total
        Scalar, with its graph.
    terms
        Name -> unweighted mean over the structures labelled with it. Terms of weight 0 are absent.
    per_structure
        Name -> (positions in the data set, values) of each structure, to find the one that is not finite.
    n_products
        Hessian products that were formed, each for a whole batch.
    """

    total: Tensor
    terms: dict[str, float]
    per_structure: dict[str, list[tuple[Tensor, Tensor]]]
    n_products: int


class Loss:
    """The loss of a batch. A term with weight 0 computes nothing.

    Parameters
    ----------
    config
        Weights, forms and probes.
    """

    def __init__(self, config: LossConfig) -> None:
        self.config = config

    def __call__(
        self, potential: Potential, batch: Batch, weights: Weights, generator: Generator | None = None
    ) -> LossValue:
        """Evaluate the loss with its graph.

        Parameters
        ----------
        potential
            The potential.
        batch
            With labels. Structures without one of the labels are left out of that term.
        weights
            Of this step.
        generator
            Source of the probes.

        Returns
        -------
        LossValue
            The loss and its parts.
        """
        by_weight = {"energy": 1.0, "forces": weights.forces, "hessian": weights.hessian}
        values: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name, weight in by_weight.items() if weight}
        n_products = 0
        for part, probes in self._parts(batch, weights, generator):
            prediction = potential(
                part,
                forces=weights.forces > 0,
                vectors=None if probes is None else probes.vectors,
                create_graph=True,
                backend=self.config.probes.backend,
            )
            n_products += 0 if probes is None else probes.number
            labels, index = _labels(part), part.index
            assert index is not None
            for name in values:
                if name == "hessian" and probes is None:
                    continue
                labelled, error = self._term(name, prediction, part, labels, probes)
                values[name].append((index[labelled], error[labelled]))
        means = {name: torch.cat([error for _, error in parts]) for name, parts in values.items() if parts}
        means = {name: errors.mean() for name, errors in means.items() if len(errors)}
        total = batch.positions.new_zeros((), dtype=torch.float64)
        for name, mean in means.items():
            total = total + by_weight[name] * mean
        return LossValue(total, {name: float(mean.detach()) for name, mean in means.items()}, values, n_products)

    def _term(
        self, name: str, prediction: Prediction, batch: Batch, labels: Labels, probes: Probes | None
    ) -> tuple[Tensor, Tensor]:
        if name == "energy":
            return labels.has_energy, energy_error(prediction, batch, labels, self.config.energy_form)
        if name == "forces":
            return labels.has_forces, forces_error(prediction, batch, labels)
        assert probes is not None
        return labels.has_hessian, hessian_error(prediction.products, batch, labels, probes, self._function)

    def _function(self, residual: Tensor) -> Tensor:
        if self.config.hessian_function == "l1":
            return residual.abs()
        if self.config.hessian_function == "huber":
            zero = torch.zeros_like(residual)
            return functional.huber_loss(residual, zero, reduction="none", delta=self.config.huber_delta)
        return residual.square()

    def _parts(
        self, batch: Batch, weights: Weights, generator: Generator | None
    ) -> Iterator[tuple[Batch, Probes | None]]:
        """Divide a batch into what is probed in this step and what is not."""
        if not weights.hessian:
            yield batch, None
            return
        probed = _choose(_labels(batch).has_hessian, self.config.probes.fraction, generator)
        for chosen, with_probes in ((probed, True), (~probed, False)):
            if not bool(chosen.any()):
                continue
            part = batch if bool(chosen.all()) else batch.select(chosen)
            probes = draw(self.config.probes.kind, self.config.probes.number, part, generator) if with_probes else None
            yield part, probes


def energy_error(prediction: Prediction, batch: Batch, labels: Labels, form: str = "per_atom") -> Tensor:
    """Squared energy error of each structure.

    Parameters
    ----------
    prediction
        Of the batch.
    batch
        The structures.
    labels
        Their labels.
    form
        ``per_atom``: ``(ΔE/N)²``; ``per_sqrt_atom``: ``ΔE²/√N``.

    Returns
    -------
    Tensor
        ``(n_structures,)`` float64, eV².
    """
    difference = prediction.energy - labels.energy
    size = batch.n_atoms.double()
    return difference.square() / (size.square() if form == "per_atom" else size.sqrt())


def forces_error(prediction: Prediction, batch: Batch, labels: Labels) -> Tensor:
    """Mean square error of the force components of each structure.

    Parameters
    ----------
    prediction
        Of the batch.
    batch
        The structures.
    labels
        Their labels.

    Returns
    -------
    Tensor
        ``(n_structures,)`` float64, eV²/Å².
    """
    squares = (prediction.forces - labels.forces).double().square().sum(-1)
    return batch.sum_per_structure(squares) / (3 * batch.n_atoms)


def hessian_error(
    products: Tensor,
    batch: Batch,
    labels: Labels,
    probes: Probes,
    function: Callable[[Tensor], Tensor] = torch.square,
) -> Tensor:
    """Estimate of the mean of a function of the Hessian's errors, for each structure.

    Parameters
    ----------
    products
        ``(K, n_atoms, 3)``, of the predicted Hessian with the probes.
    batch
        The structures.
    labels
        Their labels.
    probes
        The vectors that were multiplied with.
    function
        Of each entry of a residual product. Random probes are unbiased for the square only.

    Returns
    -------
    Tensor
        ``(n_structures,)`` float64; for the square, in eV²/Å⁴.
    """
    reference = torch.einsum("sij,ksj->ksi", labels.hessian, batch.pad(probes.vectors))
    values = function(batch.pad(products) - reference).double().sum(-1)
    return (probes.weights * values).sum(0) / (9 * batch.n_atoms.double().square())


def _choose(labelled: Tensor, fraction: float, generator: Generator | None) -> Tensor:
    """Draw a share of the labelled structures without replacement; the mean over them estimates that over all."""
    candidates = labelled.nonzero().squeeze(-1)
    number = max(1, round(fraction * len(candidates)))
    if number >= len(candidates):
        return labelled
    order = torch.randperm(len(candidates), generator=generator).to(candidates.device)
    chosen = torch.zeros_like(labelled)
    chosen[candidates[order[:number]]] = True
    return chosen


def _ramped(step: int, ramp: WeightRamp | None) -> float:
    if ramp is None:
        return 1.0
    return min(1.0, max(0.0, (step - ramp.start) / (ramp.stop - ramp.start)))


def _labels(batch: Batch) -> Labels:
    assert batch.labels is not None, "a loss needs labels"
    return batch.labels
