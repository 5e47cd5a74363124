"""Messages summed over neighbours, with all derivatives as one kind of node.

The sum over the edges of ``g · w(d) · M(Y) x`` is linear in the features x of the neighbours, in the harmonics Y of the
edge, in what g is asked of the centre, and in the radial functions w, which know their derivatives in the distance d.
The message is its slope in g; forces need those in x, Y and d; products with the Hessian, and the gradient of a loss
on them, are the same slopes of its derivatives along one or two directions. So one function
that takes directional derivatives by the product rule, edges in portions that stay in the cache, serves them all. Left
to autograd, each derivative of each elementary operation would be an array over all edges, channels and probes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from hessgnn.data.batch import Batch
from hessgnn.potentials.blocks import BesselBasis, GaussianBasis, PolynomialCutoff
from hessgnn.potentials.radial import radial_derivatives
from hessgnn.potentials.tensor_product import TensorProduct

CACHED = 2**19
"""Numbers of the largest intermediate array in a portion of the edges, on a CPU."""

SLOTS = ("x", "y", "d", "g")
"""Features ``(n_atoms, K, dim_in, channels)``, harmonics ``(n_edges, K, n_harmonics)``, distances ``(n_edges, K)`` and
what is asked of the messages ``(n_atoms, K, n_rows, channels)``, for K probes or, if K is 1, for all alike."""


class Wanted(NamedTuple):
    """A slope of the derivative along some directions, which are the bits of ``along``; ``copies`` is its K."""

    slot: str
    along: int
    copies: int


@dataclass(frozen=True)
class Problem:
    """What stays the same in all derivatives."""

    product: TensorProduct
    centres: Tensor
    neighbours: Tensor


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
        asked, copies = _physical(gradients)
        direction = [None] * n
        for (slot, *_), gradient in zip(ctx.wanted, asked, strict=True):
            direction[SLOTS.index(slot)] = gradient
        if points[n - 1] is None:  # only the messages were computed, and they are the slope in g
            inner = [*points[: n - 1], direction[n - 1]]
        else:
            inner = [*points, *direction]
        full = 2 ** (len(inner) // n - 1) - 1
        # Each direction's own slope is the derivative along the others.
        along = [full if k < n else full ^ (1 << (k // n - 1)) for k in range(len(points))]
        needed = _needed(ctx, [weights, *points])
        jobs = [
            (k, Wanted(SLOTS[k % n], along[k], copies or points[k].shape[1]))
            for k in range(len(points))
            if needed[k + 1]
        ]
        out: list[Tensor | None] = [None] * (1 + len(points))
        if not torch.is_grad_enabled():
            more = [(-1, Wanted("w", full, 1))] if needed[0] else []
            jobs += more
            values = evaluate(ctx.problem, weights, inner, [wanted for _, wanted in jobs])
            for (k, _), value in zip(jobs, values, strict=True):
                out[k + 1] = value
        else:
            if needed[0]:
                raise NotImplementedError(
                    "derivatives in the parameters cannot be differentiated again where Batch.derivatives is set; "
                    "use potential.total_energy(batch)"
                )
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
            out = [out[0], *(None if t is None else _logical(t) for t in out[1:])]
        return None, None, *out


def evaluate(
    problem: Problem, weights: Tensor, points: Sequence[Tensor | None], wanted: Sequence[Wanted]
) -> tuple[Tensor, ...]:
    """Compute slopes.

    Parameters
    ----------
    problem
        What is constant.
    weights
        ``(order + 1, n_edges, n_paths * channels)``.
    points
        One of each of :data:`SLOTS` where the derivatives are taken, then the same of each direction; ``None`` is 0.
    wanted
        Which slopes. Slot "w" stands for the weights.

    Returns
    -------
    tuple of Tensor
        In the shape of the slot.
    """
    product = problem.product
    weights = weights.unflatten(2, (product.n_paths, -1))
    n_edges, channels = weights.shape[1], weights.shape[3]
    values: dict[str, dict[int, Tensor]] = {slot: {} for slot in SLOTS}
    for k, point in enumerate(points):
        if point is not None:
            place = k // len(SLOTS)
            values[SLOTS[k % len(SLOTS)]][1 << (place - 1) if place else 0] = point
    probes = max(t.shape[1] for t in points if t is not None)
    n_atoms = len(next(t for t in (*values["x"].values(), *values["g"].values())))
    sizes = {
        "x": (n_atoms, product.dim_in, channels),
        "g": (n_atoms, product.n_rows, channels),
        "y": (n_edges, len(product.coupling)),
        "d": (n_edges,),
    }
    out = [
        torch.zeros_like(weights) if slot == "w" else weights.new_zeros(sizes[slot][0], copies, *sizes[slot][1:])
        for slot, _, copies in wanted
    ]
    portion = max(1, n_edges if weights.is_cuda else CACHED // (probes * product.n_rows * channels))
    for start in range(0, n_edges, portion):
        edges = _Edges(problem, slice(start, start + portion), weights, values)
        for (slot, along, copies), total in zip(wanted, out, strict=True):
            edges.add(slot, along, copies, total)
    return tuple(t.flatten(2) if w.slot == "w" else t for t, w in zip(out, wanted, strict=True))


class _Edges:
    """Derivatives on a portion of the edges. What several slopes have in common is computed once."""

    def __init__(
        self, problem: Problem, edges: slice, weights: Tensor, values: Mapping[str, Mapping[int, Tensor]]
    ) -> None:
        self.product, self.edges, self.values = problem.product, edges, values
        self.weights = weights[:, edges]
        self.i, self.j = problem.centres[edges], problem.neighbours[edges]
        self.known: dict[tuple[str, int], Any] = {}

    def add(self, slot: str, along: int, copies: int, total: Tensor) -> None:
        """Add a slope to what other edges gave."""
        if slot == "w":
            self.add_weights(along, total)
            return
        value = getattr(self, f"slope_{slot}")(along)
        if value is None:
            return
        if value.shape[1] > copies:
            value = value.sum(1, keepdim=True)
        elif value.shape[1] < copies:
            value = value.expand(-1, copies, *value.shape[2:])
        if slot in "xg":
            total.index_add_(0, self.j if slot == "x" else self.i, value)
        else:
            total[self.edges] = value

    def add_weights(self, along: int, total: Tensor) -> None:
        """Add the slope in the weights and their derivatives."""
        for part, rest in _parts(along):
            factor, q, order = self.get("shift", part), self.get("fold", rest), part.bit_count()
            if factor is None or q is None or order >= len(total):
                continue
            if order:
                q = q * factor[..., None, None]
            total[order, self.edges] += q.squeeze(1) if q.shape[1] == 1 else q.sum(1)

    def get(self, name: str, along: int) -> Any:
        """A quantity's derivative, ``None`` if it is zero."""
        key = name, along
        if key not in self.known:
            self.known[key] = getattr(self, name)(along)
        return self.known[key]

    def sum_of(self, along: int, first: str, second: str, add: Callable[[Tensor | None, Tensor, Tensor], Tensor]) -> Any:
        """The derivative of a product, by the product rule."""
        total = None
        for part, rest in _parts(along):
            a = self.get(first, part)
            b = None if a is None else self.get(second, rest)
            if b is not None:
                total = add(total, a, b)
        return total

    def x(self, along: int) -> Tensor | None:
        """Features of the neighbours, ``(n, K, dim_in, channels)``."""
        x = self.values["x"].get(along)
        return None if x is None else x.index_select(0, self.j)

    def g(self, along: int) -> Tensor | None:
        """What is asked of the messages, ``(n, K, n_rows, channels)``."""
        g = self.values["g"].get(along)
        return None if g is None else g.index_select(0, self.i)

    def matrix(self, along: int) -> Tensor | None:
        """Matrices of the harmonics, ``(n, K, n_rows, dim_in)``."""
        y = self.values["y"].get(along)
        if y is None:
            return None
        return (y[self.edges] @ self.product.coupling).unflatten(-1, (self.product.n_rows, self.product.dim_in))

    def transposed(self, along: int) -> Tensor | None:
        """Their transposes."""
        m = self.get("matrix", along)
        return None if m is None else m.transpose(2, 3)

    def shift(self, along: int) -> Tensor | float | None:
        """Product of the changes of the distance along each of the directions, ``(n, K)``."""
        factor: Tensor | float = 1.0
        for bit in _bits(along):
            d = self.values["d"].get(bit)
            if d is None:
                return None
            factor = d[self.edges] * factor
        return factor

    def weight(self, along: int) -> Tensor | None:
        """Weights of the rows, ``(n, K, n_rows, channels)``."""
        factor, order = self.get("shift", along), along.bit_count()
        if factor is None:
            return None
        w = self.weights[order].unsqueeze(1)
        return (w * factor[..., None, None] if order else w).index_select(2, self.product.path_of_row)

    def slope(self, along: int) -> Tensor | None:
        """Slopes of the weights in the distance, ``(n, K, n_paths * channels, 1)``."""
        factor, order = self.get("shift", along), along.bit_count()
        if factor is None:
            return None
        w = self.weights[order + 1].flatten(1)[:, None, :, None]
        return w * factor[..., None, None] if order else w

    def bare(self, along: int) -> Tensor | None:
        """Tensor products without weights, ``(n, K, n_rows, channels)``."""
        return self.sum_of(along, "matrix", "x", _add_matmul)

    def asked(self, along: int) -> Tensor | None:
        """What is asked of them, ``(n, K, n_rows, channels)``."""
        return self.sum_of(along, "g", "weight", _add_mul)

    def fold(self, along: int) -> Tensor | None:
        """Slope in the weights, ``(n, K, n_paths, channels)``."""
        rows = self.sum_of(along, "bare", "g", _add_mul)
        if rows is None:
            return None
        out = rows.new_empty(*rows.shape[:2], self.product.n_paths, rows.shape[3])
        for block in self.product.blocks:
            torch.sum(block.of_rows(rows), -3, out=out[..., block.paths, :])
        return out

    def row(self, along: int) -> Tensor | None:
        """The same, ``(n, K, 1, n_paths * channels)``."""
        q = self.get("fold", along)
        return None if q is None else q.flatten(2).unsqueeze(2)

    def slope_g(self, along: int) -> Tensor | None:
        """Messages."""
        return self.sum_of(along, "bare", "weight", _add_mul)

    def slope_x(self, along: int) -> Tensor | None:
        """Slope in the features."""
        return self.sum_of(along, "transposed", "asked", _add_matmul)

    def slope_y(self, along: int) -> Tensor | None:
        """Slope in the harmonics."""
        m = self.sum_of(along, "x", "asked", lambda total, x, b: _add_matmul(total, x, b.transpose(2, 3)))
        return None if m is None else m.flatten(2) @ self.product.coupling_transposed

    def slope_d(self, along: int) -> Tensor | None:
        """Slope in the distances."""
        d = self.sum_of(along, "row", "slope", _add_matmul)
        return None if d is None else d.flatten(1)


