"""Reference values of a batch. Only what is asked for of Hessians and their products is read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hessgnn.data.store.columns import ragged
from hessgnn.data.store.layout import packed_size

_BLOCK = 4 * 1024**2  # entries that are unpacked at a time


@dataclass(frozen=True)
class Hessians:
    """Where the packed lower triangles of a batch's reference Hessians lie.

    Products and rows are formed without the matrices: a product reads the triangle and holds some of its rows at a
    time, a row reads its own 3N entries. ``D`` stands for ``3 max(N)``; what lies past a structure's 3N is zero, and
    so are all entries of a structure without a Hessian.

    Attributes
    ----------
    numbers
        ``(any length,)`` float, eV/Å²: in memory or mapped from a file, and shared by all batches of a loader.
    first
        ``(n_structures,)`` int64: where the triangle of each structure begins in it.
    known
        ``(n_structures,)`` bool: which structures have a Hessian.
    dtype, device
        Of what is formed.
    """

    numbers: NDArray[np.floating]
    first: NDArray[np.int64]
    n_atoms: NDArray[np.int64]
    known: NDArray[np.bool_]
    dtype: torch.dtype
    device: torch.device

    def products(self, vectors: Tensor) -> Tensor:
        """Multiply each structure's Hessian with its part of vectors ``(K, n_structures, D)``.

        These and the products, of the same shape, are padded as :meth:`hessgnn.data.batch.Batch.pad` does.
        """
        products = torch.zeros_like(vectors)
        for rows, block in self._blocks():
            products[..., rows] = torch.einsum("sij,ksj->ksi", block, vectors[..., : block.shape[-1]])
        return products

    def rows(self, rows: Tensor) -> Tensor:
        """Read rows of the Hessians, and no more than these.

        Parameters
        ----------
        rows
            ``(K, n_structures)`` int64: which row of each structure; one at or past 3N is zero.

        Returns
        -------
        Tensor
            ``(K, n_structures, D)``, padded as :meth:`hessgnn.data.batch.Batch.pad` does.
        """
        size = 3 * self.n_atoms * self.known
        columns, chosen = np.arange(3 * self.n_atoms.max()), rows.cpu().numpy()[..., None]
        there = (chosen < size[:, None]) & (columns < size[:, None])
        high, low = np.maximum(chosen, columns), np.minimum(chosen, columns)
        values = np.zeros(there.shape, dtype=self.numbers.dtype)
        values[there] = self.numbers[(self.first[:, None] + high * (high + 1) // 2 + low)[there]]
        return torch.from_numpy(values).to(self.device, self.dtype)

    def dense(self) -> Tensor:
        """The matrices, ``(n_structures, D, D)``, formed anew at each call; ``D`` is 0 where no structure has one."""
        n_structures, width = len(self.first), 3 * int(self.n_atoms.max()) if self.known.any() else 0
        matrices = torch.zeros(n_structures, width, width, dtype=self.dtype, device=self.device)
        for rows, block in self._blocks():
            matrices[:, rows, : block.shape[-1]] = block
        return matrices

    def select(self, structures: Tensor) -> Hessians:
        """Keep some structures, ``(n_structures,)`` bool."""
        kept = structures.cpu().numpy()
        return replace(self, first=self.first[kept], n_atoms=self.n_atoms[kept], known=self.known[kept])

    def to(self, device: torch.device | str) -> Hessians:
        """Form what is asked for on another device."""
        return replace(self, device=torch.device(device))

    def triangles(self) -> NDArray[np.floating]:
        """Read the packed triangles, ``(n_structures, 3 max(N) (3 max(N) + 1) / 2)``, with zeros behind each."""
        sizes = packed_size(self.n_atoms) * self.known
        triangles = np.zeros((len(sizes), sizes.max()), dtype=self.numbers.dtype)
        for triangle, first, size in zip(triangles, self.first.tolist(), sizes.tolist(), strict=True):
            triangle[:size] = self.numbers[first : first + size]
        return triangles

    def __reduce__(self) -> tuple[type[Hessians], tuple[object, ...]]:
        """Another process gets the triangles of these structures, not those of the whole data set."""
        triangles = self.triangles()
        first = np.arange(len(triangles)) * triangles.shape[1]
        return Hessians, (triangles.ravel(), first, self.n_atoms, self.known, self.dtype, self.device)

    def _blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """Rows of all matrices, ``(n_structures, number of rows, D)``, block by block; nothing without a Hessian."""
        if not self.known.any():
            return
        triangles = torch.from_numpy(self.triangles()).to(self.device, self.dtype)
        columns = torch.arange(3 * int(self.n_atoms[self.known].max()), device=self.device)
        step = max(1, _BLOCK // (len(triangles) * len(columns)))
        for start in range(0, len(columns), step):
            rows = columns[start : start + step].unsqueeze(1)
            high, low = torch.maximum(rows, columns), torch.minimum(rows, columns)
            # Entries past a structure's 3N lie behind its triangle, where there are zeros.
            place = high * (high + 1) // 2 + low
            block = triangles.index_select(1, place.view(-1)).view(-1, *place.shape)
            yield slice(start, start + len(rows)), block


@dataclass(frozen=True)
class StoredProducts:
    """Where the directions of a batch's structures lie, with their products (:mod:`hessgnn.data.directions`).

    Attributes
    ----------
    vectors, products
        ``(any length, 3)``, products in eV/Å²: in memory or mapped from a file, and shared by all batches of a loader.
        Directions of a structure are stored consecutively, each with all atoms.
    weights
        ``(any length,)``, of each direction.
    first
        ``(n_structures,)`` int64: where the directions of each structure begin in ``vectors`` and ``products``.
    first_weight
        ``(n_structures,)`` int64: where they begin in ``weights``.
    number, n_atoms
        ``(n_structures,)`` int64: M and N of each structure.
    dtype, device
        Of what is read.
    """

    vectors: NDArray[np.floating]
    products: NDArray[np.floating]
    weights: NDArray[np.floating]
    first: NDArray[np.int64]
    first_weight: NDArray[np.int64]
    number: NDArray[np.int64]
    n_atoms: NDArray[np.int64]
    dtype: torch.dtype
    device: torch.device

    def __repr__(self) -> str:
        return f"StoredProducts(M={self.number.tolist()}, N={self.n_atoms.tolist()}, {self.dtype}, {self.device})"

    def read_vectors(self, chosen: Tensor) -> Tensor:
        """Read directions.

        Parameters
        ----------
        chosen
            ``(K, n_structures)`` int64: which direction of each structure; one below 0, or at or past M, is zero.

        Returns
        -------
        Tensor
            ``(K, n_atoms, 3)``.
        """
        return self._read(self.vectors, chosen)

    def read_products(self, chosen: Tensor) -> Tensor:
        """Read products, in the manner of :meth:`read_vectors`; eV/Å²."""
        return self._read(self.products, chosen)

    def read_weights(self, chosen: Tensor) -> Tensor:
        """Read the weights of directions: ``(K, n_structures)``, zero where there is none."""
        places, there = self._chosen(chosen)
        weights = np.zeros(places.shape)
        weights[there] = self.weights[(self.first_weight + places)[there]]
        return torch.from_numpy(weights).to(self.device, self.dtype)

    def select(self, structures: Tensor) -> StoredProducts:
        """Keep some structures, ``(n_structures,)`` bool."""
        kept = structures.cpu().numpy()
        fields = ("first", "first_weight", "number", "n_atoms")
        return replace(self, **{name: getattr(self, name)[kept] for name in fields})

    def to(self, device: torch.device | str) -> StoredProducts:
        """Read to another device."""
        return replace(self, device=torch.device(device))

    def __reduce__(self) -> tuple[type[StoredProducts], tuple[object, ...]]:
        """Another process gets the directions of these structures, not those of the whole data set."""
        rows = ragged(self.first, self.number * self.n_atoms)
        own = ragged(self.first_weight, self.number)
        starts = [np.cumsum(sizes) - sizes for sizes in (self.number * self.n_atoms, self.number)]
        arrays = (self.vectors[rows], self.products[rows], self.weights[own], *starts, self.number, self.n_atoms)
        return StoredProducts, (*arrays, self.dtype, self.device)

    def _chosen(self, chosen: Tensor) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        places = chosen.cpu().numpy()
        return places, (places >= 0) & (places < self.number)

    def _read(self, values: NDArray[np.floating], chosen: Tensor) -> Tensor:
        places, there = self._chosen(chosen)
        found = np.zeros((len(places), int(self.n_atoms.sum()), 3), dtype=_NUMPY[self.dtype])
        known = np.repeat(there, self.n_atoms, axis=1)
        sizes = np.broadcast_to(self.n_atoms, places.shape)[there]
        found[known] = values[ragged((self.first + places * self.n_atoms)[there], sizes)]
        return torch.from_numpy(found).to(self.device)


_NUMPY = {torch.float32: np.float32, torch.float64: np.float64}


@dataclass(frozen=True)
class Labels:
    """Reference values of a batch. A structure without a label has zeros there and ``False`` in its mask.

    Attributes
    ----------
    energy
        ``(n_structures,)`` float64, eV.
    forces
        ``(n_atoms, 3)``, eV/Å.
    hessians
        Of all structures, eV/Å²; read when something is asked of them.
    directions
        Stored Hessian-vector products of all structures; read when they are asked for.
    has_energy, has_forces, has_hessian
        ``(n_structures,)`` bool.
    prepared
        What the loader has computed of each structure's Hessian, if it was asked to.
    """

    energy: Tensor
    forces: Tensor
    hessians: Hessians
    directions: StoredProducts
    has_energy: Tensor
    has_forces: Tensor
    has_hessian: Tensor
    prepared: Prepared | None = None

    @cached_property
    def has_directions(self) -> Tensor:
        """``(n_structures,)`` bool: which structures have stored products."""
        return torch.from_numpy(self.directions.number > 0).to(self.has_hessian.device)

    @property
    def has_curvature(self) -> Tensor:
        """``(n_structures,)`` bool: which structures have a Hessian or stored products."""
        return self.has_hessian | self.has_directions

    @property
    def hessian(self) -> Tensor:
        """The Hessians as matrices, see :meth:`Hessians.dense`: for comparisons that need all their entries."""
        return self.hessians.dense()

    def to(self, device: torch.device | str) -> Labels:
        """Move everything to a device."""
        tensors = {name: getattr(self, name).to(device) for name in _TENSORS}
        prepared = None if self.prepared is None else self.prepared.to(device)
        hessians, directions = self.hessians.to(device), self.directions.to(device)
        return Labels(hessians=hessians, directions=directions, prepared=prepared, **tensors)

    def prepare(self, preparation: Preparation) -> Prepared:
        """What a preparation gives: what the labels hold, where it is that, else computed now."""
        if self.prepared is not None and self.prepared.preparation == preparation:
            return self.prepared
        matrices = replace(self.hessians.to("cpu"), dtype=torch.float64).dense().numpy()
        sizes = zip(self.hessians.n_atoms.tolist(), self.hessians.known.tolist(), strict=True)
        found = [
            preparation.in_type(self.hessians.dtype, matrices[s, : 3 * n, : 3 * n] if known else None, n)
            for s, (n, known) in enumerate(sizes)
        ]
        return Prepared(preparation, found, self.hessians.device)

    def select(self, structures: Tensor, atoms: Tensor) -> Labels:
        """Keep some structures, ``(n_structures,)`` bool, and their atoms, ``(n_atoms,)`` bool."""
        return Labels(
            energy=self.energy[structures],
            forces=self.forces[atoms],
            hessians=self.hessians.select(structures),
            directions=self.directions.select(structures),
            has_energy=self.has_energy[structures],
            has_forces=self.has_forces[structures],
            has_hessian=self.has_hessian[structures],
            prepared=None if self.prepared is None else self.prepared.select(structures),
        )


_TENSORS = ("energy", "forces", "has_energy", "has_forces", "has_hessian")


StructureArrays = dict[str, NDArray[Any]]
"""Name -> array of one structure."""


class Preparation(ABC):
    """Something computed once per structure from its reference Hessian, and carried with the labels of its batches.

    A loader computes it when it is first needed and keeps it for the next epochs. The loader, its worker processes and
    the labels know nothing about what the arrays mean. Instances are sent to worker processes, so the class must stand
    at the top level of a module. Two instances of one class with equal attributes are equal: what one has computed is
    used for the other.
    """

    fill: ClassVar[Mapping[str, float]] = {}
    """Name of an array -> value that it is padded with in a batch; 0 where it is not named."""

    @abstractmethod
    def of_structure(self, hessian: NDArray[np.float64] | None, n_atoms: int) -> StructureArrays:
        """Compute the arrays of one structure.

        Parameters
        ----------
        hessian
            ``(3N, 3N)``, eV/Å²; ``None`` where the structure has none.
        n_atoms
            N.

        Returns
        -------
        dict
            Name -> array of any shape; the same names and numbers of axes for every structure.
        """

    def in_type(self, dtype: torch.dtype, hessian: NDArray[np.float64] | None, n_atoms: int) -> StructureArrays:
        """As :meth:`of_structure`, with floating numbers in the type of a batch."""
        return {
            name: torch.from_numpy(array).to(dtype).numpy() if array.dtype.kind == "f" else array
            for name, array in self.of_structure(hessian, n_atoms).items()
        }

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash(type(self))


@dataclass(frozen=True)
class Prepared:
    """What a preparation computed for the structures of a batch.

    The arrays of each structure are not padded, and are shared with the loader, so they must not be changed; ``device``
    is that of :attr:`tensors`.
    """

    preparation: Preparation
    structures: Sequence[StructureArrays]
    device: torch.device | str = "cpu"

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """Name -> ``(n_structures, ...)``, each axis padded at its end to the longest of the structures."""
        return {name: self._padded(name).to(self.device) for name in self.structures[0]}

    def select(self, structures: Tensor) -> Prepared:
        """Keep some structures, ``(n_structures,)`` bool."""
        chosen = zip(self.structures, structures.tolist(), strict=True)
        return replace(self, structures=[one for one, kept in chosen if kept])

    def to(self, device: torch.device | str) -> Prepared:
        """Make the tensors on another device."""
        return replace(self, device=device)

    def _padded(self, name: str) -> Tensor:
        arrays = [one[name] for one in self.structures]
        shape = np.max([array.shape for array in arrays], axis=0)
        padded = np.full((len(arrays), *shape), self.preparation.fill.get(name, 0), dtype=arrays[0].dtype)
        for k, array in enumerate(arrays):
            place: tuple[int | slice, ...] = (k, *(slice(length) for length in array.shape))
            padded[place] = array
        return torch.from_numpy(padded)
