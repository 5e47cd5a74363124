"""Convolutions on the edges of a batch, for numbers of :mod:`hessgnn.potentials.nequip.algebra`.

The message of an edge is ``w(d) · M(Y) x``: the matrix M of its harmonics multiplies the neighbour's features, and each
row has the weight of its path. It is linear in w, Y and x, so with numbers of the algebra for all three the same
products give every derivative. They are formed on portions of the edges that stay in the cache.

The two edges of a pair of atoms have the same distance, hence weights, and harmonics that differ in the signs of the
odd degrees only. Arrays on edges are ``(2, n_pairs, ...)``: each pair both ways.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from hessgnn.potentials.nequip.algebra import Parts, add_mul, product, second
from hessgnn.potentials.nequip.tensor_product import TensorProduct

CACHED = 2**19
"""Numbers of the largest intermediate array in a portion of the edges, on a CPU."""

SMALLEST = 16
"""Pairs in a portion at least."""


@dataclass
class Edges:
    """Pairs of a batch, with parts of harmonics and distances.

    Attributes
    ----------
    centres, neighbours
        ``(2, n_pairs)``, both ways.
    sign
        ``(n_harmonics,)``: what reversing an edge multiplies its harmonics with.
    number
        K.
    functions
        Parts of harmonics and distance, ``(C, n_pairs, n_harmonics + 1)``.
    """

    centres: Tensor
    neighbours: Tensor
    sign: Tensor
    number: int
    functions: Tensor

    @cached_property
    def ways(self) -> Tensor:
        """Signs of the harmonics both ways, ``(2, 1, n_harmonics)``."""
        return torch.stack([torch.ones_like(self.sign), self.sign]).unsqueeze(1)


class EdgePass:
    """Forward and reverse sweep of one convolution.

    Parameters
    ----------
    product
        The tensor product.
    weights
        Value, slope, … of the radial functions, each ``(n_pairs, n_paths * channels)``.
    """

    def __init__(self, tensor_product: TensorProduct, weights: Sequence[Tensor]) -> None:
        self.product = tensor_product
        self.weights = [w.unflatten(1, (tensor_product.n_paths, -1)) for w in weights]

    def forward(self, edges: Edges, x: Parts, start: int) -> Tensor:
        """Sums of messages from part ``start`` on, ``(C, n_atoms, n_rows, channels)``, of features ``(n_atoms, …)``."""
        first = x[0]
        assert first is not None
        size = len(edges.functions)
        out = first.new_zeros(size - start, len(first), self.product.n_rows, first.shape[2])
        for part in self._portions(edges, x):
            for total, message in zip(out, part.messages(start), strict=True):
                if message is not None:
                    total.index_add_(0, part.centres, message.flatten(0, 1))
        return out

    def reverse(
        self, edges: Edges, x: Parts, g: Sequence[Tensor], wanted: Sequence[int], adjoint: Tensor | None
    ) -> tuple[dict[int, Tensor], list[Tensor]]:
        """Adjoints from those of the messages, ``(C, n_atoms, n_rows, channels)``.

        Parameters
        ----------
        edges, x
            As of :meth:`forward`.
        g
            Parts of the adjoint of the sums of messages, each ``(n_atoms, n_rows, channels)``.
        wanted
            Parts of the adjoint of x that are needed.
        adjoint
            That of ``edges.functions`` is added here if given, otherwise adjoints of the weights are returned.

        Returns
        -------
        tuple
            Parts of the adjoint of x, and the τ part of those of value, slope, … of the radial functions.
        """
        first = x[0]
        assert first is not None
        out = {part: torch.zeros_like(first) for part in wanted}
        radial = [torch.empty_like(w) for w in self.weights] if adjoint is None else []
        for part in self._portions(edges, x):
            part.ask(g)
            for (n, total), value in zip(out.items(), part.to_features(wanted), strict=True):
                if value is not None:
                    total.index_add_(0, part.neighbours, value.flatten(0, 1))
            if adjoint is None:
                part.to_weights([w[part.pairs] for w in radial])
            else:
                part.to_functions(adjoint[:, part.pairs])
        return out, [w.flatten(1) for w in radial]

    def _portions(self, edges: Edges, x: Parts) -> Iterator[_Portion]:
        n_pairs = edges.centres.shape[1]
        per_pair = 2 * len(edges.functions) * self.product.n_rows * self.weights[0].shape[2]
        size = n_pairs if self.weights[0].is_cuda else max(SMALLEST, CACHED // per_pair)
        for start in range(0, n_pairs, max(size, 1)):
            yield _Portion(self, edges, slice(start, start + size), x)


class _Portion:
    """Some pairs. Arrays on edges are ``(2, n, ...)``."""

    def __init__(self, whole: EdgePass, edges: Edges, pairs: slice, x: Parts) -> None:
        self.product, self.pairs, self.number = whole.product, pairs, edges.number
        self.centres, self.neighbours = edges.centres[:, pairs].flatten(), edges.neighbours[:, pairs].flatten()
        functions = edges.functions[:, pairs]
        self.size = len(functions)
        self.n = functions.shape[1]
        self.distance = functions[..., -1]
        self.radial = [w[pairs] for w in whole.weights]
        ways = functions[..., :-1].unsqueeze(1) * edges.ways
        self.matrices = (ways @ self.product.coupling).unflatten(-1, (self.product.n_rows, self.product.dim_in))
        self.x = [None if t is None else self._of_edges(t, self.neighbours) for t in x]
        self.bare = self._product(self.matrices, self.x, range(self.size), _add_columns if self.scalar else _add_matmul)

    @property
    def scalar(self) -> bool:
        """Whether matrices have one column; multiplying with matrices so small would take longer."""
        return self.product.dim_in == 1

    @cached_property
    def weights(self) -> list[Tensor]:
        """Parts of the weights of the rows, ``(n, n_rows, channels)``."""
        d, w = self.distance[..., None, None], self.radial
        out = [w[0], *(w[1] * one for one in d[1:])]
        if self.full and self.number:
            out[-1].addcmul_(w[2], second(d, self.number))
        return [self._of_rows(one) for one in out]

    @property
    def full(self) -> bool:
        """Whether all parts of the algebra are there."""
        return self.size == 2 * self.number + 2

    def messages(self, start: int) -> Parts:
        """Messages from part ``start`` on, ``(2, n, n_rows, channels)``."""
        return self._product(self.bare, self.weights, range(start, self.size), add_mul)

    def ask(self, g: Sequence[Tensor]) -> None:
        """Take the adjoints of the sums of messages."""
        self.g = [self._of_edges(one, self.centres) for one in g]
        self.b = self._product(self.g, self.weights, range(self.size), add_mul)

    def to_features(self, wanted: Sequence[int]) -> Parts:
        """Parts of the adjoint of the neighbours' features, ``(2, n, dim_in, channels)``."""
        if self.scalar:
            return self._product(self.matrices, self.b, wanted, _add_rows)
        return self._product(self.matrices.transpose(-1, -2), self.b, wanted, _add_matmul)

    def to_functions(self, adjoint: Tensor) -> None:
        """Add to the adjoint of harmonics and distances, ``(C, n, n_harmonics + 1)``."""
        outer = self._product(self.x, self.b, range(self.size), _add_outer)
        for total, both in zip(adjoint, outer, strict=True):
            if both is not None:
                joined = torch.addcmul(both[0], both[1], self.product.reversal)
                total[:, :-1] += joined.flatten(1) @ self.product.coupling_transposed
        folds = [self._of_paths(q).flatten(1) for q in self._folds()]
        slope = self.radial[1].flatten(1)
        for k, (total, q) in enumerate(zip(adjoint, folds, strict=True)):
            change = _dot(q, slope)
            if k:
                change.addcmul_(_dot(folds[0], self.radial[2].flatten(1)), self.distance[k])
            total[:, -1] += change

    def to_weights(self, out: Sequence[Tensor]) -> None:
        """Write the τ part of the adjoints of value, slope, … of the radial functions, ``(n, n_paths, channels)``."""
        d, folds, number = self.distance[..., None, None], self._folds(), self.number
        out[0].copy_(self._of_paths(folds[-1]))
        folds = [self._of_paths(q) for q in folds[:-1]]
        torch.mul(folds[0], d[-1], out=out[1])
        for k, q in enumerate(folds[1:], start=1):
            out[1].addcmul_(q, d[k + number if k <= number else k - number])
        if number:
            torch.mul(folds[0], second(d, number), out=out[2])

    def _folds(self) -> list[Tensor]:
        """Parts of the adjoint of the weights, before rows of a path are summed, ``(n, n_rows, channels)``."""
        out = self._product(self.bare, self.g, range(self.size), _add_both)
        return [q for q in out if q is not None]

    def _product(self, a: Parts, b: Parts, wanted: Sequence[int], add: object) -> Parts:
        return product(a, b, self.number, wanted, add)

    def _of_edges(self, t: Tensor, atoms: Tensor) -> Tensor:
        return t.index_select(0, atoms).unflatten(0, (2, self.n))

    def _of_rows(self, paths: Tensor) -> Tensor:
        """To each row what belongs to its path."""
        if self.product.n_rows == self.product.n_paths:
            return paths
        return paths.index_select(1, self.product.path_of_row)

    def _of_paths(self, rows: Tensor) -> Tensor:
        """Sum over the rows of each path."""
        if self.product.n_rows == self.product.n_paths:
            return rows
        out = rows.new_zeros(len(rows), self.product.n_paths, rows.shape[2])
        return out.index_add_(1, self.product.path_of_row, rows)


def _add_matmul(total: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
    """Add products of matrices ``(2, n, r, s)`` and ``(2, n, s, t)``."""
    if total is None:
        return torch.bmm(a.flatten(0, 1), b.flatten(0, 1)).unflatten(0, a.shape[:2])
    total.flatten(0, 1).baddbmm_(a.flatten(0, 1), b.flatten(0, 1))
    return total


def _add_columns(total: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
    """The same of columns and rows: elementwise."""
    return add_mul(total, a, b)


def _add_rows(total: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
    """Add the products of columns ``(2, n, r, 1)``, transposed, with matrices ``(2, n, r, t)``."""
    value = (a * b).sum(2, keepdim=True)
    return value if total is None else total.add_(value)


def _add_outer(total: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
    """Add ``(2, n, r, t)`` times the transpose of ``(2, n, s, t)``."""
    return _add_matmul(total, a, b.transpose(2, 3))


def _add_both(total: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
    """Add an elementwise product, summed over both ways of a pair."""
    total = a[0] * b[0] if total is None else total.addcmul_(a[0], b[0])
    return total.addcmul_(a[1], b[1])


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return torch.bmm(a.unsqueeze(1), b.unsqueeze(2)).flatten()
