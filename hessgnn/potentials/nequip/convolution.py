"""Messages summed over neighbours, with all derivatives as one kind of node.

The message is the slope of :mod:`hessgnn.potentials.nequip.slopes`' sum in g; forces need those in x, Y and d; products
with the Hessian, and the gradient of a loss on them, are the same slopes of its derivatives along one or two
directions. So one function serves them all. Left to autograd, each derivative of each elementary operation would be an
array over all edges, channels and probes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from hessgnn.data.batch import Batch
from hessgnn.potentials.blocks.layers import BesselBasis, GaussianBasis, PolynomialCutoff
from hessgnn.potentials.blocks.radial import radial_derivatives
from hessgnn.potentials.nequip.slopes import SLOTS, Problem, Wanted, evaluate
from hessgnn.potentials.nequip.tensor_product import TensorProduct


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

    Networks of the ``distances`` ``(n_edges,)`` see the product of basis and envelope; ``harmonics`` are ``(n_edges,
    n_harmonics)``. If the batch says how many derivatives will be taken, and these are known, they are written down,
    otherwise autograd is left to find any.
    """
    derivatives = radial_derivatives(distances, basis, envelope, batch.derivatives)

    def convolve(product: TensorProduct, x: Tensor, radial: nn.Sequential) -> Tensor:
        if derivatives is not None:
            return known_convolution(product, x, harmonics, distances, derivatives(radial), batch.edge_index)
        weights = radial(basis(distances) * envelope(distances).unsqueeze(-1))
        return product(x, harmonics, weights, batch.edge_index)

    return convolve


def known_convolution(
    product: TensorProduct,
    x: Tensor,
    harmonics: Tensor,
    distances: Tensor,
    weights: Sequence[Tensor],
    edge_index: Tensor,
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
        Value, slope, … in the distance, each ``(n_edges, n_paths * channels)``. The result can be differentiated in the
        positions as often as there are derivatives.
    edge_index
        ``(2, n_edges)``: centre and neighbour.

    Returns
    -------
    Tensor
        ``(n_atoms, n_rows, channels)``.
    """
    problem = Problem(product, *edge_index)
    base = (x.unsqueeze(1), harmonics.unsqueeze(1), distances.unsqueeze(1), None)
    (out,) = _Slopes.apply(problem, (Wanted("g", 0, 1),), len(weights), *weights, *base)
    return out.squeeze(1)


class _Slopes(torch.autograd.Function):
    """Slopes of the sum along some directions, from weights and points as of :func:`evaluate`."""

    @staticmethod
    def forward(
        ctx: Any, problem: Problem, wanted: tuple[Wanted, ...], n_weights: int, *tensors: Any
    ) -> tuple[Tensor, ...]:
        ctx.problem, ctx.wanted, ctx.n_weights = problem, wanted, n_weights
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)
        return evaluate(problem, tensors[:n_weights], tensors[n_weights:], wanted)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        out: list[Tensor | None] = [None] * len(ctx.saved_tensors)
        if all(g is None for g in gradients):
            return None, None, None, *out
        asked, copies = without_vectorisation(gradients)
        given = {wanted.slot: g for wanted, g in zip(ctx.wanted, asked, strict=True)}
        direction = [given.get(slot) for slot in SLOTS]
        n, m = len(SLOTS), ctx.n_weights
        weights, points = ctx.saved_tensors[:m], ctx.saved_tensors[m:]
        # Where only messages were computed, they are the slope in g itself.
        inner = [*points[:-1], direction[-1]] if points[n - 1] is None else [*points, *direction]
        full = 2 ** (len(inner) // n - 1) - 1
        shifted = sum(d is not None for d in inner[n + SLOTS.index("d") :: n])
        needed = needed_inputs(ctx, ctx.saved_tensors)
        if any(needed[:m]) and (copies or torch.is_grad_enabled()):
            raise NotImplementedError(
                "derivatives in the parameters cannot be vectorised or differentiated again where Batch.derivatives "
                "is set; use potential.total_energy(batch)"
            )
        jobs = {k: Wanted(f"w{k}", full, 1) for k in range(min(m, 1 + shifted)) if needed[k]}
        for k, point in enumerate(points):
            # Each direction's own slope is the derivative along the others.
            along = full if k < n else full ^ (1 << (k // n - 1))
            # Nobody asks for more derivatives in the positions than are known: see Batch.derivatives.
            if needed[m + k] and not (SLOTS[k % n] in "yd" and along.bit_count() + 1 >= m):
                jobs[m + k] = Wanted(SLOTS[k % n], along, copies or point.shape[1])
        if torch.is_grad_enabled():
            for mask in dict.fromkeys(wanted.along for wanted in jobs.values()):
                chosen = [k for k, wanted in jobs.items() if wanted.along == mask]
                kept = [t for k, t in enumerate(inner) if k < n or mask >> (k // n - 1) & 1]
                bits = 2 ** (len(kept) // n - 1) - 1
                wanted = tuple(jobs[k]._replace(along=bits) for k in chosen)
                for k, value in zip(chosen, _Slopes.apply(ctx.problem, wanted, m, *weights, *kept), strict=True):
                    out[k] = value
        else:
            for k, value in zip(jobs, evaluate(ctx.problem, weights, inner, list(jobs.values())), strict=True):
                out[k] = value
        if copies:
            out = [None if t is None else vectorised(t) for t in out]
        return None, None, None, *out


def needed_inputs(ctx: Any, tensors: Sequence[Tensor | None]) -> list[bool]:
    """Which of the inputs' gradients this backward pass will use; ``ctx.needs_input_grad`` says which could be.

    Only private functions of torch know this, here and in the helpers below.
    """
    edges = iter(ctx.next_functions)
    return [t is not None and _will_run(next(edges)[0]) for t in tensors]


def _will_run(node: Any) -> bool:
    if node is None:
        return False
    try:
        return torch._C._will_engine_execute_node(node)
    except RuntimeError:  # a leaf that torch.autograd.grad was asked for
        return True


def _level() -> int:
    """Nesting of the vectorised backward passes that are under way."""
    level = torch._C._vmapmode_increment_nesting() - 1
    torch._C._vmapmode_decrement_nesting()
    return level


def without_vectorisation(gradients: Sequence[Tensor | None]) -> tuple[list[Tensor | None], int]:
    """Gradients of a vectorised backward pass with the vectors as their K, and how many (0 if it is none).

    torch loses the graph of a custom function that is applied to vectorised tensors, so their contents are taken.
    """
    found = []
    copies = 0
    for g in gradients:
        if g is not None and torch._C._functorch.is_legacy_batchedtensor(g):
            g = torch._remove_batch_dim(g, _level(), 0, 1)
            copies = g.shape[1]
            g = g.flatten(1, 2)
        found.append(g)
    return found, copies


def vectorised(t: Tensor) -> Tensor:
    """Undo :func:`without_vectorisation`."""
    return torch._add_batch_dim(t.unsqueeze(2), 1, _level())
