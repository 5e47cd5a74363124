"""Items of the contract about types, shapes, inputs and state."""

from __future__ import annotations

import io

import torch
from ase.data import chemical_symbols

from hessgnn.errors import DataError
from hessgnn.testing.subject import Subject, Violation, agree, learned_energies, require, vectors_for

_TENSORS = ("numbers", "positions", "batch", "n_atoms", "edge_index", "edge_shift")


def unknown_element(subject: Subject) -> None:
    """A structure with an element that the potential does not know is a DataError."""
    potential = subject.potential
    unknown = [z for z in range(1, len(chemical_symbols)) if z not in potential.elements]
    if not unknown:
        return
    batch = subject.batch([subject.molecule("H2O")])
    numbers = batch.numbers.clone()
    numbers[0] = unknown[0]
    symbol = chemical_symbols[unknown[0]]
    try:
        potential.energy(batch.replace(numbers=numbers))
    except DataError:
        return
    raise Violation(f"{symbol} is not among the elements, but an energy came back for it")


def floating_type(subject: Subject) -> None:
    """Forces and products come in the type of the positions, energies in float64."""
    for dtype in (torch.float32, torch.float64):
        potential = subject.fresh(dtype)
        batch = subject.batch([subject.molecule("H2O"), subject.molecule("HCN")], dtype)
        what, learned = learned_energies(potential, batch)
        require(learned.dtype == dtype, f"{what} returns {learned.dtype} for positions in {dtype}")
        out = potential(batch, vectors=vectors_for(batch))
        require(out.energy.dtype == torch.float64, f"the energy is {out.energy.dtype}, it must be float64")
        for name in ("forces", "products"):
            got = getattr(out, name).dtype
            require(got == dtype, f"{name} are {got} for positions in {dtype}")


def inputs_unchanged(subject: Subject) -> None:
    """No tensor of a batch is changed by an evaluation."""
    batch = subject.batch([subject.molecule("CH3NO2"), subject.lone_atom, subject.crystal])
    before = {name: getattr(batch, name).clone() for name in _TENSORS}
    subject.potential.energy(batch)
    subject.potential(batch, vectors=vectors_for(batch))
    for name, value in before.items():
        require(torch.equal(getattr(batch, name), value), f"batch.{name} was changed in place")


def position_dependence(subject: Subject) -> None:
    """Energy, forces and Hessian are finite, and none of them vanishes: otherwise no other item means anything."""
    batch = subject.batch([subject.molecule("CH3NO2"), subject.crystal])
    out = subject.potential(batch)
    for name, value in (("energy", out.energy), ("forces", out.forces), ("Hessian", subject.potential.hessian(batch))):
        for one in value:
            require(bool(one.isfinite().all()), f"the {name} of a plain structure is not finite")
        require(any(bool(one.any()) for one in value), f"the {name} is zero everywhere")


def small_structures(subject: Subject) -> None:
    """Structures of one atom and of two have the right shapes and values, alone and together."""
    potential = subject.potential
    one, two = subject.lone_atom, subject.atoms([6, 8], [[0, 0, 0], [0.6, 0.8, 0.5]])
    for structures in ([one], [two], [one, two], [one, one]):
        batch = subject.batch(structures)
        n_atoms, n_structures = len(batch.numbers), len(structures)
        which = f"{n_structures} structure(s) of {' and '.join(str(len(s)) for s in structures)} atom(s)"
        what, learned = learned_energies(potential, batch)
        wanted = (n_atoms if what == "atomic_energies" else n_structures,)
        require(learned.shape == wanted, f"{what} of {which} has shape {tuple(learned.shape)}, expected {wanted}")
        out = potential(batch, vectors=vectors_for(batch))
        shapes = {"energy": (n_structures,), "forces": (n_atoms, 3), "products": (2, n_atoms, 3)}
        for name, shape in shapes.items():
            got = getattr(out, name)
            require(got.shape == shape, f"{name} of {which} has shape {tuple(got.shape)}, expected {shape}")
            require(bool(got.isfinite().all()), f"{name} of {which} is not finite")
        for atoms, hessian in zip(structures, potential.hessian(batch), strict=True):
            size = 3 * len(atoms)
            require(hessian.shape == (size, size), f"a Hessian of {which} has shape {tuple(hessian.shape)}")
            require(bool(hessian.isfinite().all()), f"a Hessian of {which} is not finite")
    batch = subject.batch([one])
    force = float(potential.forces(batch).abs().max())
    curvature = float(potential.hessian(batch)[0].abs().max())
    require(force == 0, f"a single atom feels a force of {force:.1e} eV/Å, it must be exactly 0")
    require(curvature == 0, f"a single atom has a Hessian of {curvature:.1e} eV/Å², it must be exactly 0")


def no_neighbours(subject: Subject) -> None:
    """An atom without neighbours inside a structure is harmless: finite everywhere, no force on it, no curvature."""
    atoms = subject.molecule("H2O")
    far = atoms + subject.atoms([8], [[0, 0, 3 * subject.potential.cutoff + 10]])
    batch = subject.batch([far])
    out, hessian = subject.potential(batch), subject.potential.hessian(batch)[0]
    for name, value in (("energy", out.energy), ("forces", out.forces), ("Hessian", hessian)):
        require(bool(value.isfinite().all()), f"the {name} of a structure with an atom out of reach is not finite")
    near = subject.batch([atoms])
    inside = 3 * len(atoms)
    agree("the atom out of reach feels a force", out.forces[-1], torch.zeros_like(out.forces[-1]), 0, scale=1)
    alone = subject.potential.hessian(near)[0]
    expected = torch.zeros_like(hessian)
    expected[:inside, :inside] = alone
    agree("an atom out of reach changes the Hessian", hessian, expected, 1e-9)


def state_dict(subject: Subject) -> None:
    """Weights written with torch.save and read with weights_only=True give the same energies."""
    first, second = subject.fresh(seed=0), subject.fresh(seed=1)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True, map_location=subject.device))
    batch = subject.batch([subject.molecule("CH3NO2")])
    agree("the energy changes on saving and loading the state_dict", second.energy(batch), first.energy(batch), 1e-12)
    agree("the forces change on saving and loading the state_dict", second.forces(batch), first.forces(batch), 1e-12)


def deterministic(subject: Subject) -> None:
    """The same input gives the same output, in training mode too."""
    potential = subject.fresh().train()
    batch = subject.batch([subject.molecule("CH3NO2")])
    vectors = vectors_for(batch)
    first, second = potential(batch, vectors=vectors), potential(batch, vectors=vectors)
    for name in ("energy", "forces", "products"):
        agree(f"{name} of two equal calls differ", getattr(second, name), getattr(first, name), 1e-10)
