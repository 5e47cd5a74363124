"""Messages summed over neighbours, with all derivatives as one kind of node.

The message is the slope of :mod:`hessgnn.potentials.slopes`' sum in g; forces need those in x, Y and d; products with
the Hessian, and the gradient of a loss on them, are the same slopes of its derivatives along one or two directions. So
one function serves them all. Left to autograd, each derivative of each elementary operation would be an array over all
edges, channels and probes.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from hessgnn.data.batch import Batch
from hessgnn.potentials.blocks import BesselBasis, GaussianBasis, PolynomialCutoff
from hessgnn.potentials.engine import needed_inputs, vectorised, without_vectorisation
from hessgnn.potentials.radial import radial_derivatives
from hessgnn.potentials.slopes import SLOTS, Problem, Wanted, evaluate
from hessgnn.potentials.tensor_product import TensorProduct


class Convolve(Protocol):
    """Sum the messages of a batch to each atom, ``(n_atoms, n_rows, channels)``."""

    def __call__(self, product: TensorProduct, x: Tensor, radial: nn.Sequential) -> Tensor:
        """From features ``(n_atoms, dim_in, channels)`` and the network of the distances that gives the weights."""
        ...


def convolution(
    harmonics: Tensor,
    distances: Tensor,
    basis: BesselBasis | GaussianBasis,
    envelope: PolynomialCutoff,
    batch: Batch,
) -> Convolve:
    """Prepare convolutions on the edges of one batch.

    Parameters
    ----------
    harmonics
        ``(n_edges, n_harmonics)``.
    distances
        ``(n_edges,)``.
    basis, envelope
        What networks of the distances see is their product.
    batch
        If it says how many derivatives will be taken, and these are known, they are written down, otherwise autograd
        is left to find any.
    """
    derivatives = radial_derivatives(distances, basis, envelope, batch.derivatives)

    def convolve(product: TensorProduct, x: Tensor, radial: nn.Sequential) -> Tensor:
        if derivatives is not None:
            return known_convolution(product, x, harmonics, distances, derivatives(radial), batch.edge_index)
        weights = radial(basis(distances) * envelope(distances).unsqueeze(-1))
        return product(x, harmonics, weights, batch.edge_index)

    return convolve


def known_convolution(
    product: TensorProduct, x: Tensor, harmonics: Tensor, distances: Tensor, weights: Tensor, edge_index: Tensor
) -> Tensor:
    """Sum of the messages to each centre, from radial functions that know their derivatives.

    Parameters
    ----------
    product
        The tensor product.
    x
        ``(n_atoms, dim_in, channels)``.
    harmonics
        ``(n_edges, n_harmonics)``.
    distances
        ``(n_edges,)``.
    weights
        ``(order + 1, n_edges, n_paths * channels)``: value, slope, … in the distance. The result can be differentiated
        in the positions as often as there are derivatives.
    edge_index
        ``(2, n_edges)``: centre and neighbour.

    Returns
    -------
    Tensor
        ``(n_atoms, n_rows, channels)``.
    """
    problem = Problem(product, *edge_index)
    base = (x.unsqueeze(1), harmonics.unsqueeze(1), distances.unsqueeze(1), None)
    (out,) = _Slopes.apply(problem, (Wanted("g", 0, 1),), weights, *base)
    return out.squeeze(1)


class _Slopes(torch.autograd.Function):
    """Slopes of the sum along some directions."""

    @staticmethod
    def forward(
        ctx: Any, problem: Problem, wanted: tuple[Wanted, ...], weights: Tensor, *points: Tensor | None
    ) -> tuple[Tensor, ...]:
        ctx.problem, ctx.wanted = problem, wanted
        ctx.save_for_backward(weights, *points)
        ctx.set_materialize_grads(False)
        return evaluate(problem, weights, points, wanted)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        weights, *points = ctx.saved_tensors
        n = len(SLOTS)
        if all(g is None for g in gradients):
            return (None,) * (3 + len(points))
        asked, copies = without_vectorisation(gradients)
        given = {wanted.slot: g for wanted, g in zip(ctx.wanted, asked, strict=True)}
        direction = [given.get(slot) for slot in SLOTS]
        # Where only messages were computed, they are the slope in g itself.
        inner = [*points[:-1], direction[-1]] if points[n - 1] is None else [*points, *direction]
        full = 2 ** (len(inner) // n - 1) - 1
        # Each direction's own slope is the derivative along the others.
        along = [full if k < n else full ^ (1 << (k // n - 1)) for k in range(len(points))]
        needed = needed_inputs(ctx, [weights, *points])
        jobs = []
        for k in range(len(points)):
            wanted = Wanted(SLOTS[k % n], along[k], copies or points[k].shape[1]) if needed[k + 1] else None
            # Nobody asks for more derivatives in the positions than are known: see Batch.derivatives.
            if wanted and not (wanted.slot in "yd" and wanted.along.bit_count() + 1 >= len(weights)):
                jobs.append((k, wanted))
        out: list[Tensor | None] = [None] * (1 + len(points))
        if needed[0] and (copies or torch.is_grad_enabled()):
            raise NotImplementedError(
                "derivatives in the parameters cannot be vectorised or differentiated again where Batch.derivatives "
                "is set; use potential.total_energy(batch)"
            )
        if not torch.is_grad_enabled():
            if needed[0]:
                jobs.append((-1, Wanted("w", full, 1)))
            values = evaluate(ctx.problem, weights, inner, [wanted for _, wanted in jobs])
            for (k, _), value in zip(jobs, values, strict=True):
                out[k + 1] = value
        else:
            for mask in dict.fromkeys(wanted.along for _, wanted in jobs):
                chosen = [(k, wanted) for k, wanted in jobs if wanted.along == mask]
                kept = [t for k, t in enumerate(inner) if k < n or mask >> (k // n - 1) & 1]
                bits = 2 ** (len(kept) // n - 1) - 1
                values = _Slopes.apply(
                    ctx.problem, tuple(wanted._replace(along=bits) for _, wanted in chosen), weights, *kept
                )
                for (k, _), value in zip(chosen, values, strict=True):
                    out[k + 1] = value
        if copies:
            out = [out[0], *(None if t is None else vectorised(t) for t in out[1:])]
        return None, None, *out
