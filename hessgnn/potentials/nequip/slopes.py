"""Slopes of a sum over edges of ``g · w(d) · M(Y) x``, and of its derivatives along any directions.

The sum is linear in the features x of the neighbours, in the harmonics Y of the edge, and in what g is asked of the
centre; the radial functions w know their derivatives in the distance d. So the product rule gives all derivatives of
all slopes from a few products, on portions of the edges that stay in the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hessgnn.potentials.nequip.tensor_product import TensorProduct

CACHED = 2**19
"""Numbers of the largest intermediate array in a portion of the edges, on a CPU."""

SLOTS = ("x", "y", "d", "g")
"""Where derivatives are taken: features ``(n_atoms, K, dim_in, channels)``, harmonics ``(n_edges, K, n_harmonics)``,
distances ``(n_edges, K)``, what is asked of the messages ``(n_atoms, K, n_rows, channels)``; K probes, or 1 for all."""


class Wanted(NamedTuple):
    """A slope of the derivative along some directions, which are the bits of ``along``; ``copies`` is its K.

    The slot is one of :data:`SLOTS`, or "w0", "w1", … for the weights and their derivatives in the distance.
    """

    slot: str
    along: int
    copies: int


@dataclass(frozen=True)
class Problem:
    """What stays the same in all derivatives: the tensor product, and ``centres`` and ``neighbours`` ``(n_edges,)``.

    ``kept`` holds quantities that have no direction and do not involve g, if all edges fit into one portion.
    """

    product: TensorProduct
    centres: Tensor
    neighbours: Tensor
    kept: dict[str, Tensor] = field(default_factory=dict)


def evaluate(
    problem: Problem, weights: Sequence[Tensor], points: Sequence[Tensor | None], wanted: Sequence[Wanted]
) -> tuple[Tensor, ...]:
    """Compute slopes, each in the shape of its slot.

    Parameters
    ----------
    problem
        What is constant.
    weights
        Values, slopes, … of the radial functions, each ``(n_edges, n_paths * channels)``.
    points
        One of each of :data:`SLOTS` where the derivatives are taken, then the same of each direction; ``None`` is 0.
    wanted
        Which slopes.
    """
    product = problem.product
    weights = [w.unflatten(1, (product.n_paths, -1)) for w in weights]
    n_edges, _, channels = weights[0].shape
    values: dict[str, dict[int, Tensor]] = {slot: {} for slot in SLOTS}
    for k, point in enumerate(points):
        if point is not None:
            place = k // len(SLOTS)
            values[SLOTS[k % len(SLOTS)]][1 << (place - 1) if place else 0] = point
    probes = max(t.shape[1] for t in points if t is not None)
    n_atoms = len(next(t for t in (*values["x"].values(), *values["g"].values())))
    per_atom = {"x": product.dim_in, "g": product.n_rows}
    per_edge = {"y": (len(product.coupling),), "d": ()}
    out = []
    for slot, _, copies in wanted:
        if slot in per_atom:
            out.append(weights[0].new_zeros(n_atoms, copies, per_atom[slot], channels))
        else:
            out.append(weights[0].new_empty(n_edges, copies, *per_edge.get(slot, weights[0].shape[1:])))
    portion = max(1, n_edges if weights[0].is_cuda else CACHED // (probes * product.n_rows * channels))
    kind = _FromScalars if product.dim_in == 1 else _ToScalars if product.n_rows == product.n_paths else _Edges
    for start in range(0, n_edges, portion):
        edges = kind(problem, slice(start, start + portion), weights, values)
        for (slot, along, copies), total in zip(wanted, out, strict=True):
            edges.add(slot, along, copies, total)
    return tuple(t.flatten(1) if w.slot[0] == "w" else t for t, w in zip(out, wanted, strict=True))


class _Edges:
    """Derivatives on a portion of the edges. What several slopes have in common is computed once."""

    def __init__(
        self,
        problem: Problem,
        edges: slice,
        weights: Sequence[Tensor],
        values: Mapping[str, Mapping[int, Tensor]],
    ) -> None:
        self.product, self.edges, self.values = problem.product, edges, values
        self.weights = [w[edges] for w in weights]
        self.i, self.j = problem.centres[edges], problem.neighbours[edges]
        whole = len(self.i) == len(problem.centres)
        self.known: dict[tuple[str, int], Any] = {}
        self.kept = problem.kept if whole else {}

    def add(self, slot: str, along: int, copies: int, total: Tensor) -> None:
        """Put a slope into the array of all edges, or add it to that of all atoms."""
        value = self.slope_w(along, int(slot[1:])) if slot[0] == "w" else getattr(self, f"slope_{slot}")(along)
        if value is not None and value.shape[1] > copies:
            value = value.sum(1, keepdim=True)
        if slot not in ("x", "g"):
            total[self.edges] = 0.0 if value is None else value
        elif value is not None:
            value = value.expand(-1, copies, *value.shape[2:])
            total.index_add_(0, self.j if slot == "x" else self.i, value)

    def get(self, name: str, along: int) -> Any:
        """A quantity's derivative, ``None`` if it is zero."""
        if along == 0 and name in ("x", "matrix", "bare", "weight"):
            if name not in self.kept:
                self.kept[name] = getattr(self, name)(0)
            return self.kept[name]
        key = name, along
        if key not in self.known:
            self.known[key] = getattr(self, name)(along)
        return self.known[key]

    def sum_of(
        self, along: int, first: str, second: str, add: Callable[[Tensor | None, Tensor, Tensor], Tensor]
    ) -> Any:
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
        return self.of_rows(w * factor[..., None, None] if order else w)

    def of_rows(self, paths: Tensor) -> Tensor:
        """To each row what belongs to its path."""
        return paths.index_select(2, self.product.path_of_row)

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
        out = rows.new_zeros(*rows.shape[:2], self.product.n_paths, rows.shape[3])
        return out.index_add_(2, self.product.path_of_row, rows)

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

    def slope_w(self, along: int, order: int) -> Tensor | None:
        """Slope in the weights or their derivatives, ``(n, K, n_paths, channels)``."""
        total = None
        for part, rest in _parts(along):
            if part.bit_count() != order:
                continue
            factor, q = self.get("shift", part), self.get("fold", rest)
            if factor is not None and q is not None:
                term = q * factor[..., None, None] if order else q
                total = term if total is None else total + term
        return total

    def slope_d(self, along: int) -> Tensor | None:
        """Slope in the distances."""
        d = self.sum_of(along, "row", "slope", _add_matmul)
        return None if d is None else d.flatten(1)


