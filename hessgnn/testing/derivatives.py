"""Items of the contract about derivatives: forces, Hessians, products, and gradients of a Hessian loss."""

from __future__ import annotations

import torch
from ase import Atoms
from torch import Tensor

from hessgnn.curvature.products import Backend, predict
from hessgnn.data.batch import Batch
from hessgnn.potentials.base import Potential
from hessgnn.testing.subject import Subject, agree, derivative, displaced, require, vectors_for

STEP = 5e-4
"""Å: balances the errors of truncation and rounding of a central difference of fourth order in float64."""


def forces(subject: Subject) -> None:
    """Forces are the negative derivative of the energy."""
    for atoms in (subject.molecule("CH3NO2"), subject.crystal):
        energy = subject.potential.energy(subject.batch(displaced(atoms, STEP)))
        expected = -derivative(energy, STEP).view(-1, 3)
        agree(
            "forces differ from finite differences of the energy",
            subject.potential.forces(subject.batch([atoms])),
            expected,
            1e-6,
        )


def hessian(subject: Subject) -> None:
    """The Hessian is the negative derivative of the forces."""
    for atoms in (subject.molecule("CH3NO2"), subject.crystal):
        _check_hessian(subject, atoms, "a plain structure")


def axes(subject: Subject) -> None:
    """Linear molecules, edges along an axis and right angles are nothing special."""
    for name in ("CO2", "HCN", "C2H2"):
        atoms = subject.molecule(name, rattle=0)
        for axis in range(3):
            turned = subject.atoms(atoms.numbers, torch.from_numpy(atoms.positions).roll(axis - 2, 1).numpy())
            _check_hessian(subject, turned, f"a linear molecule along {'xyz'[axis]}")
    corner = subject.atoms([6, 1, 8, 7], [[0, 0, 0], [1.1, 0, 0], [0, 1.2, 0], [0, 0, 1.3]])
    _check_hessian(subject, corner, "atoms at right angles")


def symmetry(subject: Subject) -> None:
    """The Hessian equals its transpose."""
    for atoms in (subject.molecule("CH3NO2"), subject.crystal):
        matrix = subject.potential.hessian(subject.batch([atoms]))[0]
        agree("the Hessian differs from its transpose", matrix, matrix.T, 1e-9)


def products(subject: Subject) -> None:
    """Products with vectors, and single rows, are those of the full Hessian."""
    potential = subject.potential
    batch = subject.batch([subject.molecule("CH3NO2"), subject.molecule("H2O")])
    matrices = potential.hessian(batch)
    vectors = vectors_for(batch, 3)
    vectors[2] = 0
    for first in batch.first_atom:
        vectors[2, first, 1] = 1  # the second row of each structure
    expected = torch.cat(
        [torch.einsum("ij,kj->ki", h, v.flatten(1)) for h, v in zip(matrices, _split(vectors, batch), strict=True)], 1
    ).view_as(vectors)
    agree("products differ from the full Hessian times the vectors", potential.hvp(batch, vectors), expected, 1e-9)
    together = potential(batch, vectors=vectors)
    agree("products in one call with forces differ", together.products, expected, 1e-9)


def parameter_gradient(subject: Subject) -> None:
    """The gradient of a Hessian loss in the parameters is its derivative."""
    potential = subject.fresh()
    batch = _training_batch(subject)
    parameters = _trained(potential)
    gradient = torch.autograd.grad(_hessian_loss(potential, batch), parameters, allow_unused=True)
    require(any(g is not None for g in gradient), "no parameter has an influence on the Hessian")
    generator = torch.Generator().manual_seed(11)
    got, expected, scale = [], [], 0.0
    step = 1e-3
    for _ in range(3):
        # In units of each tensor's own size, so that none drowns among the others.
        direction = [_random_like(p, generator) * p.detach().square().mean().sqrt() for p in parameters]
        parts = [(g * d).sum() for g, d in zip(gradient, direction, strict=True) if g is not None]
        got.append(torch.stack(parts).sum())
        scale = max(scale, float(torch.stack(parts).norm()))
        values = []
        for factor in (-2, -1, 1, 2):
            _move(parameters, direction, factor * step)
            values.append(_hessian_loss(potential, batch).detach())
            _move(parameters, direction, -factor * step)
        expected.append(derivative(torch.stack(values), step)[0])
    agree(
        "the gradient of a Hessian loss differs from finite differences in the parameters",
        torch.stack(got),
        torch.stack(expected),
        1e-5,
        scale,
    )


def vectorised(subject: Subject) -> None:
    """Products formed all at once equal those formed one by one, in value and in parameter gradient."""
    batch = _training_batch(subject)
    potential = subject.potential
    vectors = vectors_for(batch, 3)
    results: dict[str, tuple[Tensor, list[Tensor]]] = {}
    backends: tuple[Backend, Backend] = ("loop", "vmap")
    for backend in backends:
        out = predict(potential, batch, vectors=vectors, create_graph=True, backend=backend)
        parameters = _trained(potential)
        gradient = torch.autograd.grad(out.products.square().mean(), parameters, allow_unused=True)
        zeros = [torch.zeros_like(p) if g is None else g for g, p in zip(gradient, parameters, strict=True)]
        results[backend] = (out.products.detach(), zeros)
    agree("vectorised products differ from looped ones", results["vmap"][0], results["loop"][0], 1e-9)
    flat = {backend: torch.cat([g.flatten() for g in result[1]]) for backend, result in results.items()}
    agree("parameter gradients of vectorised products differ from looped ones", flat["vmap"], flat["loop"], 1e-9)


def _check_hessian(subject: Subject, atoms: Atoms, which: str) -> None:
    forces_of = subject.potential.forces(subject.batch(displaced(atoms, STEP)))
    size = 3 * len(atoms)
    expected = -derivative(forces_of.view(-1, size), STEP)
    got = subject.potential.hessian(subject.batch([atoms]))[0]
    # Where the Hessian owns up to jumps, finite differences step over some of them: only gross errors are told then.
    bound = 1e-6 if subject.potential.not_c2 is None else 1e-2
    agree(f"the Hessian of {which} differs from finite differences of the forces", got, expected, bound)


def _training_batch(subject: Subject) -> Batch:
    """Structures of all kinds: general, linear along z, and an atom without neighbours."""
    return subject.batch([subject.molecule("CH3NO2"), subject.molecule("CO2", rattle=0), subject.lone_atom])


def _hessian_loss(potential: Potential, batch: Batch) -> Tensor:
    return potential.hvp(batch, vectors_for(batch), create_graph=True).square().mean()


def _trained(potential: Potential) -> list[Tensor]:
    return [p for p in potential.parameters() if p.requires_grad]


def _move(parameters: list[Tensor], direction: list[Tensor], by: float) -> None:
    with torch.no_grad():
        for parameter, d in zip(parameters, direction, strict=True):
            parameter.add_(d, alpha=by)


def _random_like(parameter: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype).to(parameter.device)


def _split(vectors: Tensor, batch: Batch) -> tuple[Tensor, ...]:
    return vectors.split(batch.n_atoms.tolist(), dim=1)
