"""What every adapter is asked: the energies, forces and Hessians of the package's own calculator."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.build import molecule
from ase.calculators.calculator import Calculator

from hessgnn.data.batch import Batch
from hessgnn.potentials.base import Potential
from hessgnn.testing import ITEMS, Subject, try_item
from hessgnn.testing.subject import vectors_for


def structures(periodic: bool = True) -> list[Atoms]:
    """Molecules of H, C, N and O without symmetry, one atom, and a crystal whose atoms see their own images."""
    found = [molecule(name) for name in ("CH3NO2", "CH3CH2OH", "HCN", "H2O")]
    for atoms in found:
        atoms.rattle(0.05, seed=1)
    found.append(Atoms("O", [[0.1, 0.2, 0.3]]))
    if periodic:
        cell = [[4.1, 0, 0], [0.7, 3.8, 0], [0.3, -0.5, 4.4]]
        found.append(Atoms("CHON", [[0.1, 0.2, 0.1], [1.3, 0.3, 0.2], [2.2, 2.1, 1.9], [2.9, 1.3, 3.1]], cell=cell))
        found[-1].pbc = True
    return found


def energies_and_forces_agree(potential: Potential, calculator: Calculator, periodic: bool = True) -> None:
    """In one batch they are, to 1e-6 eV and eV/Å, what the calculator gives one by one."""
    atoms = structures(periodic)
    batch = Batch.from_atoms(atoms, potential.cutoff)
    energies, forces = potential.energy(batch), potential.forces(batch)
    for k, one in enumerate(atoms):
        one.calc = calculator
        assert abs(float(energies[k]) - one.get_potential_energy()) < 1e-6, one
        assert np.abs(forces[batch.batch == k].numpy() - one.get_forces()).max() < 1e-6, one
    assert float(forces.abs().max()) > 1e-3


def hessian_error(potential: Potential, calculator: Calculator, which: int = 2, step: float = 5e-4) -> float:
    """Largest deviation of a Hessian from central differences of the calculator's forces, over its largest entry.

    ``which`` is the place of the molecule in :func:`structures`, ``step`` in Å.
    """
    atoms = structures()[which]
    atoms.calc = calculator
    columns = []
    for atom in range(len(atoms)):
        for axis in range(3):
            forces = []
            for factor in (-2, -1, 1, 2):
                moved = atoms.copy()
                moved.calc = calculator
                moved.positions[atom, axis] += factor * step
                forces.append(moved.get_forces().ravel())
            a, b, c, d = forces
            columns.append(-(8 * (c - b) - (d - a)) / (12 * step))
    expected = np.stack(columns)
    got = potential.hessian(Batch.from_atoms([atoms], potential.cutoff))[0].numpy()
    return float(np.abs(got - expected).max() / np.abs(expected).max())


def broken_items(make) -> dict[str, str]:
    """Items of the contract that a potential breaks: name -> the declared reason, or what is wrong."""
    subject = Subject(make)
    outcomes = [try_item(item, subject) for item in ITEMS]
    return {o.item.name: o.skipped_reason or f"{o.message} (no reason declared)" for o in outcomes if not o.passed}


def products_can_be_trained_on(potential: Potential) -> None:
    """A loss of Hessian products has finite gradients, not zero but for unknown elements and what curvature ignores."""
    batch = Batch.from_atoms(structures()[:3], potential.cutoff)
    potential.hvp(batch, vectors_for(batch), create_graph=True).square().mean().backward()
    gradients = [p.grad for p in potential.parameters()]
    assert sum(g is not None and bool(g.any()) for g in gradients) > len(gradients) / 3
    assert all(g is None or bool(g.isfinite().all()) for g in gradients)
