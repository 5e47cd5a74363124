"""The surface of a potential of this package, which computes many structures in one pass."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray

from hessgnn.data.batch import Batch
from hessgnn.data.neighbors import NeighborFinder, neighbors_of_molecules
from hessgnn.data.structure import Array, Structure
from hessgnn.potentials.adapters.base import AdaptedPotential
from hessgnn.potentials.base import Potential
from hessgnn.surface.base import Answer, ForceField, Surface
from hessgnn.surface.calculator import HessGNNCalculator

SKIN = 0.5
"""Å, see :class:`~hessgnn.data.neighbors.NeighborFinder`."""

ALL_PAIRS = 64
"""Atoms of the largest molecule whose neighbours are found by looking at all pairs."""

ATOMS_OF_HESSIANS = 192
"""Atoms of a pass for Hessians on a CPU, about: it holds 3N columns for each structure; larger ones gain nothing."""
ATOMS_OF_FORCES = 512
"""Atoms of a pass for forces of an adapted potential, about: SevenNet-0 takes 3.6 MiB for each."""
WINDOW = 512
"""Structures that are sorted by size at a time; answers come in the order of the structures."""

EdgeFinder = Callable[[Array], tuple[NDArray[np.int64], Array]]
"""From positions ``(Σ N, 3)`` to ``edge_index (2, n_edges)`` and ``edge_shift (n_edges, 3)`` of all structures."""


@dataclass(frozen=True)
class Geometry:
    """A structure without labels; it is made faster, because nothing is checked."""

    numbers: NDArray[np.int64]
    positions: Array
    cell: Array | None = None
    pbc: NDArray[np.bool_] | bool = False
    name: str | None = None

    @classmethod
    def of(cls, atoms: Atoms) -> Geometry:
        """Of an ASE object."""
        return cls(atoms.numbers, atoms.positions, atoms.cell.array if atoms.pbc.any() else None, atoms.pbc)


class PotentialSurface(Surface):
    """The surface of a potential, in float64, in which its weights are exact; ``batch_size`` structures at a time."""

    def __init__(
        self,
        potential: Potential,
        name: str = "potential",
        *,
        batch_size: int = 64,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(name, _fingerprint_of(potential))
        self.potential = potential.double().to(device).eval()
        self.batch_size, self.device = batch_size, str(device)

    def calculator(self) -> HessGNNCalculator:
        """See :meth:`Surface.calculator`."""
        return HessGNNCalculator(self.potential, device=self.device)

    def second_derivatives(self, atoms: Atoms) -> Array:
        """Analytic second derivatives, see :meth:`Surface.second_derivatives`."""
        return self._own.get_hessian(atoms)

    def answers(self, structures: Sequence[Structure]) -> Iterator[Answer]:
        """See :meth:`Surface.answers`; structures of a size are computed in one pass."""
        most = ATOMS_OF_HESSIANS if self.device == "cpu" else None
        for start in range(0, len(structures), WINDOW):
            window = structures[start : start + WINDOW]
            sizes = np.array([len(s) for s in window], dtype=np.int64)
            found: dict[int, Answer] = {}
            for chosen in passes(by_size(sizes), sizes, most, self.batch_size):
                found |= zip(chosen, self._pass([window[k] for k in chosen]), strict=True)
            yield from (found[k] for k in range(len(window)))

    def _pass(self, structures: Sequence[Structure]) -> Iterator[Answer]:
        batch = batch_of(structures, self.potential.cutoff).to(self.device)
        prediction = self.potential(batch)
        forces = prediction.forces.cpu().numpy()
        hessians = self.potential.hessian(batch)
        stops = np.cumsum([len(s) for s in structures])[:-1]
        parts = zip(prediction.energy.tolist(), np.split(forces, stops), hessians, strict=True)
        yield from (Answer(energy, force, hessian.cpu().numpy()) for energy, force, hessian in parts)

    def force_field(self, structures: Sequence[Structure]) -> ForceField:
        """See :meth:`Surface.force_field`; structures are computed in one pass, or a few where the model is large."""
        most = ATOMS_OF_FORCES if isinstance(self.potential, AdaptedPotential) else None
        sizes = np.array([len(s) for s in structures], dtype=np.int64)
        parts = [structures[part[0] : part[-1] + 1] for part in passes(range(len(structures)), sizes, most)]
        fields = [self._one_pass(part) for part in parts]
        if len(fields) == 1:
            return fields[0]
        stops = np.cumsum([sum(len(s) for s in part) for part in parts])[:-1]

        def compute(positions: Array) -> tuple[Array, Array]:
            found = [field(part) for field, part in zip(fields, np.split(positions, stops), strict=True)]
            return np.concatenate([energies for energies, _ in found]), np.concatenate([forces for _, forces in found])

        return compute

    def _one_pass(self, structures: Sequence[Structure]) -> ForceField:
        edges = edge_finder(structures, self.potential.cutoff, SKIN)
        template = batch_of(structures, self.potential.cutoff)

        def compute(positions: Array) -> tuple[Array, Array]:
            edge_index, edge_shift = edges(positions)
            moved = template.replace(
                positions=torch.from_numpy(positions),
                edge_index=torch.from_numpy(edge_index),
                edge_shift=torch.from_numpy(edge_shift),
            )
            prediction = self.potential(moved.to(self.device))
            return prediction.energy.cpu().numpy(), prediction.forces.cpu().numpy()

        return compute


def batch_of(structures: Sequence[Geometry | Structure], cutoff: float) -> Batch:
    """Join geometries without their labels, in float64 on the CPU; ``cutoff`` is in Å.

    Raises :class:`~hessgnn.data.neighbors.CoincidentAtoms` when two atoms of a structure lie at the same place.
    """
    positions = np.concatenate([s.positions for s in structures])
    return Batch.from_arrays(
        np.concatenate([s.numbers for s in structures]),
        positions,
        np.array([len(s.numbers) for s in structures]),
        edge_finder(structures, cutoff)(positions),
    )


def edge_finder(structures: Sequence[Geometry | Structure], cutoff: float, skin: float = 0.0) -> EdgeFinder:
    """Make a function that finds the edges of all structures as they move; small molecules are searched all at once.

    Of the structures, sizes, cells and periodic directions are used. ``cutoff`` and ``skin`` are in Å; a skin, see
    :class:`~hessgnn.data.neighbors.NeighborFinder`, is worth its cost where structures move often.
    """
    sizes = np.array([len(s.numbers) for s in structures])
    if sizes.max() <= ALL_PAIRS and not any(np.any(s.pbc) for s in structures):

        def of_molecules(positions: Array) -> tuple[NDArray[np.int64], Array]:
            edge_index = neighbors_of_molecules(positions, sizes, cutoff, lambda k: structures[k].name)
            return edge_index, np.zeros((edge_index.shape[1], 3))

        return of_molecules
    finders = [NeighborFinder(cutoff, skin) for _ in structures]
    starts = np.cumsum(sizes) - sizes

    def one_by_one(positions: Array) -> tuple[NDArray[np.int64], Array]:
        parts = zip(finders, np.split(positions, starts[1:]), structures, strict=True)
        found = [find(part, s.cell, s.pbc, s.name) for find, part, s in parts]
        edge_index = np.concatenate([e + start for (e, _), start in zip(found, starts, strict=True)], axis=1)
        return edge_index, np.concatenate([shift for _, shift in found])

    return one_by_one


def by_size(sizes: NDArray[np.int64]) -> list[int]:
    """Sort structures for a pass of Hessians, in which each takes as many products as the largest."""
    return np.argsort(sizes, kind="stable").tolist()


def passes(
    order: Sequence[int], sizes: NDArray[np.int64], most_atoms: int | None, most_structures: int | None = None
) -> Iterator[list[int]]:
    """Divide structures into passes of a potential, and yield the indices of each.

    Parameters
    ----------
    order
        Indices, in the order in which they are taken.
    sizes
        Number of atoms of each structure.
    most_atoms, most_structures
        Limits of a pass, which holds one structure at least; no limit if absent.
    """
    part: list[int] = []
    atoms = 0
    for k in order:
        full = len(part) == most_structures or (most_atoms is not None and atoms + sizes[k] > most_atoms)
        if part and full:
            yield part
            part, atoms = [], 0
        part.append(k)
        atoms += int(sizes[k])
    if part:
        yield part


def _fingerprint_of(potential: Potential) -> str:
    """Hash of the architecture, its settings and its weights, whatever the type they are held in."""
    found = hashlib.sha256(f"{type(potential).__qualname__} {potential.config.model_dump_json()}".encode())
    for name, tensor in potential.state_dict().items():
        found.update(name.encode())
        if isinstance(tensor, torch.Tensor):  # modules of other packages may keep other things there
            found.update(tensor.detach().cpu().double().numpy().tobytes())
    return found.hexdigest()
