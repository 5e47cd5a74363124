"""Hessians of ANI, atom by atom: second derivatives of an atom's energy in the vectors to its neighbours.

With the environment vector G, ``∂²ε = ∂Gᵀ (∂²ε/∂G²) ∂G + Σ (∂ε/∂G) ∂²G``. A neighbour has a part in few features: in
``∂G`` those of its own element, and in ``∂²G`` what it shares with one other neighbour at a time. The network's part is
a sum over its layers, ``∂²ε/∂G² = Σ_l D_lᵀ diag(g_l φ''(h_l)) D_l`` with ``D_l = ∂h_l/∂G`` and g the adjoint of
``φ(h)`` (edge pushing; Gower and Mello, Optim. Methods Softw. 27, 251 (2012)), so ``∂G`` goes forward through the
layers and no derivative comes back. Costs of an atom follow from its number of neighbours, not from that of all
atoms.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from hessgnn.curvature.model import EdgeHessians
from hessgnn.data.batch import Batch
from hessgnn.potentials.ani.aev import Environment
from hessgnn.potentials.ani.element_networks import NetworkPass


class Parts(Protocol):
    """What is needed of :class:`~hessgnn.potentials.ani.model.ANI`."""

    aev: Any
    """:class:`torchani.aev.AEVComputer`."""
    act: str

    @property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers."""

    def species(self, batch: Batch) -> Tensor:
        """Index of each atom's element, ``(n_atoms,)``."""

    def layers(self) -> tuple[list[list[Tensor]], list[list[Tensor]]]:
        """Weights and biases of each layer, then of each element."""

    def feature_columns(self) -> Tensor:
        """Features that a neighbour of each element has a part in, ``(n_elements, n_columns)``."""


def edge_hessians(potential: Parts, batch: Batch, atoms: Tensor) -> EdgeHessians:
    """Second derivatives of the energies of some atoms.

    Parameters
    ----------
    potential
        The potential.
    batch
        The structures.
    atoms
        ``(n_centres,)``, indices.

    Returns
    -------
    EdgeHessians
        Of these atoms, in another order.
    """
    species = potential.species(batch)
    n_species = len(potential.elements)
    atoms = atoms[species[atoms].argsort(stable=True)]
    row = torch.full_like(species, -1).index_copy(0, atoms, torch.arange(len(atoms), device=atoms.device))
    i, j = batch.edge_index
    edges = (row[i] >= 0).nonzero().squeeze(-1)
    pair = species[i] * n_species + species[j]
    edges = edges[(pair[edges] * len(atoms) + row[i[edges]]).argsort()]  # those of one pair of elements side by side
    i, j, row = i[edges], j[edges], row[i[edges]]
    slot, most = _places(row, len(atoms))
    environment = Environment(potential.aev, len(atoms), row, species[j], batch.edge_vectors()[edges], 2)

    weights, biases = potential.layers()
    splits = torch.bincount(species[atoms], minlength=n_species).tolist()
    network_pass = NetworkPass(weights, biases, splits, potential.act)
    network_pass.forward(environment.jet(), 2)
    blocks = environment.edge_curvatures(network_pass.reverse()[:, 0], slot, most)
    blocks = blocks.permute(0, 1, 3, 2, 4).reshape(len(atoms), 3 * most, 3 * most)

    tangents = environment.edge_tangents()
    counts = torch.bincount(pair[edges], minlength=n_species**2)
    per_element = counts.view(n_species, n_species).sum(1).tolist()
    columns = potential.feature_columns()
    narrow = [w[:, columns[n]] for w in weights[0] for n in range(n_species)]
    changes = _multiply(tangents, counts.tolist(), narrow)
    place = row * most + slot
    for n, layer in enumerate(network_pass.layers):
        if n:
            slopes = network_pass.layers[n - 1].derivatives[0]
            changes = _multiply(changes * slopes[row].unsqueeze(1), per_element, weights[n])
        curvatures = layer.derivatives[1]
        padded = changes.new_zeros(len(atoms) * most, *changes.shape[1:]).index_copy_(0, place, changes)
        padded = padded.view(len(atoms), 3 * most, changes.shape[-1])
        assert layer.behind is not None
        blocks.baddbmm_(padded * (layer.behind[:, 0] * curvatures).unsqueeze(1), padded.transpose(1, 2))
    neighbor = atoms.new_zeros(len(atoms) * most).index_copy_(0, place, j)
    return EdgeHessians(blocks.view(len(atoms), most, 3, most, 3), atoms, neighbor.view(len(atoms), most))


def _multiply(x: Tensor, counts: list[int], matrices: list[Tensor]) -> Tensor:
    """Multiply groups of rows ``(n_edges, 3, n_in)`` each with the transpose of its matrix."""
    out = x.new_empty(*x.shape[:2], len(matrices[0]))
    for part, target, matrix in zip(x.split(counts), out.split(counts), matrices, strict=True):
        torch.mm(part.flatten(0, 1), matrix.T, out=target.view(-1, len(matrix)))
    return out


def _places(row: Tensor, n_rows: int) -> tuple[Tensor, int]:
    """Number the edges of each atom; how many the most have."""
    counts = torch.bincount(row, minlength=n_rows)
    order = row.argsort(stable=True)
    place = torch.empty_like(row)
    place[order] = torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row[order]]
    return place, int(counts.max())
