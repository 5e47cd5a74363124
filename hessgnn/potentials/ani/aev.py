"""ANI's atomic environment vectors with their derivatives in closed form.

Smith, Isayev, Roitberg, Chem. Sci. 8, 3192 (2017), eqs. 3 and 4, with torchani's constants (0.25 before the radial
terms, 0.95 before the cosine). The vectors G have no parameters. A radial term is a function of one distance, an
angular one ``S_k(r, r') A_l(cos θ)`` of two distances and one cosine. So all that forces and Hessians ask of the many
features of a triple of atoms are products of S, A and their derivatives, and G, ``∂G·v``, ``∂Gᵀu`` and ``Σ u ∂²G v``
are a few multiplications each, for any number of v. torchani's own code leaves all of it to autograd: a Hessian loss
then differentiates ``pow``, ``acos`` and ``exp`` of every triple three times. The angle itself is not needed:
``cos(θ - φ) = cos θ cos φ + sin θ sin φ``.

Edges or triples are the last axis of all tensors: behind them, the short axes of S and A would be the innermost loops.
A list of two tensors belongs to the first and the second edge of each triple.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hessgnn.data.neighbors import pairs_of_edges

if TYPE_CHECKING:
    from torchani.aev import AEVComputer, ANIAngular, ANIRadial

SMALLEST = 2e-3
"""Where ``exp(1 - 1/u)`` is zero in any floating type, but powers of ``1/u`` are not infinite yet."""

ONE_AND_OTHER = ((0, 1), (1, 0))


class Environment:
    """Environment vectors of some atoms, as functions of the vectors to their neighbours.

    Parameters
    ----------
    computer
        Holds shapes, constants and cutoffs.
    n_rows
        How many atoms.
    row, neighbor
        ``(n_edges,)``: which of them is the centre of each edge, and the element of its neighbour.
    vectors
        ``(n_edges, 3)``, Å, from the centre to the neighbour.
    order
        Derivatives that will be asked for, at most 2.
    triplets
        ``(2, n_triples)``, each pair of edges with a common centre that lie inside the angular cutoff, if known.
    """

    def __init__(
        self,
        computer: AEVComputer,
        n_rows: int,
        row: Tensor,
        neighbor: Tensor,
        vectors: Tensor,
        order: int,
        triplets: Tensor | None = None,
    ) -> None:
        radial, angular = computer.radial, computer.angular
        self.n_rows, self.n_species, self.n_pairs = n_rows, computer.num_species, computer.num_species_pairs
        self.row, self.neighbor = row, neighbor
        distances = vectors.norm(dim=-1)
        self.inverse = 1 / distances
        self.units = vectors.T * self.inverse
        self.radial_place = row * self.n_species + neighbor
        self.radial = _leibniz(
            _gaussians(distances, radial.eta, radial.shifts, order), _cutoff(radial, distances, order), 0.25
        )
        if triplets is None:
            near = (distances < angular.cutoff).nonzero().squeeze(-1)
            triplets = near[pairs_of_edges(row[near], n_rows)]
        self.edges = first, second = triplets.unbind()
        elements = neighbor.index_select(0, first) * self.n_species + neighbor.index_select(0, second)
        pair = computer.triu_index.flatten().index_select(0, elements)
        self.angular_place = row.index_select(0, first) * self.n_pairs + pair
        self.unit = self._of_triples(self.units)
        self.inverses = self._of_triples(self.inverse)
        self.cosine = (self.unit[0] * self.unit[1]).sum(0)
        self.slopes = [
            (self.unit[other] - self.cosine * self.unit[one]) * self.inverses[one] for one, other in ONE_AND_OTHER
        ]
        """Derivatives of the cosine in the vectors of its edges, ``(3, n_triples)``."""
        mean = (distances.index_select(0, first) + distances.index_select(0, second)) / 2
        envelopes = zip(*(self._of_triples(f) for f in _cutoff(angular, distances, order)), strict=True)
        self.shells = _products(_gaussians(mean, angular.eta, angular.shifts, order), *envelopes)
        self.angles = _powers(self.cosine, angular.zeta, angular.sections, order)

    def jet(self, displaced: Displacement | None = None) -> Tensor:
        """G and, behind it, ``∂G·v`` for each displacement, ``(n_rows, 1 + K, n_features)``."""
        radial, shells = self.radial[0].unsqueeze(0), self.shells[0].unsqueeze(0)
        if displaced is None:
            return self._sum(radial, _outer(shells, self.angles[0]))
        radial = torch.cat([radial, self.radial[1] * displaced.distance.unsqueeze(-2)])
        terms = _outer(torch.cat([shells, self._shell_changes(displaced)]), self.angles[0])
        terms[1:] += _outer(self.shells[0], self.angles[1] * displaced.cosine.unsqueeze(-2))
        return self._sum(radial, terms)

    def pull(self, u: Tensor, displaced: Displacement | None = None) -> Tensor:
        """Take a derivative in the environment vectors back to the edges.

        From ``u`` and its changes ``u'`` along each of K displacements, ``(n_rows, 1 + K, n_features)``, to ``∂Gᵀu``
        and its changes ``∂Gᵀu' + Σ u ∂²G v``, ``(1 + K, 3, n_edges)``.
        """
        radial, angular = self._gather(u)
        slope = (radial * self.radial[1]).sum(-2)
        inner, bend = self._slopes(angular)
        if displaced is not None:
            d, c = displaced.distances, displaced.cosine
            s11, s12, s22, s1c, s2c, scc = self._curvatures(angular[0])
            slope[1:] += (radial[0] * self.radial[2]).sum(0) * displaced.distance
            inner[0][1:] += s11 * d[0] + s12 * d[1] + s1c * c
            inner[1][1:] += s12 * d[0] + s22 * d[1] + s2c * c
            bend[1:] += s1c * d[0] + s2c * d[1] + scc * c
        for edge, g in zip(self.edges, inner, strict=True):
            slope.index_add_(-1, edge, g)
        out = self.units * slope.unsqueeze(-2)
        if displaced is not None:
            out[1:] += displaced.units * slope[0]
        for n, edge in enumerate(self.edges):
            force = self.slopes[n] * bend.unsqueeze(-2)
            if displaced is not None:
                force[1:] += displaced.slopes[n] * bend[0]
            out.index_add_(-1, edge, force)
        return out

    def push(self, x: Displacement, displaced: Displacement | None = None) -> Tensor:
        """Transpose of :meth:`pull`, for ``1 + K`` changes x of the edges and the K displacements v.

        Returns ``∂G·x_0 + Σ_k ∂²G(v_k, x_k)``, and ``∂G·x_k``: ``(n_rows, 1 + K, n_features)``.
        """
        s, s1, s2, *curved = self.shells
        if displaced is not None:
            x.add_second_order(displaced)
        radial = self.radial[1] * x.distance.unsqueeze(-2)
        by_angle = [self._shell_changes(x), s * x.cosine.unsqueeze(-2)]
        if displaced is None:
            return self._sum(radial, _outer(by_angle[0], self.angles[0]) + _outer(by_angle[1], self.angles[1]))
        (d1, d2), c, (x1, x2), xc = displaced.distances, displaced.cosine, (f[1:] for f in x.distances), x.cosine[1:]
        radial[0] += self.radial[2] * (displaced.distance * x.distance[1:]).sum(0)
        for f, change in zip(curved, (d1 * x1, d1 * x2 + d2 * x1, d2 * x2), strict=True):
            by_angle[0][0] += f * change.sum(0)
        for f, change in zip((s1, s2), (d1 * xc + c * x1, d2 * xc + c * x2), strict=True):
            by_angle[1][0] += f * change.sum(0)
        terms = _outer(by_angle[0], self.angles[0]).add_(_outer(by_angle[1], self.angles[1]))
        terms[0] += _outer(s, self.angles[2] * (c * xc).sum(0))
        return self._sum(radial, terms)

    def edge_tangents(self) -> Tensor:
        """Derivatives of G in the vector of each edge, ``(n_edges, 3, n_columns)``.

        Only those features are there that contain the edge's neighbour: those of its element, then those of its
        element and each other one.
        """
        radial = self.units.unsqueeze(1) * self.radial[1]
        s, s1, s2, *_ = self.shells
        bend = _outer(s, self.angles[1]).flatten(0, 1)
        angular = bend.new_zeros(3, len(bend), len(self.neighbor) * self.n_species)
        for (one, other), shell in zip(ONE_AND_OTHER, (s1, s2), strict=True):
            terms = self.unit[one].unsqueeze(1) * _outer(shell, self.angles[0]).flatten(0, 1)
            terms.addcmul_(self.slopes[one].unsqueeze(1), bend)
            angular.index_add_(-1, self.edges[one] * self.n_species + self.neighbor[self.edges[other]], terms)
        angular = angular.unflatten(-1, (-1, self.n_species)).permute(2, 0, 3, 1).flatten(2)
        return torch.cat([radial.permute(2, 0, 1), angular], dim=-1)

    def edge_curvatures(self, u: Tensor, slot: Tensor, most: int) -> Tensor:
        """``Σ u ∂²G`` in the vectors of the edges of each atom, ``(n_rows, most, most, 3, 3)``.

        ``u`` is ``(n_rows, n_features)``; ``slot`` ``(n_edges,)`` is the place of each edge among those of its centre,
        of which there are ``most``.
        """
        radial, angular = (part[0] for part in self._gather(u.unsqueeze(1)))
        inner, bend = self._slopes(angular)
        s11, s12, s22, s1c, s2c, scc = self._curvatures(angular)
        slope, curvature = ((radial * self.radial[n]).sum(0) for n in (1, 2))
        mixed = torch.zeros_like(self.units)
        own = self.row * most + slot  # of an edge, among the places of all atoms
        flat = mixed.new_zeros(3, 3, self.n_rows * most * most)
        for n, (along, with_cosine) in enumerate(((s11, s1c), (s22, s2c))):
            edge, a = self.edges[n], self.slopes[n]
            shrink = bend * self.inverses[n]
            slope.index_add_(0, edge, inner[n] - self.cosine * shrink)
            curvature.index_add_(0, edge, along)
            mixed.index_add_(1, edge, a * (with_cosine - shrink))
            flat.index_add_(-1, (own * most + slot)[edge], _dyad(a, a * scc))
        transverse = slope * self.inverse
        bent = _dyad(self.units, self.units * (curvature - transverse) + mixed) + _dyad(mixed, self.units)
        bent.diagonal().add_(transverse.unsqueeze(-1))
        flat.index_add_(-1, own * most + slot, bent)
        (r1, r2), (a1, a2), (first, second) = self.unit, self.slopes, self.edges
        across = bend * self.inverses[0] * self.inverses[1]
        cross = _dyad(r1, s12 * r2 + (s1c - bend * self.inverses[0]) * a2)
        cross += _dyad(a1, s2c * r2 + scc * a2)
        cross -= _dyad(r2, across * r2)
        cross.diagonal().add_(across.unsqueeze(-1))
        flat.index_add_(-1, own[first] * most + slot[second], cross)
        flat.index_add_(-1, own[second] * most + slot[first], cross.transpose(0, 1))
        return flat.view(3, 3, self.n_rows, most, most).permute(2, 3, 4, 0, 1)

    def _slopes(self, angular: Tensor) -> tuple[list[Tensor], Tensor]:
        """Sum derivatives in the two distances, and in the cosine, over the features with weights."""
        s, s1, s2, *_ = self.shells
        straight = (angular * self.angles[0]).sum(-2)
        return [(straight * s1).sum(-2), (straight * s2).sum(-2)], ((angular * self.angles[1]).sum(-2) * s).sum(-2)

    def _curvatures(self, angular: Tensor) -> tuple[Tensor, ...]:
        """Sum second derivatives (rr, rr', r'r', rc, r'c, cc) over the features with weights ``(4, 8, n_triples)``."""
        s, s1, s2, *curved = self.shells
        straight, bent, twice = ((angular * f).sum(-2) for f in self.angles)
        pairs = (*((straight, f) for f in curved), (bent, s1), (bent, s2), (twice, s))
        return tuple((weights * f).sum(-2) for weights, f in pairs)

    def _shell_changes(self, displaced: Displacement) -> Tensor:
        d1, d2 = (d.unsqueeze(-2) for d in displaced.distances)
        return self.shells[1] * d1 + self.shells[2] * d2

    def _of_triples(self, per_edge: Tensor) -> list[Tensor]:
        return [gather_columns(per_edge, edge) for edge in self.edges]

    def _sum(self, radial: Tensor, angular: Tensor) -> Tensor:
        """Sum ``(K, shifts, n_edges)`` and ``(K, shells, angles, n_triples)`` over the neighbours of each atom."""
        places = (
            (radial, self.radial_place, self.n_species),
            (angular.flatten(1, 2), self.angular_place, self.n_pairs),
        )
        parts = []
        for terms, place, n in places:
            summed = terms.new_zeros(*terms.shape[:2], self.n_rows * n).index_add_(-1, place, terms)
            parts.append(summed.unflatten(-1, (self.n_rows, n)).permute(2, 0, 3, 1).flatten(-2))
        return torch.cat(parts, dim=-1)

    def _gather(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Transpose of :meth:`_sum`."""
        n_radial, n_angular = len(self.radial[0]), self.shells[0].shape[0] * self.angles[0].shape[0]
        radial, angular = u.split([n_radial * self.n_species, n_angular * self.n_pairs], dim=-1)
        out = [
            gather_columns(part.unflatten(-1, (-1, n)).permute(1, 3, 0, 2).flatten(2), place)
            for part, n, place in ((radial, n_radial, self.radial_place), (angular, n_angular, self.angular_place))
        ]
        return out[0], out[1].unflatten(1, (len(self.shells[0]), -1))


