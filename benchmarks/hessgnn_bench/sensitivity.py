"""How the Hessian loss and its gradient depend on the probes, for one potential on some structures.

For a residual A and its change ``D_r = ∂A/∂θ·δ_r`` along a direction δ_r in the space of the parameters, what a draw
``V, w`` gives of a structure follows without the potential:

``loss = Σ_k w_k ‖A v_k‖² / 9N²`` and ``gradient·δ_r = 2 Σ_k w_k (A v_k)·(D_r v_k) / 9N²``.

With δ_r of zero mean and unit covariance, the mean of ``Var[gradient·δ_r]`` over r is the trace of the gradient's
covariance. So a few D_r serve every estimator, every number of probes and any number of draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from hessgnn.curvature.hessian import padded_hessians
from hessgnn.data.batch import Batch
from hessgnn.data.structure import Structure
from hessgnn.potentials.base import Potential
from hessgnn.training.loss import Loss, Weights
from hessgnn.training.loss_config import LossConfig, ProbeConfig
from hessgnn_bench.estimators import Draws, Known

STEP = 1e-4
"""Of the central differences along δ_r, as a share of the parameters' root mean square."""


@dataclass(frozen=True)
class Sensitive:
    """One structure.

    Attributes
    ----------
    known
        What estimators may use.
    gram
        ``AᵀA``, ``(3N, 3N)``.
    slopes
        ``AᵀD_r`` for each direction, ``(R, 3N, 3N)``.
    """

    known: Known
    gram: Tensor
    slopes: Tensor

    def loss_and_gradient(self, draws: Draws) -> tuple[Tensor, Tensor]:
        """Loss ``(n_draws,)`` and gradient along each direction ``(n_draws, R)``."""
        vectors, weights = draws
        outer = torch.einsum("nk,nki,nkj->nij", weights, vectors, vectors).flatten(1)
        return outer @ self.gram.flatten() / self.norm, 2 * outer @ self.slopes.flatten(1).T / self.norm

    @property
    def norm(self) -> float:
        """9N²."""
        return float(self.known.size**2)

    @property
    def exact_loss(self) -> Tensor:
        """From all rows."""
        return self.gram.trace() / self.norm

    @property
    def exact_gradient(self) -> Tensor:
        """From all rows, along each direction."""
        return 2 * self.slopes.diagonal(dim1=1, dim2=2).sum(1) / self.norm


@dataclass(frozen=True)
class Sensitivity:
    """A potential on some structures.

    Attributes
    ----------
    structures
        One by one.
    squared_gradient
        Of the mean over the structures of the Hessian loss with all rows: its squared norm over all parameters.
    """

    structures: list[Sensitive]
    squared_gradient: float

    @classmethod
    def of(cls, potential: Potential, structures: Sequence[Structure], directions: int, seed: int) -> Sensitivity:
        """Differentiate.

        Parameters
        ----------
        potential
            In float64.
        structures
            Each with a Hessian.
        directions
            How many δ_r.
        seed
            Of them.
        """
        batch = Batch.from_structures(structures, potential.cutoff, index=range(len(structures)))
        assert batch.labels is not None
        residual = padded_hessians(potential, batch) - batch.labels.hessian
        slopes = _slopes(potential, batch, directions, torch.Generator().manual_seed(seed))
        found = []
        for s, structure in enumerate(structures):
            n = 3 * len(structure)
            a = residual[s, :n, :n]
            found.append(Sensitive(Known(structure, a), a.T @ a, a.T @ slopes[:, s, :n, :n]))
        return cls(found, _squared_gradient(potential, batch))


def _slopes(potential: Potential, batch: Batch, directions: int, generator: torch.Generator) -> Tensor:
    """Change of the padded Hessians along random directions, ``(R, n_structures, D, D)``."""
    parameters = [p for p in potential.parameters() if p.requires_grad]
    start = parameters_to_vector(parameters).detach().clone()
    step = STEP * float(start.square().mean().sqrt())
    slopes = []
    try:
        for _ in range(directions):
            direction = torch.randn(len(start), generator=generator, dtype=torch.float64)
            ends = []
            for sign in (1, -1):
                vector_to_parameters(start + sign * step * direction, parameters)
                ends.append(padded_hessians(potential, batch))
            slopes.append((ends[0] - ends[1]) / (2 * step))
    finally:
        vector_to_parameters(start, parameters)
    return torch.stack(slopes)


def _squared_gradient(potential: Potential, batch: Batch) -> float:
    parameters = [p for p in potential.parameters() if p.requires_grad]
    loss = Loss(LossConfig(forces=0.0, hessian=1.0, probes=ProbeConfig(kind="full")))
    gradient: list[Tensor] = [torch.zeros_like(p) for p in parameters]
    for s in range(batch.n_structures):  # one at a time: the graph of all rows is large
        one = batch.select(torch.arange(batch.n_structures) == s)
        total = hessian_term(loss, potential, one)
        parts = torch.autograd.grad(total, parameters, allow_unused=True, materialize_grads=True)
        gradient = [g + part / batch.n_structures for g, part in zip(gradient, parts, strict=True)]
    return float(sum(g.square().sum() for g in gradient))


def hessian_term(loss: Loss, potential: Potential, batch: Batch, generator: torch.Generator | None = None) -> Tensor:
    """The Hessian term alone, with its graph."""
    parts = loss.parts(batch, Weights(0.0, 1.0), generator)
    terms = [part.weights["hessian"] * loss.errors(potential, part)["hessian"] for part in parts if part.n_products]
    return torch.cat(terms).sum()
