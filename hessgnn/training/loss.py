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

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Generator, Tensor
from torch.nn import functional

from hessgnn.curvature.model import Prediction
from hessgnn.curvature.probes import PROBES, Probes, draw
from hessgnn.data.batch import Batch
from hessgnn.data.labels import Labels
from hessgnn.potentials.base import Potential
from hessgnn.training.loss_config import LossConfig
from hessgnn.training.part import Part, weighted_sum
from hessgnn.training.transfer import Reading


@dataclass(frozen=True)
class Weights:
    """Weights of the loss terms in one step."""

    forces: float
    hessian: float

    @classmethod
    def at(cls, step: int, config: LossConfig, seed: int = 0, own: int | None = None) -> Weights:
        """Weights at a step, counted from 0, of a run with a seed.

        With ``probes.every`` above 1 the Hessian's is 0 in most steps, and so many times as large in the others.
        ``own`` is the number of the step among those on the same store, where there are several: these are counted.
        """
        share, every = config.ramped(step), config.probes.every
        probed = (step if own is None else own) % every == config.probes.first(seed)
        return cls(config.forces * share, config.hessian * share * every if probed else 0.0)


class LossValue:
    """A loss with its parts. Errors of a device come to where the parts lie; who reads the value waits for them.

    Attributes
    ----------
    n_products
        Hessian products that were formed, each for a whole batch.
    """

    def __init__(
        self,
        index: Sequence[Tensor],
        weights: Sequence[dict[str, Tensor]],
        errors: Sequence[dict[str, Tensor]],
        n_products: int,
    ) -> None:
        self._index, self._weights, self.n_products = index, weights, n_products
        self._errors = [Reading(found, to.device) for found, to in zip(errors, index, strict=True)]

    @classmethod
    def of(cls, parts: Sequence[Part], errors: Sequence[dict[str, Tensor]], n_products: int | None = None) -> LossValue:
        """Put the parts of a batch together, from the errors of each: term -> ``(n_structures,)``.

        ``n_products`` are those of the parts unless they are given.
        """
        index = []
        for part in parts:
            assert part.batch.index is not None
            index.append(part.batch.index)
        if n_products is None:
            n_products = sum(part.n_products for part in parts)
        return cls(index, [part.weights for part in parts], errors, n_products)

    @cached_property
    def total(self) -> Tensor:
        """Scalar, with its graph if the errors had theirs."""
        each = zip(self._weights, self._errors, strict=True)
        totals = [weighted_sum(weights, errors.tensors()) for weights, errors in each]
        return torch.stack(totals).sum() if totals else torch.zeros((), dtype=torch.float64)

    @cached_property
    def per_structure(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Name -> (positions in the data set, errors) of the labelled structures."""
        labelled: dict[str, list[tuple[Tensor, Tensor]]] = {}
        for index, weights, errors in zip(self._index, self._weights, self._errors, strict=True):
            for name, weight in weights.items():
                counts = weight > 0
                labelled.setdefault(name, []).append((index[counts], errors.tensors()[name][counts].detach()))
        return {
            name: (torch.cat([i for i, _ in pairs]), torch.cat([v for _, v in pairs]))
            for name, pairs in labelled.items()
        }

    @cached_property
    def terms(self) -> dict[str, float]:
        """Name -> unweighted mean over the structures labelled with it. Terms of weight 0 are absent."""
        return {name: float(values.mean()) for name, (_, values) in self.per_structure.items()}


class Loss:
    """The loss of a batch. A term with weight 0 computes nothing."""

    def __init__(self, config: LossConfig) -> None:
        self.config = config

    def __call__(
        self, potential: Potential, batch: Batch, weights: Weights, generator: Generator | None = None
    ) -> LossValue:
        """Evaluate the loss with its graph.

        Structures without one of the labels are left out of that term. The probes are drawn from ``generator``.
        """
        parts = self.parts(batch, weights, generator)
        return LossValue.of(parts, [self.errors(potential, part) for part in parts])

    def parts(self, batch: Batch, weights: Weights, generator: Generator | None = None, number: int = 1) -> list[Part]:
        """Draw the probes and find the targets of a batch: all of a loss but the potential; see :meth:`divide`."""
        return self.divide(batch, weights, generator, number)[1]

    def divide(
        self,
        batch: Batch,
        weights: Weights,
        generator: Generator | None = None,
        number: int = 1,
        own: Tensor | None = None,
    ) -> tuple[Part, list[Part]]:
        """Draw the probes and find the targets: all of a loss but the potential.

        Parameters
        ----------
        batch
            With labels.
        weights
            Of this step.
        generator
            Source of the probes.
        number
            Parts that the batch is divided in; probes and weights are those of the whole, whatever the number. With
            ``probes.fraction`` below 1, what is probed and what is not are divided each.
        own
            ``(n_structures,)`` bool: structures that this rank computes, all by default. Only their reference Hessians
            are read; probes and weights are those of the batch, whatever they are.

        Returns
        -------
        joint
            The batch with its weights and without targets, the same on every rank.
        parts
            Of the own structures. Where these are all, their losses add up to that of the batch.
        """
        labels = _labels(batch)
        shares = {"energy": _shares(labels.has_energy), "forces": weights.forces * _shares(labels.has_forces)}
        shares["hessian"] = torch.zeros_like(shares["energy"])
        if weights.hessian:
            shares["hessian"] = weights.hessian * self.hessian_shares(batch, generator)
        probed = shares["hessian"] > 0
        parts = []
        for chosen, with_probes in ((probed, True), (~probed, False)):
            if not bool(chosen.any()):
                continue
            whole = bool(chosen.all())
            part = batch if whole else batch.select(chosen)
            kept = shares if whole else {name: share[chosen] for name, share in shares.items()}
            probes = draw(self.config.probes.kind, self.config.probes.number, part, generator) if with_probes else None
            place = None
            if own is not None:
                mine, place = own[chosen], (chosen & own).nonzero().squeeze(-1)
                if not len(place):
                    continue
                kept = {name: share[mine] for name, share in kept.items()}
                probes = None if probes is None else probes.select(mine, mine[part.batch])
                part = part.select(mine)
            parts.append(_part(part, _weighed(kept), probes, place))
        weighed = {f"{name}_weight": share for name, share in _weighed(shares).items()}
        joint = Part(batch.replace(labels=None), **weighed)
        return joint, [piece for part in parts if part.weights for piece in part.split(number)]

    def hessian_shares(self, batch: Batch, generator: Generator | None) -> Tensor:
        """Weights ``(n_structures,)`` of the structures that are probed, whose sum of errors estimates the mean."""
        probes, labels = self.config.probes, _labels(batch)
        labelled = PROBES[probes.kind]().labelled(labels.has_hessian, labels.has_directions)
        return _shares(_choose(labelled, probes.fraction, generator))

    def errors(self, potential: Callable[..., Prediction], part: Part) -> dict[str, Tensor]:
        """Errors of the structures with their graph: nothing here looks at a value, so it can be traced.

        Parameters
        ----------
        potential
            The potential, or what can be called like it.
        part
            The structures.

        Returns
        -------
        dict
            Term -> ``(n_structures,)`` float64, for the terms that have a weight.
        """
        prediction = potential(
            part.batch,
            forces=part.forces is not None,
            vectors=part.vectors,
            create_graph=True,
            backend=self.config.probes.backend,
        )
        errors = {}
        if part.energy is not None:
            errors["energy"] = energy_error(prediction.energy, part.energy, part.batch, self.config.energy_form)
        if part.forces is not None:
            errors["forces"] = forces_error(prediction.forces, part.forces, part.batch)
        if part.products is not None:
            assert part.probe_weights is not None
            residual = prediction.products - part.products
            errors["hessian"] = products_error(residual, part.probe_weights, part.batch, self._function)
        return errors

    def _function(self, residual: Tensor) -> Tensor:
        if self.config.hessian_function == "l1":
            return residual.abs()
        if self.config.hessian_function == "huber":
            zero = torch.zeros_like(residual)
            return functional.huber_loss(residual, zero, reduction="none", delta=self.config.huber_delta)
        return residual.square()


def energy_error(energy: Tensor, reference: Tensor, batch: Batch, form: str = "per_atom") -> Tensor:
    """Squared energy error of each structure, ``(n_structures,)`` float64, eV².

    The ``form`` is ``per_atom``: ``(ΔE/N)²``, or ``per_sqrt_atom``: ``ΔE²/√N``. Energies are float64, eV.
    """
    size = batch.n_atoms.double()
    return (energy - reference).square() / (size.square() if form == "per_atom" else size.sqrt())


def forces_error(forces: Tensor, reference: Tensor, batch: Batch) -> Tensor:
    """Mean square error of the force components (eV/Å) of each structure, ``(n_structures,)`` float64, eV²/Å²."""
    squares = (forces - reference).double().square().sum(-1)
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
    batch, labels
        The structures and their labels.
    probes
        The vectors that were multiplied with.
    function
        Of each entry of a residual product. Random probes are unbiased for the square only.

    Returns
    -------
    Tensor
        ``(n_structures,)`` float64; for the square, in eV²/Å⁴.
    """
    residual = products - reference_products(batch, labels, probes)
    return products_error(residual, probes.weights, batch, function)


def reference_products(batch: Batch, labels: Labels, probes: Probes) -> Tensor:
    """Products of the reference Hessians, ``(K, n_atoms, 3)``; zero where a structure has none.

    Of probes that are unit vectors only these rows of the Hessians are read, of stored directions their products.
    """
    if probes.rows is not None:
        return batch.unpad(labels.hessians.rows(probes.rows))
    if probes.stored is None:
        return batch.unpad(labels.hessians.products(batch.pad(probes.vectors)))
    products = labels.directions.read_products(probes.stored)
    fresh = ~labels.has_directions
    if not bool(fresh.any()):
        return products
    atoms = fresh[batch.batch]
    part = batch.select(fresh)
    formed = labels.hessians.select(fresh).products(part.pad(probes.vectors[:, atoms]))
    products[:, atoms] = part.unpad(formed)
    return products


def products_error(
    residual: Tensor, weights: Tensor, batch: Batch, function: Callable[[Tensor], Tensor] = torch.square
) -> Tensor:
    """As :func:`hessian_error`, of predicted minus reference products ``(K, n_atoms, 3)``.

    ``weights`` ``(K, n_structures)`` are those of the probes.
    """
    values = batch.sum_per_structure(function(residual).double().sum(-1).T)
    return (weights.T * values).sum(1) / (9 * batch.n_atoms.double().square())


def _weighed(shares: dict[str, Tensor]) -> dict[str, Tensor]:
    """Those terms that weigh something."""
    return {name: share for name, share in shares.items() if bool(share.any())}


def _part(batch: Batch, weights: dict[str, Tensor], probes: Probes | None, place: Tensor | None) -> Part:
    """Targets of the terms that have a weight."""
    labels = _labels(batch)
    targets = {f"{name}_weight": weight for name, weight in weights.items()}
    if "energy" in weights:
        targets["energy"] = labels.energy
    if "forces" in weights:
        targets["forces"] = labels.forces
    if probes is not None:
        products = reference_products(batch, labels, probes)
        targets |= {"vectors": probes.vectors, "products": products, "probe_weights": probes.weights}
    return Part(batch.replace(labels=None), place=place, **targets)


def _shares(labelled: Tensor) -> Tensor:
    """Weights of a mean over the labelled structures."""
    return labelled.double() / labelled.sum().clamp(min=1)


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


def _labels(batch: Batch) -> Labels:
    assert batch.labels is not None, "a loss needs labels"
    return batch.labels