class Displacement:
    """Changes of distances and cosines when the vectors of the edges change by ``vectors`` ``(K, 3, n_edges)``."""

    def __init__(self, environment: Environment, vectors: Tensor) -> None:
        e = self.environment = environment
        self.vectors = vectors
        self.distance = (e.units * vectors).sum(-2)
        self.distances = e._of_triples(self.distance)
        self.triples = e._of_triples(vectors)
        self.cosine = (e.slopes[0] * self.triples[0]).sum(-2).add_((e.slopes[1] * self.triples[1]).sum(-2))

    @cached_property
    def units(self) -> Tensor:
        """Changes of the edges' unit vectors, ``(K, 3, n_edges)``."""
        e = self.environment
        return (self.vectors - e.units * self.distance.unsqueeze(-2)) * e.inverse

    @cached_property
    def slopes(self) -> list[Tensor]:
        """Changes of the cosine's derivatives in the vectors of its edges, ``(K, 3, n_triples)``."""
        e, changes, cosine = self.environment, self.environment._of_triples(self.units), self.cosine.unsqueeze(-2)
        slopes = []
        for one, other in ONE_AND_OTHER:
            change = changes[other] - cosine * e.unit[one] - e.cosine * changes[one]
            slopes.append((change - e.slopes[one] * self.distances[one].unsqueeze(-2)) * e.inverses[one])
        return slopes

    def add_second_order(self, other: Displacement) -> None:
        """Add what displacements 1 to K do together with those of another one to the displacement 0."""
        distance = (self.vectors[1:] * other.units).sum((0, 1))
        self.distance[0] += distance
        for mine, part in zip(self.distances, self.environment._of_triples(distance), strict=True):
            mine[0] += part
        for vector, slope in zip(self.triples, other.slopes, strict=True):
            self.cosine[0] += (vector[1:] * slope).sum((0, 1))


