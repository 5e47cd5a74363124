"""Items of the contract about derivatives and their continuity.

Forces, Hessians, products, and gradients of a Hessian loss are compared with finite differences. Energies must be twice
continuously differentiable in the positions (C²): a Hessian that jumps cannot be learnt where it jumps, and the loss
that contains it is not differentiable there.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from hessgnn.curvature.products import Backend, predict
from hessgnn.data.batch import Batch
from hessgnn.potentials.base import Potential
from hessgnn.testing.subject import Subject, Violation, agree, derivative, displaced, require, vectors_for

STEP = 5e-4
"""Å: balances the errors of truncation and rounding of a central difference of fourth order in float64."""


def forces(subject: Subject) -> None:
    """Forces are the negative derivative of the energy."""
    # Differences over a jump of the curvature are off by the jump times the step.
    bound = 1e-6 if subject.potential.not_c2 is None else 1e-4
    for atoms in (subject.molecule("CH3NO2"), subject.crystal):
        energy = subject.potential.energy(subject.batch(displaced(atoms, STEP)))
        expected = -derivative(energy, STEP).view(-1, 3)
        agree(
            "forces differ from finite differences of the energy",
            subject.potential.forces(subject.batch([atoms])),
            expected,
            bound,
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


def hessian_deviation(subject: Subject, atoms: Atoms) -> float:
    """Largest deviation of a Hessian from finite differences of the forces, over its largest entry."""
    got, expected = _two_hessians(subject, atoms)
    return float((got - expected).abs().max() / expected.abs().max())


def _two_hessians(subject: Subject, atoms: Atoms) -> tuple[Tensor, Tensor]:
    """The Hessian of a potential, and that by finite differences."""
    forces_of = subject.potential.forces(subject.batch(displaced(atoms, STEP)))
    expected = -derivative(forces_of.view(-1, 3 * len(atoms)), STEP)
    return subject.potential.hessian(subject.batch([atoms]))[0], expected


def _check_hessian(subject: Subject, atoms: Atoms, which: str) -> None:
    got, expected = _two_hessians(subject, atoms)
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


Path = Callable[[float], Atoms]
"""A line of geometries."""

SUSPECTS = 12
PARTS = 8
LEVELS = 3
"""How many intervals are looked into, how many parts each is divided into, and how often (at least 3)."""

NOISE = 1e-7
"""Changes below this share of the usual magnitude on the walk are not told from rounding."""


def cutoff(subject: Subject) -> None:
    """Nothing jumps while an atom is pulled from 0.5 Å through the cutoff, nor anywhere on its way."""
    potential, reach = subject.potential, subject.potential.cutoff
    direction = np.array([0.36, 0.48, 0.8])

    def pair(distance: float) -> Atoms:
        return subject.atoms([6, 8], [np.zeros(3), distance * direction])

    def triple(distance: float) -> Atoms:
        return subject.atoms([6, 8, 1], [np.zeros(3), distance * direction, [-0.3, 0.9, -0.5]])

    for path in (pair, triple):
        stop = reach + 0.2
        number = int((stop - 0.5) / 0.01) + 1
        found = find_jump(subject, potential, path, np.linspace(0.5, stop, number))
        if found is not None:
            place, name, height = found
            inside = "" if abs(place - reach) < 1e-3 else ", so an inner cutoff or an activation is the likely cause"
            raise Violation(
                f"the {name} jumps by {height:.1e} of its usual magnitude, bound {NOISE:.0e}, at a distance of "
                f"{place:.4f} Å (cutoff {reach} Å{inside})"
            )


def activations(subject: Subject) -> None:
    """Nothing jumps while a molecule that stays inside the cutoff is deformed, so that activations pass through 0."""
    start = subject.molecule("H2CO", rattle=0.02)
    displacement = np.random.default_rng(2).normal(scale=0.2, size=start.positions.shape)

    def path(t: float) -> Atoms:
        moved = start.copy()
        moved.positions += t * displacement
        return moved

    for seed in range(4):  # other weights, other activations that pass through 0
        found = find_jump(subject, subject.fresh(seed=seed), path, np.linspace(-1, 1, 121))
        if found is not None:
            _, name, height = found
            raise Violation(
                f"the {name} jumps by {height:.1e} of its usual magnitude while a molecule is deformed, "
                f"bound {NOISE:.0e}"
            )


def finite_at_cutoff(subject: Subject) -> None:
    """Pairs at the cutoff, give or take rounding, leave values and gradients of a Hessian loss finite."""
    reach = subject.potential.cutoff
    # Further ones, such as ANI's for angles, are recognised by their name.
    settings = subject.potential.config.model_dump()
    cutoffs = {reach} | {value for key, value in settings.items() if key.endswith("cutoff")}
    offsets = [0.0, 1e-12, -1e-12, 1e-9, -1e-9, 3e-8, -3e-8, 1e-7, -1e-7, 3e-7, -3e-7, 1e-6, -1e-6]
    slanted = np.array([0.36, 0.48, 0.8])
    structures = []
    for distance in [cutoff + offset for cutoff in sorted(cutoffs) for offset in offsets]:
        structures += [
            subject.atoms([6, 8], [[0, 0, 0], [0, 0, distance]]),
            subject.atoms([6, 8, 1], [[0, 0, 0], [0, 0, distance], [-0.3, 0.9, -0.5]]),
            subject.atoms([6, 8, 1], [[0, 0, 0], distance * slanted, [-0.3, 0.9, -0.5]]),
        ]
    for dtype in (torch.float32, torch.float64):
        potential = subject.fresh(dtype)
        # The loader finds neighbours in float64; in float32 some of them lie at the cutoff or beyond it.
        batch = subject.batch(structures, dtype, cutoff=reach + 2e-6)
        out = potential(batch, vectors=vectors_for(batch), create_graph=True)
        parameters = [p for p in potential.parameters() if p.requires_grad]
        gradient = torch.autograd.grad(out.products.square().mean(), parameters, allow_unused=True)
        named = [("energy", out.energy), ("forces", out.forces), ("products with the Hessian", out.products)]
        named += [("gradient of a Hessian loss in the parameters", g) for g in gradient if g is not None]
        for name, value in named:
            bad = int((~value.isfinite()).sum())
            require(
                bad == 0, f"{bad} of {value.numel()} numbers are not finite in the {name} at the cutoff, in {dtype}"
            )


def find_jump(
    subject: Subject, potential: Potential, path: Path, places: np.ndarray
) -> tuple[float, str, float] | None:
    """Look for a jump of energy, forces or Hessian along a line of geometries.

    A jump is a change that stays the same while the step that it happens in shrinks. What is watched is how far the
    change over an interval is from the mean of its two neighbours. It is of third order in the step where the Hessian
    is smooth, of first order at a kink, and of order zero at a jump. The intervals that stand out are divided again and
    again, keeping the part that stands out most.

    Parameters
    ----------
    subject
        Makes the batches.
    potential
        In float64.
    path
        Geometry for each place.
    places
        Evenly spaced.

    Returns
    -------
    tuple or None
        Place of the jump, name of the quantity, height in units of the quantity's usual magnitude; ``None`` if there is
        no jump.
    """
    values = _observe(subject, potential, path, places)
    largest = {name: v.abs().amax(1) for name, v in values.items()}
    # The median, lest a steep wall at short distance hide everything else; the share of the maximum is for rounding.
    scale = {name: float(torch.maximum(v.median(), 1e-5 * v.max())) or 1.0 for name, v in largest.items()}
    step = float(places[1] - places[0])
    roughness = torch.stack([_roughness(v) / scale[name] for name, v in values.items()]).amax(0)
    suspects = _outstanding(roughness)
    starts = places[1:-2][suspects.numpy()]
    history = []
    for _ in range(LEVELS):
        step /= PARTS
        points = starts[:, None] + step * np.arange(-1, PARTS + 2)  # one more on either side
        seen = _observe(subject, potential, path, points.ravel())
        parts = {name: _roughness(v.unflatten(0, points.shape)) / scale[name] for name, v in seen.items()}
        roughness = torch.stack(list(parts.values()))  # (quantity, suspect, part)
        best = roughness.amax(0).argmax(1)
        history.append(roughness.gather(2, best.expand(len(roughness), -1).unsqueeze(2)).squeeze(2))
        starts = points[np.arange(len(points)), 1 + best.numpy()]
    first, last = history[-3], history[-1]
    # Two levels shrink a smooth change by PARTS⁶, a kink by PARTS² and a jump not at all.
    jump = (last > NOISE) & (last > 0.25 * first)
    if not bool(jump.any()):
        return None
    height = torch.where(jump, last, 0)
    quantity, where = divmod(int(height.argmax()), height.shape[1])
    return float(starts[where]), list(values)[quantity], float(height[quantity, where])


def _observe(subject: Subject, potential: Potential, path: Path, places: np.ndarray) -> dict[str, Tensor]:
    """Energy, forces and Hessian for each place, each ``(n_places, n_numbers)``."""
    collected: dict[str, list[Tensor]] = {"energy": [], "forces": [], "Hessian": []}
    for part in np.array_split(places, -(-len(places) // 128)):  # bounds the memory
        batch = subject.batch([path(float(place)) for place in part])
        out = potential(batch)
        collected["energy"].append(out.energy.unsqueeze(1))
        collected["forces"].append(batch.pad(out.forces))
        collected["Hessian"].append(torch.stack(potential.hessian(batch)).flatten(1))
    return {name: torch.cat(parts).cpu() for name, parts in collected.items()}


def _roughness(values: Tensor) -> Tensor:
    """Difference between each change and the mean of its neighbours: ``(..., n, numbers)`` to ``(..., n - 3)``."""
    change = values.diff(dim=-2)
    middle, beside = change[..., 1:-1, :], (change[..., :-2, :] + change[..., 2:, :]) / 2
    return (middle - beside).abs().amax(-1)


def _outstanding(roughness: Tensor) -> Tensor:
    """Indices of the intervals that are rougher than their surroundings, ``(SUSPECTS,)``."""
    width = 10
    padded = torch.nn.functional.pad(roughness.view(1, 1, -1), (width, width), mode="replicate").flatten()
    usual = padded.unfold(0, 2 * width + 1, 1).median(dim=1).values
    return (roughness / (usual + NOISE)).topk(min(SUSPECTS, len(roughness))).indices
