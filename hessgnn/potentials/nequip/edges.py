"""Convolutions on the edges of a batch, for numbers of :mod:`hessgnn.potentials.nequip.algebra`.

The message of an edge is ``w(d) · M(Y) x``: the matrix M of its harmonics multiplies the neighbour's features, and each
row has the weight of its path. It is linear in w, Y and x, so with numbers of the algebra for all three the same
products give every derivative. They are formed on portions of the edges that stay in the cache.

The two edges of a pair of atoms have the same distance, hence weights, and harmonics that differ in the signs of the
odd degrees only. Arrays on edges are ``(2, n_pairs, ...)``: each pair both ways.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from hessgnn.potentials.nequip.algebra import Adder, Parts, add_mul, product, second
from hessgnn.potentials.nequip.tensor_product import TensorProduct

CACHED = 2**19
"""Numbers of the largest intermediate array in a portion of the edges, on a CPU."""

SMALLEST = 64
"""Pairs in a portion at least."""

KEPT = 2**27
"""Bytes that one convolution may keep between its sweeps; what takes more is computed anew in each."""


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

    def __init__(self, product: TensorProduct, weights: Sequence[Tensor]) -> None:
        self.product = product
        self.weights = [w.unflatten(1, (product.n_paths, -1)) for w in weights]
        self.to_scalars = product.dim_in > 1 and product.n_rows == product.n_paths
        """Whether each column of the matrices has one entry: its row and the columns exchange roles then."""
        self.thin = self.to_scalars or product.dim_in == 1
        """Whether the matrices are a column in effect, so that multiplying with them is elementwise."""
        self.rows = product.dim_in if self.to_scalars else product.n_rows
        self.path_of_row = product.path_of_column if self.to_scalars else product.path_of_row
        self.portions: list[_Portion] | None = None

    def forward(self, edges: Edges, x: Parts, start: int) -> Tensor:
        """Sums of messages from part ``start`` on, ``(C, n_atoms, n_rows, channels)``, of features ``(n_atoms, …)``."""
        first = x[0]
        assert first is not None
        out = first.new_zeros(len(edges.functions) - start, len(first), self.rows, first.shape[2])
        for part in self._portions(edges, x):
            for total, message in zip(out, part.messages(start), strict=True):
                if message is not None:
                    total.index_add_(0, part.centres, message.flatten(0, 1))
        if not self.to_scalars:
            return out
        rows = out.new_zeros(*out.shape[:2], self.product.n_rows, out.shape[3])
        return rows.index_add_(2, self.path_of_row, out)

    def reverse(
        self, edges: Edges, x: Parts, g: Tensor, wanted: Sequence[int], adjoint: Tensor | None
    ) -> tuple[dict[int, Tensor], list[Tensor]]:
        """Adjoints from those of the sums of messages, ``(C, n_atoms, n_rows, channels)``.

        Parameters
        ----------
        edges, x
            As of :meth:`forward`.
        g
            All parts of the adjoint of the sums.
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
        asked = (g.index_select(2, self.path_of_row) if self.to_scalars else g).unbind()
        for part in self._portions(edges, x):
            part.ask(asked)
            for total, value in zip(out.values(), part.to_features(wanted), strict=True):
                if value is not None:
                    total.index_add_(0, part.neighbours, value.flatten(0, 1))
            if adjoint is None:
                part.to_weights([w[part.pairs] for w in radial])
            else:
                part.to_functions(adjoint[:, part.pairs])
            part.forget(everything=adjoint is None)
        return out, [w.flatten(1) for w in radial]

    def __copy__(self) -> EdgePass:
        """One whose portions are its own."""
        new = object.__new__(type(self))
        vars(new).update(vars(self), portions=self.portions and [copy(portion) for portion in self.portions])
        return new

    def _portions(self, edges: Edges, x: Parts) -> Iterator[_Portion]:
        n_pairs = edges.centres.shape[1]
        parts = 2 * edges.number + 2
        per_pair = 2 * parts * self.rows * self.weights[0].shape[2]
        size = n_pairs if self.weights[0].is_cuda else max(SMALLEST, CACHED // per_pair)
        slices = [slice(start, start + size) for start in range(0, n_pairs, max(size, 1))]
        # Products and their adjoints of all parts, the latter of half of them.
        if 1.5 * per_pair * n_pairs * self.weights[0].element_size() > KEPT:
            portions: Iterator[_Portion] = (_Portion(self, edges, pairs) for pairs in slices)
        else:
            if self.portions is None:
                self.portions = [_Portion(self, edges, pairs) for pairs in slices]
            portions = iter(self.portions)
        for portion in portions:
            portion.update(edges, x)
            yield portion


class _Portion:
    """Some pairs. Arrays on edges are ``(2, n, ...)``, lists hold the parts that are known."""

    def __init__(self, whole: EdgePass, edges: Edges, pairs: slice) -> None:
        self.whole, self.pairs, self.number = whole, pairs, edges.number
        centres = edges.centres[:, pairs]
        self.n = centres.shape[1]
        self.centres, self.neighbours = centres.flatten(), edges.neighbours[:, pairs].flatten()
        self.radial = [w[pairs] for w in whole.weights]
        self.matrices: list[Tensor | None] = []
        self.x: list[Tensor | None] = []
        self.bare: list[Tensor | None] = []
        self.weights: list[Tensor | None] = []
        self.g: list[Tensor | None] = []
        self.b: list[Tensor | None] = []
        self.folds: list[Tensor] = []

    def __copy__(self) -> _Portion:
        """One whose lists of parts are its own."""
        new = object.__new__(type(self))
        vars(new).update({name: x.copy() if isinstance(x, list) else x for name, x in vars(self).items()})
        return new

    def update(self, edges: Edges, x: Parts) -> None:
        """Compute the parts that are not known yet: matrices, their products with the features, weights of the rows."""
        start, self.size = len(self.bare), len(edges.functions)
        if start == self.size:
            return
        functions = edges.functions[:, self.pairs]
        self.distance = functions[..., -1]
        ways = functions[start:, :, :-1].unsqueeze(1) * edges.ways
        self.matrices += (ways @ self._coupling()).unflatten(-1, (self.whole.rows, -1)).unbind()
        self.x += [None if t is None else self._of_edges(t, self.neighbours) for t in x[start:]]
        self.bare += self._product(self.matrices, self.x, start, add_mul if self.whole.thin else _add_matmul)
        d, w = self.distance[..., None, None], self.radial
        weights = [w[1] * d[k] if k else w[0] for k in range(start, self.size)]
        if self.full and self.number:
            weights[-1].addcmul_(w[2], second(d, self.number))
        self.weights += [self._of_rows(one) for one in weights]

    @property
    def full(self) -> bool:
        """Whether all parts of the algebra are there."""
        return self.size == 2 * self.number + 2

    def messages(self, start: int) -> Parts:
        """Messages from part ``start`` on, ``(2, n, n_rows, channels)``."""
        return self._product(self.bare, self.weights, start, add_mul)

    def ask(self, g: Sequence[Tensor]) -> None:
        """Take the adjoints of the sums of messages."""
        self.g = [self._of_edges(one, self.centres) for one in g]
        self.b += self._product(self.g, self.weights, len(self.b), add_mul)
        rows = self._product(self.bare, self.g, len(self.folds), _add_both)
        self.folds += [self._of_paths(q) for q in rows if q is not None]

    def to_features(self, wanted: Sequence[int]) -> Parts:
        """Parts of the adjoint of the neighbours' features, ``(2, n, dim_in, channels)``."""
        if not self.whole.thin:
            transposed = [None if m is None else m.transpose(-1, -2) for m in self.matrices]
            return product(transposed, self.b, self.number, wanted, _add_matmul)
        out = product(self.matrices, self.b, self.number, wanted, add_mul)
        if self.whole.to_scalars:
            return out
        return [None if t is None else t.sum(2, keepdim=True) for t in out]

    def to_functions(self, adjoint: Tensor) -> None:
        """Add to the adjoint of harmonics and distances, ``(C, n, n_harmonics + 1)``."""
        tensor_product, thin = self.whole.product, self.whole.thin
        if thin:
            back, signs = self._coupling().T, self._row_signs()
        else:
            back, signs = tensor_product.coupling_transposed, tensor_product.reversal
        outer = self._product(self.x, self.b, 0, _add_dots if thin else _add_outer)
        for total, both in zip(adjoint, outer, strict=True):
            if both is not None:
                joined = torch.addcmul(both[0], both[1], signs)
                total[:, :-1] += joined.flatten(1) @ back
        slope = self.radial[1].flatten(1)
        for k, (total, q) in enumerate(zip(adjoint, self.folds, strict=True)):
            change = _dot(q.flatten(1), slope)
            if k:
                change.addcmul_(_dot(self.folds[0].flatten(1), self.radial[2].flatten(1)), self.distance[k])
            total[:, -1] += change

    def to_weights(self, out: Sequence[Tensor]) -> None:
        """Write the τ part of the adjoints of value, slope, … of the radial functions, ``(n, n_paths, channels)``."""
        d, folds, number = self.distance[..., None, None], self.folds, self.number
        out[0].copy_(folds[-1])
        torch.mul(folds[0], d[-1], out=out[1])
        for k, q in enumerate(folds[1:-1], start=1):
            out[1].addcmul_(q, d[k + number if k <= number else k - number])
        if number:
            torch.mul(folds[0], second(d, number), out=out[2])

    def forget(self, everything: bool) -> None:
        """Free what the next sweep does not need."""
        self.g = []
        if everything:
            self.matrices, self.x, self.bare, self.weights, self.b, self.folds = [], [], [], [], [], []

    def _product(self, a: Parts, b: Parts, start: int, add: Adder) -> Parts:
        size = self.size
        return product([*a, *[None] * (size - len(a))], b, self.number, range(start, size), add)

    def _coupling(self) -> Tensor:
        whole = self.whole
        coupling = whole.product.coupling
        if not whole.to_scalars:
            return coupling
        return coupling.unflatten(1, (whole.product.n_rows, -1)).sum(1)

    def _row_signs(self) -> Tensor:
        reversal = self.whole.product.reversal
        return reversal[0] if not self.whole.to_scalars else reversal.gather(1, self.whole.path_of_row[:, None])[:, 0]

    def _of_edges(self, t: Tensor, atoms: Tensor) -> Tensor:
        return t.index_select(0, atoms).unflatten(0, (2, self.n))

    def _of_rows(self, paths: Tensor) -> Tensor:
        """To each row what belongs to its path."""
        return paths.index_select(1, self.whole.path_of_row)

    def _of_paths(self, rows: Tensor) -> Tensor:
        """Sum over the rows of each path."""
        out = rows.new_zeros(len(rows), self.whole.product.n_paths, rows.shape[2])
        return out.index_add_(1, self.whole.path_of_row, rows)


def _add_matmul(total: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
    """Add products of matrices ``(2, n, r, s)`` and ``(2, n, s, t)``."""
    if total is None:
        return torch.bmm(a.flatten(0, 1), b.flatten(0, 1)).unflatten(0, a.shape[:2])
    total.flatten(0, 1).baddbmm_(a.flatten(0, 1), b.flatten(0, 1))
    return total


def _add_outer(total: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
    """Add ``(2, n, r, t)`` times the transpose of ``(2, n, s, t)``."""
    return _add_matmul(total, a, b.transpose(2, 3))


def _add_dots(total: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
    """Add sums over the channels, ``(2, n, n_rows)``."""
    value = (a * b).sum(3)
    return value if total is None else total.add_(value)


def _add_both(total: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
    """Add an elementwise product, summed over both ways of a pair."""
    total = a[0] * b[0] if total is None else total.addcmul_(a[0], b[0])
    return total.addcmul_(a[1], b[1])


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return torch.bmm(a.unsqueeze(1), b.unsqueeze(2)).flatten()
