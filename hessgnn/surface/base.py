"""What a task sees of whatever it judges: a potential energy surface.

A potential of this package answers for many structures at once; any other code that ASE can drive answers for one
after the other. A task need not know which of the two it has.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator
from numpy.typing import NDArray

from hessgnn.data.batch import Batch
from hessgnn.data.neighbors import NeighborFinder, neighbors_of_molecules
from hessgnn.data.structure import Array, Structure
from hessgnn.errors import ConfigError
from hessgnn.potentials.base import Potential
from hessgnn.runtime.imports import import_path
from hessgnn.surface.calculator import HessGNNCalculator
from hessgnn.surface.engines.base import central_differences
from hessgnn.surface.failures import FAILURES, reason_of

HESSIAN_STEP = 2e-4
"""Å, of central differences of the forces of a calculator that has no Hessian of its own."""
SKIN = 0.5
"""Å, see :class:`~hessgnn.data.neighbors.NeighborFinder`."""

ALL_PAIRS = 64
"""Atoms of the largest molecule whose neighbours are found by looking at all pairs."""

ATOMS_OF_HESSIANS = 192
"""Of a pass for Hessians on a CPU, about: it holds 3N columns for each structure, and larger ones gain nothing."""
WINDOW = 512
"""Structures that are sorted by size at a time; answers come in the order that was asked for."""

ForceField = Callable[[Array], tuple[Array, Array]]
"""From positions ``(Σ N, 3)`` to energies ``(n_structures,)`` and forces ``(Σ N, 3)``; NaN where a structure fails."""


@dataclass(frozen=True)
class Answer:
    """Energy (eV), forces ``(N, 3)`` (eV/Å) and Hessian ``(3N, 3N)`` (eV/Å²) of a structure; NaN where it failed."""

    energy: float
    forces: Array
    hessian: Array


class Surface(Protocol):
    """A potential energy surface, in eV and Å."""

    name: str
    fingerprint: str
    """Equal if and only if the surface is: what was computed on it before need not be computed again."""

    def answers(self, structures: Sequence[Structure]) -> Iterator[Answer]:
        """Energy, forces and Hessian of each structure, in their order."""

    def calculator(self) -> CalculatorWithHessian:
        """Make an ASE calculator with ``get_hessian``."""

    def force_field(self, structures: Sequence[Structure]) -> ForceField:
        """Make a function that follows structures as they move."""


class CalculatorWithHessian(Protocol):
    """An ASE calculator that also gives second derivatives."""

    get_hessian: Callable[..., Array]


class PotentialSurface:
    """The surface of a potential, in float64.

    Parameters
    ----------
    potential
        Converted to float64, in which its weights are exact.
    name
        What it is called.
    batch_size
        Structures at a time.
    device
        Where to compute.
    """

    def __init__(
        self,
        potential: Potential,
        name: str = "potential",
        *,
        batch_size: int = 64,
        device: torch.device | str = "cpu",
    ) -> None:
        self.fingerprint = _fingerprint_of(potential)
        self.potential = potential.double().to(device).eval()
        self.name, self.batch_size, self.device = name, batch_size, str(device)

    def answers(self, structures: Sequence[Structure]) -> Iterator[Answer]:
        """Energy, forces and Hessian of each structure, those of a size in one pass."""
        most = ATOMS_OF_HESSIANS if self.device == "cpu" else None
        for start in range(0, len(structures), WINDOW):
            window = structures[start : start + WINDOW]
            sizes = np.array([len(s) for s in window], dtype=np.int64)
            found: dict[int, Answer] = {}
            for chosen in passes(by_size(sizes), sizes, most, self.batch_size):
                found |= zip(chosen, self._pass([window[k] for k in chosen]), strict=True)
            yield from (found[k] for k in range(len(window)))

    def _pass(self, structures: Sequence[Structure]) -> Iterator[Answer]:
        batch = Batch.from_structures(structures, self.potential.cutoff).replace(labels=None).to(self.device)
        prediction = self.potential(batch)
        forces = prediction.forces.cpu().numpy()
        hessians = self.potential.hessian(batch)
        stops = np.cumsum([len(s) for s in structures])[:-1]
        parts = zip(prediction.energy.tolist(), np.split(forces, stops), hessians, strict=True)
        yield from (Answer(energy, force, hessian.cpu().numpy()) for energy, force, hessian in parts)

    def calculator(self) -> HessGNNCalculator:
        """Make an ASE calculator."""
        return HessGNNCalculator(self.potential, device=self.device)

    def force_field(self, structures: Sequence[Structure]) -> ForceField:
        """Make a function that follows structures as they move, all in one batch."""
        edges = self._edges(structures)
        template = Batch.from_structures(structures, self.potential.cutoff).replace(labels=None)

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

    def _edges(self, structures: Sequence[Structure]) -> Callable[[Array], tuple[NDArray[np.int64], Array]]:
        """Make a function that finds the edges of all structures, and their shifts, as they move."""
        cutoff, sizes = self.potential.cutoff, np.array([len(s) for s in structures])
        if sizes.max() <= ALL_PAIRS and not any(s.pbc.any() for s in structures):

            def of_molecules(positions: Array) -> tuple[NDArray[np.int64], Array]:
                edge_index = neighbors_of_molecules(positions, sizes, cutoff, lambda k: structures[k].name)
                return edge_index, np.zeros((edge_index.shape[1], 3))

            return of_molecules
        finders = [NeighborFinder(cutoff, SKIN) for _ in structures]
        starts = np.cumsum(sizes) - sizes

        def one_by_one(positions: Array) -> tuple[NDArray[np.int64], Array]:
            parts = zip(finders, np.split(positions, starts[1:]), structures, strict=True)
            found = [find(part, s.cell, s.pbc) for find, part, s in parts]
            edge_index = np.concatenate([e + start for (e, _), start in zip(found, starts, strict=True)], axis=1)
            return edge_index, np.concatenate([shift for _, shift in found])

        return one_by_one


class CalculatorSurface:
    """The surface of any ASE calculator; where it has no ``get_hessian``, its forces are differenced.

    Parameters
    ----------
    make
        Makes a calculator.
    name
        What it is called.
    fingerprint
        Tells it from others; made of the name and the calculator's parameters by default.
    """

    def __init__(self, make: Callable[[], Calculator], name: str = "calculator", fingerprint: str = "") -> None:
        self.name, self._make = name, make
        first = make()
        parameters = json.dumps(dict(getattr(first, "parameters", {})), default=str, sort_keys=True)
        self.fingerprint = fingerprint or _digest(name, type(first).__qualname__, parameters)

    def answers(self, structures: Sequence[Structure]) -> Iterator[Answer]:
        """Energy, forces and Hessian of each structure, one after the other; NaN where the code fails."""
        calculator = self.calculator()
        for structure in structures:
            atoms, n = structure.to_atoms(), len(structure)
            atoms.calc = calculator
            try:
                yield Answer(
                    float(atoms.get_potential_energy()), np.array(atoms.get_forces()), calculator.get_hessian(atoms)
                )
            except FAILURES:
                yield Answer(np.nan, np.full((n, 3), np.nan), np.full((3 * n, 3 * n), np.nan))

    def calculator(self) -> Calculator:
        """Make a calculator, with ``get_hessian`` by central differences if it has none."""
        calculator = self._make()
        if not hasattr(calculator, "get_hessian"):
            calculator.get_hessian = partial(_differenced, calculator)
        return calculator

    def force_field(self, structures: Sequence[Structure]) -> ForceField:
        """Make a function that follows structures as they move; each has a calculator of its own."""
        images = [Structure.to_atoms(s) for s in structures]
        for image in images:
            image.calc = self._make()
        stops = np.cumsum([len(s) for s in structures])[:-1]

        def compute(positions: Array) -> tuple[Array, Array]:
            energies, forces = [], []
            for image, part in zip(images, np.split(positions, stops), strict=True):
                image.positions = part
                try:
                    energies.append(float(image.get_potential_energy()))
                    forces.append(np.array(image.get_forces()))
                except FAILURES:
                    energies.append(np.nan)
                    forces.append(np.full(part.shape, np.nan))
            return np.array(energies), np.concatenate(forces)

        return compute


def by_size(sizes: NDArray[np.int64]) -> list[int]:
    """Sort structures for a pass of Hessians, in which each takes as many products as the largest."""
    return np.argsort(sizes, kind="stable").tolist()


def passes(
    order: Sequence[int], sizes: NDArray[np.int64], most_atoms: int | None, most_structures: int | None = None
) -> Iterator[list[int]]:
    """Divide structures into passes of a potential.

    Parameters
    ----------
    order
        Indices, in the order in which they are taken.
    sizes
        Atoms of each structure.
    most_atoms, most_structures
        Of a pass, which holds one structure at least; no limit if absent.

    Yields
    ------
    list of int
        Indices of a pass.
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


