"""ANI's atomic environment vectors with their derivatives written down.

Smith, Isayev, Roitberg, Chem. Sci. 8, 3192 (2017), eqs. 3 and 4, with torchani's constants (0.25 before the radial
terms, 0.95 before the cosine). They have no parameters and consist of functions of one variable: Gaussians and cutoffs
of a distance, Gaussians of the mean of two distances, powers of the cosine of an angle. So value, slope and curvature
of each are computed once, and forces and Hessian products of any number only multiply with them. torchani's own code
leaves all of it to autograd: a Hessian loss then differentiates ``pow``, ``acos`` and ``exp`` of every triple three
times. The angle itself is not needed: ``cos(θ - φ) = cos θ cos φ + sin θ sin φ``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hessgnn.data.batch import Batch
from hessgnn.potentials.radial import known_function

if TYPE_CHECKING:
    from torchani.aev import AEVComputer, ANIAngular, ANIRadial

SMALLEST = 2e-3
"""Where ``exp(1 - 1/u)`` is zero in any floating type, but powers of ``1/u`` are not infinite yet."""


def environment_vectors(computer: AEVComputer, species: Tensor, batch: Batch, order: int) -> Tensor:
    """Environment vectors that can be differentiated in the positions.

    Parameters
    ----------
    computer
        Holds shapes, constants and cutoffs.
    species
        ``(n_atoms,)``, index of each atom's element.
    batch
        The structures.
    order
        Derivatives in the positions that will be taken at most, 0, 1 or 2.

    Returns
    -------
    Tensor
        ``(n_atoms, computer.out_dim)``, equal to those of torchani.
    """
    i, j = batch.edge_index
    vectors = batch.edge_vectors()
    distances = vectors.norm(dim=-1)
    neighbor = species[j]
    radial = _radial(computer, distances, i * computer.num_species + neighbor, len(species), order)
    near = (distances.detach() < computer.angular.cutoff).nonzero().squeeze(-1)
    first, second = _pairs_of_edges(i[near], len(species))
    place = i[near][first] * computer.num_species_pairs
    place += computer.triu_index[neighbor[near][first], neighbor[near][second]]
    angular = _angular(
        computer, vectors.index_select(0, near), distances.index_select(0, near), first, second, place, species, order
    )
    return torch.cat([radial, angular], dim=-1)


def _radial(computer: AEVComputer, distances: Tensor, place: Tensor, n_atoms: int, order: int) -> Tensor:
    part = computer.radial
    r = distances.detach()
    envelope = [f.unsqueeze(-1) for f in _cutoff(part, r, order)]
    terms = known_function(distances, _leibniz(_gaussians(r, part.eta, part.shifts, order), envelope, 0.25))
    summed = terms.new_zeros(n_atoms * computer.num_species, part.num_feats).index_add(0, place, terms)
    return summed.view(n_atoms, -1)


def _angular(
    computer: AEVComputer,
    vectors: Tensor,
    distances: Tensor,
    first: Tensor,
    second: Tensor,
    place: Tensor,
    species: Tensor,
    order: int,
) -> Tensor:
    part = computer.angular
    envelope = known_function(distances, [f.unsqueeze(-1) for f in _cutoff(part, distances.detach(), order)])
    units = vectors / distances.unsqueeze(-1)
    cosine = (units.index_select(0, first) * units.index_select(0, second)).sum(-1)
    mean = (distances.index_select(0, first) + distances.index_select(0, second)) / 2
    angles = known_function(cosine, _powers(cosine.detach(), part.zeta, part.sections, order))
    shells = known_function(mean, _gaussians(mean.detach(), part.eta, part.shifts, order))
    weights = shells * (envelope.index_select(0, first) * envelope.index_select(0, second))
    terms = (weights.unsqueeze(2) * angles.unsqueeze(1)).flatten(1)
    summed = terms.new_zeros(len(species) * computer.num_species_pairs, part.num_feats).index_add(0, place, terms)
    return summed.view(len(species), -1)


def _pairs_of_edges(centre: Tensor, n_atoms: int) -> tuple[Tensor, Tensor]:
    """Each pair of edges with a common centre, once, as two lists of edges."""
    counts = torch.bincount(centre, minlength=n_atoms)
    a, b = torch.tril_indices(most := int(counts.max()), most, -1, device=centre.device)
    there = a < counts.unsqueeze(1)
    start = (counts.cumsum(0) - counts).unsqueeze(1)
    order = centre.argsort(stable=True)
    return order[(start + a)[there]], order[(start + b)[there]]


def _gaussians(x: Tensor, eta: Tensor, shifts: Tensor, order: int) -> list[Tensor]:
    """``exp(-η (x - s)²)`` and its derivatives."""
    offset = x.unsqueeze(-1) - shifts
    values = [torch.exp(offset.square() * -eta)]
    if order > 0:
        slope = offset * (-2 * eta)
        values.append(values[0] * slope)
    if order > 1:
        values.append(values[1] * slope - 2 * eta * values[0])
    return values


def _powers(cosine: Tensor, zeta: Tensor, sections: Tensor, order: int) -> list[Tensor]:
    """``2 ((1 + cos(θ - φ)) / 2)^ζ`` and its derivatives in cos θ."""
    exponent = float(zeta)
    c = (0.95 * cosine).unsqueeze(-1)
    s = (1 - c.square()).sqrt()  # never small: |c| < 0.95
    cos, sin = sections.cos() / 2, sections.sin() / 2
    base = 0.5 + c * cos + s * sin
    power = base.pow(exponent - 2) * 2
    values = [power * base * base]
    if order > 0:
        slope = 0.95 * (cos - c / s * sin)
        power_1 = exponent * power * base
        values.append(power_1 * slope)
    if order > 1:
        values.append(exponent * (exponent - 1) * power * slope.square() - power_1 * (0.95**2 * sin / s**3))
    return values


def _cutoff(part: ANIRadial | ANIAngular, distances: Tensor, order: int) -> list[Tensor]:
    """Torchani's smooth or cosine cutoff and its derivatives; zero beyond the cutoff."""
    x = distances / part.cutoff
    if type(part.cutoff_fn).__name__ == "CutoffCosine":
        angle = torch.pi * x
        inside = x < 1
        derivatives = [
            (0.5 * angle.cos() + 0.5) * inside,
            -0.5 * torch.pi * angle.sin() * inside,
            -0.5 * torch.pi**2 * angle.cos() * inside,
        ]
    else:
        u = (1 - x.square()).clamp(min=SMALLEST)
        value = torch.exp(1 - 1 / u)
        slope = 2 * x / u.square()
        curvature = 2 / u.square() + 8 * x.square() / u**3
        derivatives = [value, -value * slope, value * (slope.square() - curvature)]
    return [f / part.cutoff**n for n, f in enumerate(derivatives[: order + 1])]


def _leibniz(a: list[Tensor], b: list[Tensor], factor: float) -> list[Tensor]:
    """Derivatives of a product of two factors times a constant."""
    values = [factor * a[0] * b[0]]
    if len(a) > 1:
        values.append(factor * (a[1] * b[0] + a[0] * b[1]))
    if len(a) > 2:
        values.append(factor * (a[2] * b[0] + 2 * a[1] * b[1] + a[0] * b[2]))
    return values