def gather_columns(x: Tensor, index: Tensor) -> Tensor:
    """``x[..., index]`` of ``(..., n)``: there torch's gather is several times as fast as its index_select."""
    if x.ndim == 1:
        return x.index_select(0, index)
    return x.gather(-1, index.expand(*x.shape[:-1], -1))


def _outer(shells: Tensor, angles: Tensor) -> Tensor:
    """``(..., shells, angles, n_triples)``."""
    return shells.unsqueeze(-2) * angles.unsqueeze(-3)


def _dyad(a: Tensor, b: Tensor) -> Tensor:
    """``a bᵀ`` of vectors ``(3, n)``, ``(3, 3, n)``."""
    return a.unsqueeze(1) * b.unsqueeze(0)


def _products(g: list[Tensor], a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> list[Tensor]:
    """``g((r + r')/2) a(r) b(r')`` and its derivatives in r, r', then rr, rr', r'r', each ``(shells, n_triples)``."""
    values = [g[0] * (a[0] * b[0])]
    if len(g) > 1:
        half = g[1] / 2
        values += [half * (a[0] * b[0]) + g[0] * (a[1] * b[0]), half * (a[0] * b[0]) + g[0] * (a[0] * b[1])]
    if len(g) > 2:
        quarter = g[2] / 4 * (a[0] * b[0])
        values += [
            quarter + g[1] * (a[1] * b[0]) + g[0] * (a[2] * b[0]),
            quarter + half * (a[1] * b[0] + a[0] * b[1]) + g[0] * (a[1] * b[1]),
            quarter + g[1] * (a[0] * b[1]) + g[0] * (a[0] * b[2]),
        ]
    return values


def _gaussians(x: Tensor, eta: Tensor, shifts: Tensor, order: int) -> list[Tensor]:
    """``exp(-η (x - s)²)`` and its derivatives, ``(n_shifts, n)``."""
    offset = x - shifts.unsqueeze(-1)
    values = [torch.exp(offset.square() * -eta)]
    if order > 0:
        slope = offset * (-2 * eta)
        values.append(values[0] * slope)
    if order > 1:
        values.append(values[1] * slope - 2 * eta * values[0])
    return values


def _powers(cosine: Tensor, zeta: Tensor, sections: Tensor, order: int) -> list[Tensor]:
    """``2 ((1 + cos(θ - φ)) / 2)^ζ`` and its derivatives in cos θ, ``(n_sections, n)``."""
    exponent = float(zeta)
    c = 0.95 * cosine
    s = (1 - c.square()).sqrt()  # never small: |c| < 0.95
    cos, sin = sections.cos().unsqueeze(-1) / 2, sections.sin().unsqueeze(-1) / 2
    base = 0.5 + c * cos + s * sin
    power = _power(base, exponent - 2) * 2
    values = [power * base * base]
    if order > 0:
        slope = 0.95 * (cos - c / s * sin)
        power_1 = exponent * power * base
        values.append(power_1 * slope)
    if order > 1:
        values.append(exponent * (exponent - 1) * power * slope.square() - power_1 * (0.95**2 * sin / s**3))
    return values


def _power(x: Tensor, exponent: float) -> Tensor:
    """``x`` to some power; to a whole one by squaring, which is many times faster than ``pow``."""
    if exponent < 1 or not exponent.is_integer():
        return x.pow(exponent)
    bits = bin(int(exponent))[3:]  # behind the leading one
    result = x
    for bit in bits:
        result = result.square()
        if bit == "1":
            result = result * x
    return result


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