def _parts(mask: int) -> Iterator[tuple[int, int]]:
    """All ways to share directions out to two factors."""
    part = mask
    while True:
        yield part, mask ^ part
        if not part:
            return
        part = (part - 1) & mask


def _bits(mask: int) -> Iterator[int]:
    while mask:
        yield mask & -mask
        mask &= mask - 1


def _add_mul(total: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
    """Add a product elementwise, in place where the total has its shape already."""
    if total is None:
        return a * b
    if total.shape[1] == max(a.shape[1], b.shape[1], total.shape[1]):
        return total.addcmul_(a, b)
    return torch.addcmul(total, a, b)


def _add_matmul(total: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
    """Add a product of matrices ``(n, K, r, s)`` and ``(n, K, s, t)``, where one K may be 1."""
    copies = max(a.shape[1], b.shape[1])
    if a.shape[3] == 1 and a.shape[2] > 1:  # a matrix product would be slow
        product = a * b
    elif b.shape[1] == 1:
        product = torch.bmm(a.flatten(1, 2), b.squeeze(1)).unflatten(1, (copies, -1))
    else:
        a = a.expand(-1, copies, -1, -1)
        product = torch.bmm(a.flatten(0, 1), b.flatten(0, 1)).unflatten(0, (-1, copies))
    if total is None:
        return product
    return total.add_(product) if total.shape[1] == copies else total + product


def _needed(ctx: Any, tensors: Sequence[Tensor | None]) -> list[bool]:
    """Which of the inputs' gradients this backward pass will use; ``ctx.needs_input_grad`` says which could be."""
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


def _physical(gradients: Sequence[Tensor | None]) -> tuple[list[Tensor | None], int]:
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


def _logical(t: Tensor) -> Tensor:
    """Undo :func:`_physical`."""
    return torch._add_batch_dim(t.unsqueeze(2), 1, _level())
