"""What the contract is tried on: a potential with fresh weights, structures of its elements, and comparisons."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from ase import Atoms
from ase.build import molecule
from torch import Tensor

from hessgnn.data.batch import Batch
from hessgnn.potentials.base import Potential, TotalEnergyPotential


class Violation(AssertionError):
    """A potential breaks an item of the contract: what is wrong, the measured number and its bound."""


@dataclass
class Subject:
    """A potential under test.

    Parameters
    ----------
    make
        Builds it with weights drawn from torch's global generator.
    device
        Where it is tried.
    """

    make: Callable[[], Potential]
    device: str = "cpu"

    @cached_property
    def potential(self) -> Potential:
        """One potential in float64, which the items leave as it is."""
        return self.fresh()

    def fresh(self, dtype: torch.dtype = torch.float64, seed: int = 0) -> Potential:
        """Build a potential with reproducible weights: equal seeds give equal weights.

        Constant initial weights are disturbed: a layer of zeros would hide whatever lies before it.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            potential = self.make().to(dtype)
            with torch.no_grad():
                for parameter in potential.parameters():
                    if parameter.numel() and bool((parameter == parameter.flatten()[0]).all()):
                        parameter.add_(0.1 * torch.randn_like(parameter))
        return potential.to(self.device)

    def batch(
        self, structures: Sequence[Atoms], dtype: torch.dtype = torch.float64, cutoff: float | None = None
    ) -> Batch:
        """Join structures with the potential's neighbour list, or with that of another cutoff (Å).

        The batch is on the device of the subject.
        """
        return Batch.from_atoms(structures, self.potential.cutoff if cutoff is None else cutoff, dtype, self.device)

    def atoms(self, numbers: Sequence[int], positions: object, **cell: object) -> Atoms:
        """Make a structure; elements that the potential does not know are replaced by ones that it knows.

        ``cell`` and ``pbc`` are passed to :class:`ase.Atoms`.
        """
        known = self.potential.elements
        return Atoms([z if z in known else known[z % len(known)] for z in numbers], np.asarray(positions), **cell)

    def molecule(self, name: str, rattle: float = 0.05) -> Atoms:
        """Make a molecule of ASE's collection (:func:`ase.build.molecule`) with the potential's elements.

        Displacements with a standard deviation of ``rattle`` Å leave no symmetry. They are the same at each call.
        """
        found = molecule(name)
        found.rattle(rattle, seed=1)
        return self.atoms(found.numbers, found.positions)

    @property
    def lone_atom(self) -> Atoms:
        """One atom of the first element."""
        return self.atoms([self.potential.elements[0]], [[0.3, -0.2, 0.1]])

    @property
    def crystal(self) -> Atoms:
        """Four atoms in a triclinic cell that is smaller than usual cutoffs, so that atoms see their own images."""
        cell = [[4.1, 0.0, 0.0], [0.7, 3.8, 0.0], [0.3, -0.5, 4.4]]
        positions = [[0.1, 0.2, 0.1], [1.3, 0.3, 0.2], [2.2, 2.1, 1.9], [2.9, 1.3, 3.1]]
        return self.atoms([6, 1, 8, 7], positions, cell=cell, pbc=True)


def displaced(atoms: Atoms, step: float) -> list[Atoms]:
    """Structures with each coordinate moved by -2, -1, 1 and 2 steps (Å), in this order: ``12 N``."""
    moved = []
    for atom in range(len(atoms)):
        for axis in range(3):
            for factor in (-2, -1, 1, 2):
                one = atoms.copy()
                one.positions[atom, axis] += factor * step
                moved.append(one)
    return moved


def derivative(values: Tensor, step: float) -> Tensor:
    """Central difference of fourth order, ``(n, ...)``.

    ``values`` are ``(4 n, ...)``: four for each coordinate, at -2, -1, 1 and 2 steps, see :func:`displaced`.
    """
    a, b, c, d = values.unflatten(0, (-1, 4)).unbind(1)
    return (8 * (c - b) - (d - a)) / (12 * step)


def agree(what: str, got: Tensor, expected: Tensor, bound: float, scale: float | None = None) -> None:
    """Require two tensors of one shape to agree.

    Parameters
    ----------
    what
        What is wrong if they do not.
    got, expected
        Tensors of one shape.
    bound
        Of the largest deviation, in units of ``scale``.
    scale
        The largest magnitude of ``expected``, if not given.

    Raises
    ------
    Violation
        With the measured number and the bound.
    """
    if got.shape != expected.shape:
        raise Violation(f"{what}: shape {tuple(got.shape)}, expected {tuple(expected.shape)}")
    if not got.numel():
        return
    if scale is None:
        scale = float(expected.abs().max())
    deviation = float((got.double() - expected.double()).abs().max()) / max(scale, 1e-300)
    if not deviation <= bound:  # so that NaN fails
        raise Violation(f"{what}: relative deviation {deviation:.1e}, bound {bound:.0e}")


def require(condition: bool, what: str) -> None:
    """Raise :class:`Violation` that says ``what`` is wrong when a condition is false."""
    if not condition:
        raise Violation(what)


def learned_energies(potential: Potential, batch: Batch) -> tuple[str, Tensor]:
    """The method that a potential writes, by name, and what it gives: dimensionless energies of atoms or structures."""
    if isinstance(potential, TotalEnergyPotential):
        return "structure_energies", potential.structure_energies(batch)
    return "atomic_energies", potential.atomic_energies(batch)


def vectors_for(batch: Batch, number: int = 2) -> Tensor:
    """Random vectors ``(number, n_atoms, 3)`` to multiply Hessians with, the same at each call."""
    generator = torch.Generator().manual_seed(7)
    return torch.randn(number, *batch.positions.shape, generator=generator, dtype=torch.float64).to(batch.positions)