class _FromScalars(_Edges):
    """The same where the matrices have one column; multiplying with matrices so small would take longer."""

    def bare(self, along: int) -> Tensor | None:
        """Tensor products without weights, ``(n, K, n_rows, channels)``."""
        return self.sum_of(along, "matrix", "x", _add_mul)

    def slope_x(self, along: int) -> Tensor | None:
        """Slope in the features."""
        rows = self.sum_of(along, "matrix", "asked", _add_mul)
        return None if rows is None else rows.sum(2, keepdim=True)


class _ToScalars(_Edges):
    """The same where each column of the matrices has one entry, because all rows are scalars."""

    def matrix(self, along: int) -> Tensor | None:
        """These entries, ``(n, K, dim_in, 1)``."""
        y = self.values["y"].get(along)
        if y is None:
            return None
        entries = self.product.coupling.unflatten(1, (self.product.n_rows, -1)).sum(1)
        return (y[self.edges] @ entries).unsqueeze(3)

    def of_rows(self, paths: Tensor) -> Tensor:
        """Each row is a path."""
        return paths

    def fold(self, along: int) -> Tensor | None:
        """Slope in the weights, ``(n, K, n_paths, channels)``."""
        return self.sum_of(along, "bare", "g", _add_mul)

    def bare(self, along: int) -> Tensor | None:
        """Tensor products without weights, ``(n, K, n_rows, channels)``."""
        columns = self.sum_of(along, "matrix", "x", _add_mul)
        if columns is None:
            return None
        out = columns.new_zeros(*columns.shape[:2], self.product.n_rows, columns.shape[3])
        return out.index_add_(2, self.product.path_of_column, columns)

    def of_columns(self, along: int) -> Tensor | None:
        """What is asked of the row that each column has an entry in, ``(n, K, dim_in, channels)``."""
        b = self.get("asked", along)
        return None if b is None else b.index_select(2, self.product.path_of_column)

    def slope_x(self, along: int) -> Tensor | None:
        """Slope in the features."""
        return self.sum_of(along, "matrix", "of_columns", _add_mul)


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
    if total.shape[1] >= max(a.shape[1], b.shape[1]):
        return total.addcmul_(a, b)
    return torch.addcmul(total, a, b)


def _add_matmul(total: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
    """Add a product of matrices ``(n, K, r, s)`` and ``(n, K, s, t)``, where one K may be 1."""
    copies = max(a.shape[1], b.shape[1])
    if b.shape[1] == 1:
        product = torch.bmm(a.flatten(1, 2), b.squeeze(1)).unflatten(1, (copies, -1))
    else:
        a = a.expand(-1, copies, -1, -1)
        product = torch.bmm(a.flatten(0, 1), b.flatten(0, 1)).unflatten(0, (-1, copies))
    if total is None:
        return product
    return total.add_(product) if total.shape[1] == copies else total + product