def _differenced(calculator: Calculator, atoms: Atoms) -> Array:
    """Hessian of a calculator by central differences of its forces, symmetrised."""

    def forces(image: Atoms) -> Array:
        image.calc = calculator
        return np.array(image.get_forces())

    matrix = central_differences(forces, atoms, HESSIAN_STEP)
    return (matrix + matrix.T) / 2


def surface_from_import_path(path: str) -> CalculatorSurface:
    """Find a calculator by the import path of what makes it.

    Parameters
    ----------
    path
        ``module:factory``; the factory is called without arguments, so a class with defaults is one.

    Returns
    -------
    CalculatorSurface
        Named after the factory.

    Raises
    ------
    ConfigError
        When it cannot be imported or made.
    """
    factory = import_path(path)
    module, _, attribute = path.partition(":")
    try:
        surface = CalculatorSurface(factory, name=attribute)
    except (*FAILURES, TypeError) as error:
        raise ConfigError(
            f"cannot be made without arguments ({reason_of(error)})", where=path, remedy="name a factory of your own"
        ) from error
    package = module.split(".")[0]
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        version = ""
    surface.fingerprint = _digest(path, version, surface.fingerprint)
    return surface


def _fingerprint_of(potential: Potential) -> str:
    """Digest of the architecture, its settings and its weights, whatever the type they are held in."""
    digest = hashlib.sha256(f"{type(potential).__qualname__} {potential.config.model_dump_json()}".encode())
    for name, tensor in potential.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().double().numpy().tobytes())
    return digest.hexdigest()


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
