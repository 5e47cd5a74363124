"""A batch of structures as one disconnected graph: the only thing a potential ever sees."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hessgnn.data.labels import Hessians, Labels, Prepared, StoredProducts
from hessgnn.data.neighbors import neighbors
from hessgnn.data.store.layout import pack
from hessgnn.data.structure import Structure

if TYPE_CHECKING:
    from ase import Atoms
    from torch_geometric.data import Batch as GeometricBatch


@dataclass(frozen=True)
class Batch:
    """Structures joined into one graph without edges between them, after torch-geometric's convention.

    Attributes
    ----------
    numbers
        ``(n_atoms,)`` int64, atomic numbers.
    positions
        ``(n_atoms, 3)``, Å, in the floating type of the computation.
    batch
        ``(n_atoms,)`` int64: the structure that each atom belongs to, in ascending order.
    n_atoms
        ``(n_structures,)`` int64.
    edge_index
        ``(2, n_edges)`` int64: centre ``i`` and neighbour ``j``; both orders of each pair are present.
    edge_shift
        ``(n_edges, 3)``, Å: periodic shift of the neighbour.
    labels
        Reference values, or ``None``.
    index
        ``(n_structures,)`` int64: place of each structure in the data set it was drawn from (-1 if from none).
    derivatives
        How many derivatives in the positions will be taken of what is computed from this batch at most, and one in
        the parameters behind them; ``None`` if nobody knows. An architecture may use it to compute no more.
    triplets
        ``(2, n_triplets)`` int64: each pair of edges with a common centre, both within the potential's
        ``triplet_cutoff``; ``None`` leaves it to the potential to find them.
    pairs
        ``(n_edges / 2,)`` int64: one edge of each two that are opposite; ``None`` where nobody has looked for them, see
        :meth:`pair_edges`.
    element_counts
        Atomic number -> how many atoms of it, kept on the host: asking a GPU for it would wait for all that the GPU
        has to do. ``None`` where nobody has counted.
    """

    numbers: Tensor
    positions: Tensor
    batch: Tensor
    n_atoms: Tensor
    edge_index: Tensor
    edge_shift: Tensor
    labels: Labels | None = None
    index: Tensor | None = None
    derivatives: int | None = None
    triplets: Tensor | None = None
    pairs: Tensor | None = None
    element_counts: Mapping[int, int] | None = None

    @property
    def n_structures(self) -> int:
        """How many structures the batch holds."""
        return self.n_atoms.shape[0]

    @cached_property
    def max_atoms(self) -> int:
        """Number of atoms of the largest structure."""
        return int(self.n_atoms.max())

    @cached_property
    def first_atom(self) -> Tensor:
        """``(n_structures,)``: index of the first atom of each structure."""
        return self.n_atoms.cumsum(0) - self.n_atoms

    @cached_property
    def slot(self) -> Tensor:
        """``(n_atoms,)``: place of each atom inside its own structure."""
        return torch.arange(len(self.numbers), device=self.numbers.device) - self.first_atom[self.batch]

    def edge_vectors(self, edges: Tensor | None = None) -> Tensor:
        """Vectors from centres to neighbours, ``(n, 3)``, Å; differentiable in the positions.

        Parameters
        ----------
        edges
            ``(n,)``, which ones; all by default.
        """
        (i, j), shift = self.edge_index, self.edge_shift
        if edges is not None:
            i, j, shift = i.index_select(0, edges), j.index_select(0, edges), shift.index_select(0, edges)
        return self.positions.index_select(0, j) - self.positions.index_select(0, i) + shift

    def pair_edges(self) -> Tensor:
        """One edge of each two that are opposite, ``(n_edges / 2,)``: all that a function of the distance needs."""
        if self.pairs is not None:
            return self.pairs
        i, j = self.edge_index
        x, y, z = self.edge_shift.unbind(-1)
        # Between an atom and its own image (i == j) the sign of the shift decides.
        forward = (x > 0) | ((x == 0) & ((y > 0) | ((y == 0) & (z > 0))))
        return ((i < j) | ((i == j) & forward)).nonzero().squeeze(-1)

    def pad(self, per_atom: Tensor) -> Tensor:
        """Arrange a per-atom vector field as one row per structure.

        Parameters
        ----------
        per_atom
            ``(..., n_atoms, 3)``.

        Returns
        -------
        Tensor
            ``(..., n_structures, 3 max(N))`` with zeros behind each structure's own ``3N`` entries.
        """
        padded = per_atom.new_zeros(*per_atom.shape[:-2], self.n_structures * self.max_atoms, 3)
        padded = padded.index_copy(-2, self.batch * self.max_atoms + self.slot, per_atom)
        return padded.view(*per_atom.shape[:-2], self.n_structures, 3 * self.max_atoms)

    def unpad(self, per_structure: Tensor) -> Tensor:
        """Undo :meth:`pad`: ``(..., n_structures, 3 max(N))`` becomes ``(..., n_atoms, 3)``."""
        flat = per_structure.reshape(*per_structure.shape[:-2], self.n_structures * self.max_atoms, 3)
        return flat.index_select(-2, self.batch * self.max_atoms + self.slot)

    def sum_per_structure(self, per_atom: Tensor) -> Tensor:
        """Sum over the atoms of each structure: ``(n_atoms, ...)`` becomes ``(n_structures, ...)``."""
        return per_atom.new_zeros(self.n_structures, *per_atom.shape[1:]).index_add(0, self.batch, per_atom)

    def replace(self, **changes: Any) -> Batch:
        """Make a copy with some fields exchanged. Other edges take triplets and pairs away, unless these come too.

        So do other numbers with the element counts.
        """
        if "edge_index" in changes:
            changes = {"triplets": None, "pairs": None} | changes
        if "numbers" in changes:
            changes = {"element_counts": None} | changes
        return dataclasses.replace(self, **changes)

    def to(self, device: torch.device | str) -> Batch:
        """Move every tensor to a device."""
        names = {field.name for field in dataclasses.fields(self)} - {"derivatives", "element_counts"}
        moved: dict[str, Any] = {
            name: None if (own := getattr(self, name)) is None else own.to(device) for name in names
        }
        return Batch(**moved, element_counts=self.element_counts)

    def select(self, structures: Tensor) -> Batch:
        """Keep some structures, ``(n_structures,)`` bool, in their own order and with their labels."""
        atoms = structures[self.batch]
        edges = atoms[self.edge_index[0]]
        new_structure = structures.cumsum(0) - 1
        new_atom = atoms.cumsum(0) - 1
        return Batch(
            numbers=self.numbers[atoms],
            positions=self.positions[atoms],
            batch=new_structure[self.batch[atoms]],
            n_atoms=self.n_atoms[structures],
            edge_index=new_atom[self.edge_index[:, edges]],
            edge_shift=self.edge_shift[edges],
            labels=None if self.labels is None else self.labels.select(structures, atoms),
            index=None if self.index is None else self.index[structures],
            triplets=None if self.triplets is None else _keep(self.triplets, edges),
            pairs=None if self.pairs is None else _keep(self.pairs.unsqueeze(0), edges).squeeze(0),
        )

    def repeat(self, copies: int) -> Batch:
        """Join copies of the batch, one behind the other, without labels."""
        copy = torch.arange(copies, device=self.batch.device).unsqueeze(1)
        n_edges = self.edge_index.shape[1]
        shift = (copy * len(self.numbers)).expand(-1, n_edges).flatten()
        return Batch(
            numbers=self.numbers.repeat(copies),
            positions=self.positions.repeat(copies, 1),
            batch=(self.batch + copy * self.n_structures).flatten(),
            n_atoms=self.n_atoms.repeat(copies),
            edge_index=self.edge_index.repeat(1, copies) + shift,
            edge_shift=self.edge_shift.repeat(copies, 1),
            triplets=None if self.triplets is None else _repeated(self.triplets, copies, n_edges),
            pairs=None if self.pairs is None else _repeated(self.pairs, copies, n_edges),
        )

    @classmethod
    def from_structures(
        cls,
        structures: Sequence[Structure],
        cutoff: float,
        dtype: torch.dtype = torch.float64,
        edges: Sequence[tuple[np.ndarray, np.ndarray]] | None = None,
        index: Sequence[int] | None = None,
        prepared: Prepared | None = None,
        triplets: Sequence[np.ndarray] | None = None,
    ) -> Batch:
        """Join structures and their labels, on the CPU.

        Parameters
        ----------
        structures
            At least one.
        cutoff
            Å, of the neighbour list.
        dtype
            Floating type of positions, forces and Hessians (energies stay float64).
        edges
            Result of :func:`~hessgnn.data.neighbors.neighbors` for each structure, where it is known already.
        index
            Place of each structure in its data set.
        prepared
            What was computed of the structures' Hessians already, for the labels.
        triplets
            Result of :func:`~hessgnn.data.neighbors.triplets` for each structure.

        Raises
        ------
        DataError
            When atoms of a structure coincide.
        """
        if edges is None:
            edges = [
                neighbors(s.positions, cutoff, s.cell, s.pbc, where=f"structure {k} ({s.name})")
                for k, s in enumerate(structures)
            ]
        sizes = [len(s.numbers) for s in structures]
        starts = np.cumsum([0, *sizes[:-1]])
        batch = cls.from_arrays(
            np.concatenate([s.numbers for s in structures]),
            np.concatenate([s.positions for s in structures]),
            np.array(sizes),
            (
                np.concatenate([e + start for (e, _), start in zip(edges, starts, strict=True)], axis=1),
                np.concatenate([shift for _, shift in edges]),
            ),
            dtype,
        )
        return batch.replace(
            labels=_join_labels(structures, sizes, dtype, prepared),
            index=torch.tensor(list(index) if index is not None else [-1] * len(sizes)),
            triplets=None if triplets is None else _join_triplets(triplets, edges),
            pairs=batch.pair_edges(),
        )

    @classmethod
    def from_arrays(
        cls,
        numbers: np.ndarray,
        positions: np.ndarray,
        sizes: np.ndarray,
        edges: tuple[np.ndarray, np.ndarray],
        dtype: torch.dtype = torch.float64,
    ) -> Batch:
        """Join geometries without labels, given as arrays of one structure after the other, on the CPU.

        Parameters
        ----------
        numbers
            ``(n_atoms,)``, atomic numbers.
        positions
            ``(n_atoms, 3)``, Å.
        sizes
            ``(n_structures,)``, their numbers of atoms.
        edges
            ``edge_index`` and ``edge_shift`` of all structures, see :class:`Batch`.
        dtype
            Floating type of positions and shifts.
        """
        edge_index, edge_shift = edges
        return cls(
            numbers=torch.from_numpy(numbers.astype(np.int64)),
            positions=torch.from_numpy(positions).to(dtype),
            batch=torch.from_numpy(np.repeat(np.arange(len(sizes)), sizes)),
            n_atoms=torch.from_numpy(sizes),
            edge_index=torch.from_numpy(edge_index),
            edge_shift=torch.from_numpy(edge_shift).to(dtype),
        )

    @classmethod
    def from_atoms(
        cls, atoms: Sequence[Atoms], cutoff: float, dtype: torch.dtype = torch.float64, device: str = "cpu"
    ) -> Batch:
        """Join ASE structures, without labels.

        Parameters
        ----------
        atoms
            At least one :class:`ase.Atoms`.
        cutoff
            Å, of the neighbour list.
        dtype
            Floating type of the positions.
        """
        structures = [Structure.from_atoms(one) for one in atoms]
        return cls.from_structures(structures, cutoff, dtype).replace(labels=None).to(device)

    def to_geometric(self) -> GeometricBatch:
        """View the batch as a :class:`torch_geometric.data.Batch`, for that library's models and transforms.

        Returns
        -------
        torch_geometric.data.Batch
            With ``z``, ``pos``, ``batch``, ``ptr``, ``edge_index`` (source = neighbour, target = centre, as
            message passing there expects) and ``edge_shift``.
        """
        from torch_geometric.data import Batch as GeometricBatch

        return GeometricBatch(
            z=self.numbers,
            pos=self.positions,
            batch=self.batch,
            ptr=torch.cat([self.first_atom, self.n_atoms.sum().view(1)]),
            edge_index=self.edge_index.flip(0),
            edge_shift=self.edge_shift,
        )


def element_counts_of(numbers: np.ndarray) -> dict[int, int]:
    """Atomic number -> how many of the ``(n_atoms,)`` it has, for :attr:`Batch.element_counts`."""
    counts = np.bincount(numbers)
    return {int(z): int(counts[z]) for z in np.flatnonzero(counts)}


def _keep(groups: Tensor, edges: Tensor) -> Tensor:
    """Groups ``(size, n)`` of edges that are kept, ``(n_edges,)`` bool, with the new numbers of these."""
    return (edges.cumsum(0) - 1)[groups[:, edges[groups[0]]]]


def _repeated(groups: Tensor, copies: int, n_edges: int) -> Tensor:
    return torch.cat([groups + k * n_edges for k in range(copies)], -1)


def _join_triplets(triplets: Sequence[np.ndarray], edges: Sequence[tuple[np.ndarray, np.ndarray]]) -> Tensor:
    starts = np.cumsum([0, *(len(shift) for _, shift in edges[:-1])])
    return torch.from_numpy(np.concatenate([t + start for t, start in zip(triplets, starts, strict=True)], axis=1))


def _join_labels(
    structures: Sequence[Structure], sizes: Sequence[int], dtype: torch.dtype, prepared: Prepared | None
) -> Labels:
    """Put the labels of ragged structures together."""
    forces = [np.zeros((size, 3)) if s.forces is None else s.forces for s, size in zip(structures, sizes, strict=True)]
    known = np.array([s.hessian is not None for s in structures])
    triangles = [np.zeros(0) if s.hessian is None else pack((s.hessian + s.hessian.T) / 2) for s in structures]
    first = np.cumsum([0, *(len(one) for one in triangles[:-1])])
    numbers = np.concatenate(triangles)
    return Labels(
        energy=torch.tensor([0.0 if s.energy is None else s.energy for s in structures], dtype=torch.float64),
        forces=torch.from_numpy(np.concatenate(forces)).to(dtype),
        hessians=Hessians(numbers, first, np.array(sizes), known, dtype, torch.device("cpu")),
        directions=_join_directions(structures, np.array(sizes), dtype),
        has_energy=torch.tensor([s.energy is not None for s in structures]),
        has_forces=torch.tensor([s.forces is not None for s in structures]),
        has_hessian=torch.from_numpy(known),
        prepared=prepared,
    )


def _join_directions(structures: Sequence[Structure], sizes: NDArray[np.int64], dtype: torch.dtype) -> StoredProducts:
    given = [one.directions for one in structures if one.directions is not None]
    number = np.array([0 if one.directions is None else len(one.directions) for one in structures], dtype=np.int64)
    nothing = np.zeros((0, 3))
    return StoredProducts(
        np.concatenate([nothing, *(one.vectors.reshape(-1, 3) for one in given)]),
        np.concatenate([nothing, *(one.products.reshape(-1, 3) for one in given)]),
        np.concatenate([np.zeros(0), *(one.weights for one in given)]),
        np.cumsum(number * sizes) - number * sizes,
        np.cumsum(number) - number,
        number,
        sizes,
        dtype,
        torch.device("cpu"),
    )
