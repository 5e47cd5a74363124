"""Making the arrays of a batch out of a store's flat arrays, all structures at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from hessgnn.data.batch import Batch, element_counts_of
from hessgnn.data.labels import Hessians, Labels, Preparation, Prepared, StoredProducts, StructureArrays
from hessgnn.data.neighbors import neighbors, neighbors_of_molecules, triplets
from hessgnn.data.plan import share_of
from hessgnn.data.store.columns import ragged
from hessgnn.data.store.store import Store

Arrays = dict[str, Any]
"""Name -> array of a batch; under ``prepared``, the arrays of each structure."""
Edges = tuple[NDArray[np.int64], NDArray[np.float64]]

ALL_PAIRS = 64
"""Atoms of the largest molecule whose neighbours are found anew in each batch by looking at all pairs."""
KEPT = 512 * 1024**2
"""Bytes of what takes long to find, that a process keeps for the next epoch: neighbours of large or periodic
structures, and as much again for what is prepared from reference Hessians."""

_COUNTED = 512  # structures whose neighbours are counted together


class Collator:
    """Makes batches of a store's structures; can be sent to other processes. Parameters as of ``Loader``."""

    def __init__(
        self,
        store: Store,
        cutoff: float,
        dtype: torch.dtype,
        triplet_cutoff: float | None = None,
        preparation: Preparation | None = None,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        self.store, self.cutoff, self.dtype = store, cutoff, dtype
        self.triplet_cutoff, self.preparation, self.share = triplet_cutoff, preparation, share
        self._by_all_pairs = (store.n_atoms <= ALL_PAIRS) & ~store.columns.rows("pbc", 0, len(store)).any(axis=1)
        self._edges: _Kept[Edges] = _Kept(self._edges_of, lambda edges: edges[0].nbytes + edges[1].nbytes)
        self._prepared: _Kept[StructureArrays] = _Kept(
            self._prepare, lambda arrays: sum(array.nbytes for array in arrays.values())
        )

    def __reduce__(self) -> tuple[type[Collator], tuple[object, ...]]:
        return Collator, (self.store, self.cutoff, self.dtype, self.triplet_cutoff, self.preparation, self.share)

    def arrays(self, chosen: NDArray[np.int64]) -> Arrays:
        """Everything of a batch but the Hessians, as arrays that travel between processes and that :meth:`batch` takes.

        ``chosen`` ``(n_structures,)`` are indices in the store. Raises :class:`DataError` when atoms of a structure
        coincide, or the store was changed since it was opened.
        """
        self.store.columns.require_unchanged()
        store, columns, real = self.store, self.store.columns, _NUMPY[self.dtype]
        sizes = store.n_atoms[chosen]
        atoms = ragged(store.first_atom[chosen], sizes)
        positions = columns.array("positions").take(atoms, axis=0)
        edges, found = self._graph(chosen, positions)
        arrays: Arrays = {
            "numbers": columns.array("numbers").take(atoms).astype(np.int64),
            "positions": positions.astype(real, copy=False),
            "batch": np.repeat(np.arange(len(chosen)), sizes),
            "n_atoms": sizes,
            "edge_index": edges[0],
            "edge_shift": edges[1].astype(real, copy=False),
            "index": chosen,
            "energy": store.energies[chosen],
            "forces": columns.array("forces").take(atoms, axis=0).astype(real, copy=False),
            "has_energy": store.has_energy[chosen],
            "has_forces": store.has_forces[chosen],
            "has_hessian": store.has_hessian[chosen],
        }
        if found is not None:
            arrays["triplets"] = found
        if self.preparation is not None:
            arrays["prepared"] = [self._prepared[i] for i in chosen.tolist()]
        return arrays

    def batch(self, arrays: Arrays, device: torch.device) -> Batch:
        """The batch of the arrays from :meth:`arrays`; the Hessians of its labels are read when they are asked for."""
        t = {name: torch.from_numpy(array).to(device) for name, array in arrays.items() if name != "prepared"}
        preparation = self.preparation
        labels = Labels(
            energy=t["energy"],
            forces=t["forces"],
            hessians=self._hessians(arrays, device),
            directions=self._directions(arrays, device),
            has_energy=t["has_energy"],
            has_forces=t["has_forces"],
            has_hessian=t["has_hessian"],
            prepared=None if preparation is None else Prepared(preparation, arrays["prepared"], device),
        )
        batch = Batch(
            numbers=t["numbers"],
            positions=t["positions"],
            batch=t["batch"],
            n_atoms=t["n_atoms"],
            edge_index=t["edge_index"],
            edge_shift=t["edge_shift"],
            labels=labels,
            index=t["index"],
            triplets=t.get("triplets"),
            element_counts=element_counts_of(arrays["numbers"]),
        )
        if not self._by_all_pairs[arrays["index"]].all():
            return batch.replace(pairs=batch.pair_edges())
        i, j = batch.edge_index  # no atom is a neighbour of its own image, so the order decides
        return batch.replace(pairs=(i < j).nonzero().squeeze(-1))

    def _graph(
        self, chosen: NDArray[np.int64], positions: NDArray[np.float64]
    ) -> tuple[Edges, NDArray[np.int64] | None]:
        """Edges, and triplets where they are asked for, of those structures of a batch that this rank computes."""
        rank, number = self.share
        own: NDArray[np.int64] | None = None
        if number > 1:
            sizes = self.store.n_atoms[chosen]
            mine = share_of(rank, number, sizes, self.store.has_curvature[chosen])
            own = np.flatnonzero(np.repeat(mine, sizes))
            chosen, positions = chosen[mine], positions[own]
        if not len(chosen):
            nothing = np.zeros((2, 0), dtype=np.int64)
            return (nothing, np.zeros((0, 3))), None if self.triplet_cutoff is None else nothing
        edge_index, edge_shift = self.edges(chosen, positions)
        found = None
        if self.triplet_cutoff is not None:
            found = triplets(positions, (edge_index, edge_shift), self.triplet_cutoff)
        return (edge_index if own is None else own[edge_index], edge_shift), found

    def edges(self, chosen: NDArray[np.int64], positions: NDArray[np.float64]) -> Edges:
        """Neighbours of every atom of a batch, in the order that one structure after the other would give.

        ``chosen`` ``(n_structures,)`` are indices in the store, ``positions`` ``(n_atoms, 3)``, Å, those of all atoms.

        Returns
        -------
        edge_index
            ``(2, n_edges)`` int64, atoms of the batch.
        edge_shift
            ``(n_edges, 3)``, Å; in the type of the batch where no structure is periodic.
        """
        small = self._by_all_pairs[chosen]
        sizes = self.store.n_atoms[chosen]
        starts = np.cumsum(sizes) - sizes

        def where(structure: int) -> str:
            return self.store.names[chosen[structure]]

        if small.all():
            edge_index = neighbors_of_molecules(positions, sizes, self.cutoff, where)
            return edge_index, np.zeros((edge_index.shape[1], 3), dtype=_NUMPY[self.dtype])
        found = [self._edges[i] for i in chosen[~small].tolist()]
        edge_index = np.concatenate([e + start for (e, _), start in zip(found, starts[~small], strict=True)], axis=1)
        edge_shift = np.concatenate([shift for _, shift in found])
        if small.any():
            atoms = ragged(starts[small], sizes[small])
            among = np.flatnonzero(small)
            molecules = atoms[
                neighbors_of_molecules(positions[atoms], sizes[small], self.cutoff, lambda s: where(among[s]))
            ]
            edge_index = np.concatenate([edge_index, molecules], axis=1)
            edge_shift = np.concatenate([edge_shift, np.zeros((molecules.shape[1], 3))])
            order = np.argsort(edge_index[0], kind="stable")
            edge_index, edge_shift = edge_index[:, order], edge_shift[order]
        return edge_index, edge_shift

    def count_edges(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Edges of each structure, given by its index in the store."""
        return self._counted(indices, lambda edges, _: edges[0][0])

    def count_triplets(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Triplets of each structure, given by its index in the store; there must be a ``triplet_cutoff``."""
        cutoff = self.triplet_cutoff
        assert cutoff is not None
        return self._counted(indices, lambda edges, x: edges[0][0][triplets(x, edges, cutoff)[0]])

    def _counted(
        self,
        indices: NDArray[np.int64],
        centres: Callable[[Edges, NDArray[np.float64]], NDArray[np.int64]],
    ) -> NDArray[np.int64]:
        """Count what is found in each structure from its edges and positions, given by the atoms in the middle."""
        store, counts = self.store, np.zeros(len(indices), dtype=np.int64)
        for start in range(0, len(indices), _COUNTED):
            chosen = indices[start : start + _COUNTED]
            sizes = store.n_atoms[chosen]
            positions = store.columns.array("positions")[ragged(store.first_atom[chosen], sizes)]
            structure = np.repeat(np.arange(len(chosen)), sizes)
            found = centres(self.edges(chosen, positions), positions)
            counts[start : start + _COUNTED] = np.bincount(structure[found], minlength=len(chosen))
        return counts

    def _hessians(self, arrays: Arrays, device: torch.device) -> Hessians:
        index, numbers = arrays["index"], self.store.columns.array("hessian")
        first, sizes = self.store.first_hessian[index], arrays["n_atoms"]
        return Hessians(numbers, first, sizes, arrays["has_hessian"], self.dtype, device)

    def _directions(self, arrays: Arrays, device: torch.device) -> StoredProducts:
        store, index = self.store, arrays["index"]
        number = store.n_directions[index]
        vectors = products = _NOTHING
        weights = _NOTHING[:, 0]
        if number.any():
            keys = ("direction_vectors", "direction_products", "direction_weight")
            vectors, products, weights = (store.columns.array(key) for key in keys)
        first, first_weight = store.first_product[index], store.first_direction[index]
        return StoredProducts(
            vectors, products, weights, first, first_weight, number, arrays["n_atoms"], self.dtype, device
        )

    def _edges_of(self, index: int) -> Edges:
        store = self.store
        cell, pbc = (store.columns.rows(key, index, index + 1)[0] for key in ("cell", "pbc"))
        return neighbors(store.per_atom("positions", index), self.cutoff, cell, pbc, where=store.names[index])

    def _prepare(self, index: int) -> StructureArrays:
        assert self.preparation is not None
        return self.preparation.in_type(self.dtype, self.store.hessian(index), int(self.store.n_atoms[index]))


Value = TypeVar("Value")


class _Kept(Generic[Value]):
    """What was found for structures, until the memory for it is used up; then the others are found anew each time.

    In a shuffled order nothing better can be kept than whatever came first.
    """

    def __init__(self, find: Callable[[int], Value], size: Callable[[Value], int]) -> None:
        self._find, self._size = find, size
        self._found: dict[int, Value] = {}
        self._left = KEPT

    def __getitem__(self, index: int) -> Value:
        if index in self._found:
            return self._found[index]
        value = self._find(index)
        if (size := self._size(value)) <= self._left:
            self._left -= size
            self._found[index] = value
        return value


_NOTHING = np.zeros((0, 3))
_NUMPY = {torch.float32: np.float32, torch.float64: np.float64}
