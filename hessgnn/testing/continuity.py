"""Items of the contract about continuity: energies twice continuously differentiable in the positions (C²).

A Hessian that jumps cannot be learnt where it jumps, and the loss that contains it is not differentiable there.
Each walk below evaluates energy, forces and Hessian along a line of geometries and looks for jumps: a change that
stays the same while the step that it happens in shrinks.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from hessgnn.potentials.base import Potential
from hessgnn.testing.subject import Subject, Violation, require, vectors_for

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

    What is watched is how far the change over an interval is from the mean of its two neighbours. It is of third
    order in the step where the Hessian is smooth, of first order at a kink, and of order zero at a jump. The
    intervals that stand out are divided again and again, keeping the part that stands out most.

    Parameters
    ----------
    subject
        Makes the batches.
    potential
        The potential, in float64.
    path
        Geometry for each place.
    places
        Evenly spaced.

    Returns
    -------
    tuple or None
        Place of the jump, name of the quantity, height in units of the quantity's usual magnitude; ``None`` if
        there is no jump.
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
