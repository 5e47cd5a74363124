"""Symmetric block matrices from few products: triangular colouring and substitution.

Columns of a sparse matrix that share no row can be summed into one vector, and one product tells all their entries
(Curtis, Powell, Reid, J. Inst. Math. Appl. 13, 117 (1974)). If the matrix is symmetric, it is enough that this holds
below the diagonal of some order of rows and columns: what stands above is known from rows that were solved before
(Powell and Toint, SIAM J. Numer. Anal. 16, 1060 (1979); Coleman and Moré, Math. Program. 28, 243 (1984); Gebremedhin,
Manne, Pothen, SIAM Rev. 47, 629 (2005), section 5). That takes about half the products: 2r + 1 columns overlap in a
chain of range r, only r + 1 of them below the diagonal. Star colouring, the symmetric method without substitution,
saves nothing in a chain and seldom a quarter elsewhere (``benchmarks/sparse_hessian.py``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy.sparse import bsr_array, csr_array


@dataclass(frozen=True)
class Coloring:
    """Columns of a symmetric block matrix gathered into groups that are multiplied together.

    Attributes
    ----------
    pattern
        ``(n, n)``: blocks that may differ from zero, the diagonal among them.
    rank
        ``(n,)``: place of each row and column in the order that "below the diagonal" refers to.
    color
        ``(n,)``: group of each column, from 0 on. No row has two columns of one group at or below the diagonal.
    """

    pattern: csr_array
    rank: np.ndarray
    color: np.ndarray

    @property
    def number(self) -> int:
        """How many groups there are."""
        return int(self.color.max()) + 1

    def recover(self, products: np.ndarray) -> bsr_array:
        """Find the matrix.

        Parameters
        ----------
        products
            ``(number, b, n, b)``: ``products[c, x, i, y]`` is the sum over the columns j of group c of the entry ``x``
            of column j with entry ``y`` of row i. Overwritten.

        Returns
        -------
        scipy.sparse.bsr_array
            ``(b n, b n)``, symmetric but for the blocks on the diagonal, which are left as they were found.
        """
        n, width = len(self.color), products.shape[1]
        indptr, indices = self.pattern.indptr, self.pattern.indices
        rows, columns, blocks = [], [], []
        for i in self.rank.argsort()[::-1]:
            near = indices[indptr[i] : indptr[i + 1]]
            below = near[self.rank[near] <= self.rank[i]]
            found = products[self.color[below], :, i, :]
            before = below != i
            # The rest of column i, by symmetry: rows that come later need not see it again.
            products[self.color[i], :, below[before], :] -= found[before].transpose(0, 2, 1)
            rows += [np.full(len(below), i), below[before]]
            columns += [below, np.full(int(before.sum()), i)]
            blocks += [found.transpose(0, 2, 1), found[before]]
        row, column, block = (np.concatenate(parts) for parts in (rows, columns, blocks))
        order = np.lexsort((column, row))
        starts = np.concatenate([[0], np.bincount(row, minlength=n).cumsum()])
        return bsr_array((block[order], column[order], starts), shape=(width * n, width * n))


def color(pattern: csr_array, orders: Iterable[np.ndarray]) -> Coloring:
    """Gather the columns of a symmetric ``(n, n)`` matrix with diagonal into as few groups as greedy colouring finds.

    ``orders`` of rows and columns are tried besides smallest-last; the best result is returned.
    """
    best = None
    for order in [smallest_last(pattern), *orders]:
        rank = np.empty(len(order), dtype=np.int64)
        rank[order] = np.arange(len(order))
        overlap = _overlap(pattern, rank)
        for sequence in (smallest_last(overlap), np.argsort(-np.diff(overlap.indptr), kind="stable")):
            found = Coloring(pattern, rank, _greedy(overlap, sequence))
            if best is None or found.number < best.number:
                best = found
    assert best is not None
    return best


def smallest_last(graph: csr_array) -> np.ndarray:
    """Order the vertices of a symmetric graph so that each has few neighbours among those before it.

    Matula and Beck, J. ACM 30, 417 (1983): the vertex with the fewest neighbours goes last, and so on without it.
    """
    degree = np.diff(graph.indptr).astype(np.float64)
    order = np.empty(len(degree), dtype=np.int64)
    for place in range(len(degree) - 1, -1, -1):
        vertex = int(degree.argmin())
        order[place], degree[vertex] = vertex, np.inf
        degree[graph.indices[graph.indptr[vertex] : graph.indptr[vertex + 1]]] -= 1
    return order


def _overlap(pattern: csr_array, rank: np.ndarray) -> csr_array:
    """Pairs of columns with a common row at or below the diagonal of an order."""
    entries = pattern.tocoo()
    below = rank[entries.row] >= rank[entries.col]
    # Counted in float32: exact up to 2²⁴ common rows, and never mistaken for zero beyond.
    ones = np.ones(int(below.sum()), dtype=np.float32)
    lower = csr_array((ones, (entries.row[below], entries.col[below])), shape=pattern.shape)
    return csr_array(lower.T @ lower)


def _greedy(graph: csr_array, sequence: np.ndarray) -> np.ndarray:
    """Give each vertex in turn the lowest colour that no neighbour has."""
    colors = np.full(graph.shape[0], -1)
    for vertex in sequence:
        taken = colors[graph.indices[graph.indptr[vertex] : graph.indptr[vertex + 1]]]
        free = np.ones(len(taken) + 1, dtype=bool)
        free[taken[(taken >= 0) & (taken < len(free))]] = False
        colors[vertex] = free.argmax()
    return colors
