"""Tensor products of features with spherical harmonics as few large operations.

e3nn generates one small operation for each path (degree in, degree of the harmonic, degree out). Here the harmonics of
an edge and the Wigner 3j symbols of all paths make one small matrix, which multiplies all channels at once; what is
left is a weight for each path and channel. The result is that of :class:`e3nn.o3.TensorProduct` with 'uvu' paths, in
its default normalisation ('component' of irreps, 'element' of paths), and so is what a weight means.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from e3nn import o3
from torch import Tensor, nn


@dataclass(frozen=True)
class Block:
    """The rows of a message that belong to one irrep: ``(2 l + 1, n_paths)`` of them, the path running fastest.

    They begin at ``first_row`` and ``first_path``.
    """

    irrep: o3.Irrep
    first_row: int
    first_path: int
    n_paths: int

    @property
    def rows(self) -> slice:
        """Its rows."""
        return slice(self.first_row, self.first_row + self.irrep.dim * self.n_paths)

    @property
    def paths(self) -> slice:
        """Its paths."""
        return slice(self.first_path, self.first_path + self.n_paths)

    def of_rows(self, x: Tensor) -> Tensor:
        """Cut it out of ``(..., n_rows, channels)``: ``(..., 2 l + 1, n_paths, channels)``."""
        return x[..., self.rows, :].unflatten(-2, (self.irrep.dim, self.n_paths))


class TensorProduct(nn.Module):
    """Which paths there are, and their Wigner 3j symbols.

    Parameters
    ----------
    irreps_in
        Of the features, in their order.
    l_max
        Highest degree of the harmonics, which are those of :func:`e3nn.o3.spherical_harmonics`.
    irreps_out
        That are wanted; those that no path leads to are left out.

    Attributes
    ----------
    paths
        Irrep in (its place), degree of the harmonic, irrep out, in the order of the weights.
    blocks
        The rows of each irrep.
    coupling
        ``(n_harmonics, n_rows * dim_in)``.
    coupling_transposed
        ``(dim_in * n_rows, n_harmonics)``.
    path_of_row
        ``(n_rows,)``.
    path_of_column
        ``(dim_in,)``, where all rows are scalars.
    reversal
        ``(dim_in, n_rows)``, signs that entries of an edge's matrix, transposed, take when the edge is reversed.
    """

    coupling: Tensor
    coupling_transposed: Tensor
    path_of_row: Tensor
    path_of_column: Tensor
    reversal: Tensor

    def __init__(self, irreps_in: Sequence[o3.Irrep], l_max: int, irreps_out: Sequence[o3.Irrep]) -> None:
        super().__init__()
        harmonics = [ir for _, ir in o3.Irreps.spherical_harmonics(l_max)]
        self.dim_in = sum(ir.dim for ir in irreps_in)
        self.paths = [
            (a, y.l, out) for out in irreps_out for a, ir in enumerate(irreps_in) for y in harmonics if out in ir * y
        ]
        self.n_paths = len(self.paths)
        blocks = []
        row = path = 0
        for out in irreps_out:
            if n_paths := sum(out == ir for _, _, ir in self.paths):
                blocks.append(Block(out, row, path, n_paths))
                row, path = row + out.dim * n_paths, path + n_paths
        self.blocks = tuple(blocks)
        self.n_rows = row
        coupling = self._coupling(irreps_in, l_max)
        self.exact = coupling
        path_of_row = [b.first_path + p for b in blocks for _ in range(b.irrep.dim) for p in range(b.n_paths)]
        # Each irrep meets one harmonic to make a scalar, so there is at most one.
        path_of_column = coupling.unflatten(1, (row, -1)).abs().sum(0).argmax(0)
        dtype = torch.get_default_dtype()
        self.register_buffer("coupling", coupling.to(dtype), persistent=False)
        self.register_buffer("coupling_transposed", self._exchanged(coupling).to(dtype), persistent=False)
        self.register_buffer("path_of_row", torch.tensor(path_of_row), persistent=False)
        self.register_buffer("path_of_column", path_of_column, persistent=False)
        self.register_buffer("reversal", self._reversal(irreps_in).to(dtype), persistent=False)

    def _coupling(self, irreps_in: Sequence[o3.Irrep], l_max: int) -> Tensor:
        coupling = torch.zeros((l_max + 1) ** 2, self.n_rows, self.dim_in, dtype=torch.float64)
        starts = [sum(ir.dim for ir in irreps_in[:a]) for a in range(len(irreps_in))]
        for block in self.blocks:
            for p, (a, degree, out) in enumerate(self.paths[block.paths]):
                symbols = out.dim**0.5 * o3.wigner_3j(irreps_in[a].l, degree, out.l, dtype=torch.float64)
                rows = slice(block.first_row + p, block.rows.stop, block.n_paths)
                columns = slice(starts[a], starts[a] + irreps_in[a].dim)
                coupling[degree**2 : (degree + 1) ** 2, rows, columns] = symbols.permute(1, 2, 0)
        return coupling.flatten(1)

    def _reversal(self, irreps_in: Sequence[o3.Irrep]) -> Tensor:
        """Signs that entries of the matrix, transposed, take when an edge is reversed, ``(dim_in, n_rows)``."""
        inside = torch.tensor([ir.p for ir in irreps_in for _ in range(ir.dim)])
        outside = torch.tensor([b.irrep.p for b in self.blocks for _ in range(b.irrep.dim * b.n_paths)])
        return inside.unsqueeze(1) * outside

    def _exchanged(self, coupling: Tensor) -> Tensor:
        """Transpose, and exchange rows and columns: so slopes in the harmonics come out."""
        return coupling.unflatten(1, (self.n_rows, self.dim_in)).transpose(1, 2).flatten(1).T.contiguous()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> TensorProduct:
        """Move and convert as any module, but do not make float64 from rounded symbols."""
        super()._apply(fn, recurse)
        self.coupling = self.exact.to(self.coupling)
        self.coupling_transposed = self._exchanged(self.coupling)
        return self

    def forward(self, x: Tensor, harmonics: Tensor, weights: Tensor, edge_index: Tensor) -> Tensor:
        """Sum of the messages to each centre, ``(n_atoms, n_rows, channels)``.

        Features ``x`` are ``(n_atoms, dim_in, channels)``, ``harmonics`` ``(n_edges, n_harmonics)``, ``weights``
        ``(n_edges, n_paths * channels)`` and ``edge_index`` ``(2, n_edges)``, centre and neighbour.
        """
        i, j = edge_index
        matrices = (harmonics @ self.coupling).unflatten(1, (self.n_rows, self.dim_in))
        products = torch.bmm(matrices, x.index_select(0, j))
        message = products * weights.unflatten(1, (self.n_paths, -1)).index_select(1, self.path_of_row)
        return message.new_zeros(len(x), *message.shape[1:]).index_add(0, i, message)
