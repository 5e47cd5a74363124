"""Items of the contract about what leaves an energy as it is, and about what can change it.

Order, place, orientation, company and periodicity of a structure; range of an atom's influence.
"""

from __future__ import annotations

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from hessgnn.curvature.sparse import interacting_atoms
from hessgnn.potentials.base import TotalEnergyPotential
from hessgnn.testing.subject import Subject, agree, require


def batching(subject: Subject) -> None:
    """A structure gives the same in a batch as alone."""
    structures = [subject.molecule("CH3NO2"), subject.molecule("H2O"), subject.lone_atom, subject.crystal]
    batch = subject.batch(structures)
    energy, forces = subject.potential.energy(batch), subject.potential.forces(batch)
    singles = [_evaluate(subject, atoms) for atoms in structures]
    agree("energies in a batch differ from those alone", energy, torch.cat([e for e, _, _ in singles]), 1e-9)
    agree("forces in a batch differ from those alone", forces, torch.cat([f for _, f, _ in singles]), 1e-9)
    for hessian, (_, _, alone) in zip(subject.potential.hessian(batch), singles, strict=True):
        agree("a Hessian in a batch differs from that alone", hessian, alone, 1e-9)


def permutation(subject: Subject) -> None:
    """The order of atoms does not matter."""
    atoms = subject.molecule("CH3NO2")
    order = np.random.default_rng(3).permutation(len(atoms))
    index = torch.from_numpy(order).to(subject.device)
    rows = (3 * index.unsqueeze(1) + torch.arange(3, device=subject.device)).flatten()
    energy, forces, hessian = _evaluate(subject, atoms)
    _same("on reordering the atoms", _evaluate(subject, atoms[order]), (energy, forces[index], hessian[rows][:, rows]))


def translation(subject: Subject) -> None:
    """Where a structure lies does not matter."""
    atoms = subject.molecule("CH3NO2")
    moved = atoms.copy()
    moved.positions += [5.3, -7.1, 2.9]
    _same("on moving the structure", _evaluate(subject, moved), _evaluate(subject, atoms))


def sum_rule(subject: Subject) -> None:
    """Forces add up to zero, and so does each row of the Hessian, for each direction (acoustic sum rule)."""
    for atoms in (subject.molecule("CH3NO2"), subject.crystal):
        _, forces, hessian = _evaluate(subject, atoms)
        total, rows = forces.sum(0), hessian.unflatten(1, (-1, 3)).sum(1)
        agree("the forces do not add up to zero", total, torch.zeros_like(total), 1e-9, _largest(forces))
        agree("rows of the Hessian do not add up to zero", rows, torch.zeros_like(rows), 1e-9, _largest(hessian))


def rotation(subject: Subject) -> None:
    """Energies are invariant under rotation, forces turn as vectors and Hessians as tensors."""
    _turn(subject, _orthogonal(+1), "on rotating the structure")


def reflection(subject: Subject) -> None:
    """Mirror images have the same energy; forces and Hessians follow improper rotations too."""
    _turn(subject, _orthogonal(-1), "on reflecting the structure")


def separated_fragments(subject: Subject) -> None:
    """Fragments out of each other's reach add their energies; an isolated atom adds that of a single atom."""
    far = np.array([0, 0, 3 * subject.potential.cutoff + 10])
    molecule, other, atom = subject.molecule("CH3NO2"), subject.molecule("H2O"), subject.lone_atom
    for fragment, name in ((atom, "an isolated atom"), (other, "a fragment out of reach")):
        moved = fragment.copy()
        moved.positions += far
        energy = subject.potential.energy(subject.batch([molecule + moved, molecule, fragment]))
        agree(f"{name} does not add the energy that it has alone", energy[0], energy[1] + energy[2], 1e-9)


def periodicity(subject: Subject) -> None:
    """A cell gives per atom what its supercell gives, and an atom may be exchanged with its image."""
    crystal = subject.crystal
    energy, forces, hessian = _evaluate(subject, crystal)
    for repeats in ((2, 1, 1), (1, 1, 2)):
        super_energy, super_forces, _ = _evaluate(subject, crystal.repeat(repeats), with_hessian=False)
        agree("the energy of a doubled cell is not twice that of the cell", super_energy, 2 * energy, 1e-9)
        agree("forces in a doubled cell differ from those in the cell", super_forces, forces.repeat(2, 1), 1e-9)
    shifted = crystal.copy()
    shifted.positions[1] += crystal.cell[0] - 2 * crystal.cell[2]
    _same("on exchanging an atom with its periodic image", _evaluate(subject, shifted), (energy, forces, hessian))


Values = tuple[Tensor, Tensor, Tensor]


def _evaluate(subject: Subject, atoms: Atoms, with_hessian: bool = True) -> Values:
    """Energy ``(1,)``, forces ``(N, 3)`` and Hessian ``(3N, 3N)`` of one structure."""
    batch = subject.batch([atoms])
    out = subject.potential(batch)
    return out.energy, out.forces, subject.potential.hessian(batch)[0] if with_hessian else out.energy


def _same(when: str, got: Values, expected: Values) -> None:
    for name, a, b in zip(("energy", "forces", "Hessian"), got, expected, strict=True):
        agree(f"{when}: wrong change of {name}", a, b, 1e-9)


def _turn(subject: Subject, matrix: np.ndarray, when: str) -> None:
    for atoms in (subject.molecule("CH3NO2"), subject.crystal):
        turned = Atoms(atoms.numbers, atoms.positions @ matrix.T, cell=atoms.cell.array @ matrix.T, pbc=atoms.pbc)
        q = torch.from_numpy(matrix).to(subject.device)
        energy, forces, hessian = _evaluate(subject, atoms)
        blocks = hessian.view(len(atoms), 3, len(atoms), 3)
        turned_hessian = torch.einsum("ab,ibjc,dc->iajd", q, blocks, q).reshape(hessian.shape)
        _same(when, _evaluate(subject, turned), (energy, forces @ q.T, turned_hessian))


def _orthogonal(determinant: int) -> np.ndarray:
    q, _ = np.linalg.qr(np.random.default_rng(5).normal(size=(3, 3)))
    return q * (determinant * np.linalg.det(q))


def _largest(values: Tensor) -> float:
    return float(values.abs().max())


def influence(subject: Subject) -> None:
    """No atom farther away than n_hops edges, and with one no edge of another atom, changes an atom's energy."""
    potential = subject.potential
    if potential.n_hops is None or isinstance(potential, TotalEnergyPotential):
        return
    place = np.arange(2 * potential.n_hops + 7)
    zigzag = 0.1 * potential.cutoff
    chain = np.stack([0.42 * potential.cutoff * place, zigzag * (place % 2), zigzag * (place % 3)], axis=1)
    numbers = [potential.elements[k % len(potential.elements)] for k in place]
    batch = subject.batch([subject.atoms(numbers, chain)]).replace(derivatives=2)
    positions = batch.positions.detach().requires_grad_(True)
    slopes = _slopes(potential.atomic_energies(batch.replace(positions=positions)), positions)
    beyond = torch.from_numpy(~interacting_atoms(batch, potential.n_hops).toarray()).to(slopes.device)
    require(bool(beyond.any()), "no atom of the chain is out of range")  # a fault of this test, not of the potential
    far = float((slopes * beyond).max())
    edges = f"{potential.n_hops} edge" + "s" * (potential.n_hops > 1)
    require(
        far == 0, f"an atom more than {edges} away changes the energy of an atom by {far:.1e} per Å, n_hops denies it"
    )
    if potential.n_hops > 1:
        return
    shifts = batch.edge_shift.detach().requires_grad_(True)
    slopes = _slopes(potential.atomic_energies(batch.replace(edge_shift=shifts)), shifts)
    others = batch.edge_index[0] != torch.arange(len(batch.numbers), device=slopes.device).unsqueeze(1)
    foreign = float((slopes * others).max())
    require(foreign == 0, f"an edge of another atom changes the energy of an atom by {foreign:.1e} per Å, n_hops is 1")


def _slopes(energies: Tensor, leaf: Tensor) -> Tensor:
    """Largest derivative of each energy in each row of a leaf, ``(n_atoms, n_rows)``."""
    rows = [torch.autograd.grad(energy, leaf, retain_graph=True, allow_unused=True)[0] for energy in energies]
    return torch.stack([torch.zeros_like(leaf) if row is None else row for row in rows]).abs().amax(-1)
