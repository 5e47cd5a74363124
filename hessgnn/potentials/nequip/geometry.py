"""Spherical harmonics and length of edge vectors with their first and second derivatives."""

from __future__ import annotations

from collections.abc import Callable

import torch
from e3nn import o3
from torch import Tensor, nn

_ORDERS = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (2, 0, 0), (1, 1, 0), (1, 0, 1), (0, 2, 0), (0, 1, 1), (0, 0, 2)]
"""How often each monomial is differentiated in x, y and z: value, gradient, upper triangle of the second derivative."""

_TRIANGLE = [0, 1, 2, 1, 3, 4, 2, 4, 5]
"""Entry of the triangle for each entry of the symmetric matrix."""


class EdgeFunctions(nn.Module):
    """Harmonics of :func:`e3nn.o3.spherical_harmonics` ('component', of the unit vector) and the length of a vector.

    The harmonics of degree l are homogeneous polynomials P of degree l, so their derivatives are polynomials too: with
    the unit vector u of r, ``Y = P(u)``,

        ``∂_a Y = (P_a - l u_a P) / r``,
        ``∂_a ∂_b Y = (P_ab - l (u_a P_b + u_b P_a) + l (l + 2) u_a u_b P - l δ_ab P) / r²``.
    """

    coefficients: Tensor
    degree: Tensor
    sign: Tensor
    powers: Tensor
    orders: Tensor
    triangle: Tensor

    def __init__(self, l_max: int) -> None:
        super().__init__()
        self.l_max = l_max
        each = range(l_max + 1)
        powers = [(a, b, c) for a in each for b in each for c in each if a + b + c <= l_max]
        self.exact = _coefficients(l_max, powers)
        degree = torch.tensor([degree for degree in range(l_max + 1) for _ in range(2 * degree + 1)])
        self.register_buffer("coefficients", self.exact.to(torch.get_default_dtype()), persistent=False)
        self.register_buffer("degree", degree.to(torch.get_default_dtype()), persistent=False)
        self.register_buffer("sign", 1 - 2 * (degree.to(torch.get_default_dtype()) % 2), persistent=False)
        self.register_buffer("powers", torch.tensor(powers), persistent=False)
        self.register_buffer("orders", torch.tensor(_ORDERS), persistent=False)
        self.register_buffer("triangle", torch.tensor(_TRIANGLE), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> EdgeFunctions:
        """Move and convert as any module, but do not make float64 from rounded coefficients."""
        super()._apply(fn, recurse)
        self.coefficients = self.exact.to(self.coefficients)
        return self

    def forward(self, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Values ``(n, m)``, first ``(n, m, 3)`` and second derivatives ``(n, m, 3, 3)`` for vectors ``(n, 3)``.

        The last of the m functions is the length.
        """
        length = vectors.norm(dim=1)
        u, s = vectors / length.unsqueeze(1), 1 / length[:, None, None]
        p = self._polynomials(u)
        value, slope = p[0], p[1:4].permute(1, 2, 0)
        curvature = p[4:].index_select(0, self.triangle).permute(1, 2, 0).unflatten(2, (3, 3))
        degree, unit = self.degree[:, None], torch.eye(3, dtype=u.dtype, device=u.device)
        along = degree * u.unsqueeze(1)  # (n, m, 3)
        outer = u.unsqueeze(2) * u.unsqueeze(1)
        cross = along.unsqueeze(3) * slope.unsqueeze(2)
        # Per degree and edge: what multiplies the polynomial itself.
        radial = (degree * (degree + 2)).unsqueeze(2) * outer.unsqueeze(1) - degree.unsqueeze(2) * unit
        first = (slope - along * value.unsqueeze(2)) * s
        twice = (curvature - cross - cross.transpose(2, 3) + radial * value[..., None, None]) * s.square().unsqueeze(3)
        return (
            torch.cat([value, length.unsqueeze(1)], 1),
            torch.cat([first, u.unsqueeze(1)], 1),
            torch.cat([twice, ((unit - outer) * s).unsqueeze(1)], 1),
        )

    def _polynomials(self, u: Tensor) -> Tensor:
        """Value, gradient and upper triangle of the second derivative of the polynomials, ``(10, n, n_harmonics)``."""
        powers = [torch.ones_like(u)]
        for _ in range(self.l_max):
            powers.append(powers[-1] * u)
        zero, degrees = torch.zeros_like(u), range(self.l_max + 1)
        slopes = [k * powers[k - 1] if k else zero for k in degrees]
        curvatures = [k * (k - 1) * powers[k - 2] if k > 1 else zero for k in degrees]
        table = torch.stack([torch.stack(group) for group in (powers, slopes, curvatures)])
        table = table.flatten(0, 1).movedim(2, 0).contiguous()  # (3, order and power, n)
        place = self.orders.unsqueeze(1) * (self.l_max + 1) + self.powers  # (10, n_monomials, 3)
        monomials = [table[axis].index_select(0, place[..., axis].flatten()) for axis in range(3)]
        joint = (monomials[0] * monomials[1] * monomials[2]).unflatten(0, place.shape[:2])
        return joint.transpose(1, 2) @ self.coefficients


def _coefficients(l_max: int, powers: list[tuple[int, int, int]]) -> Tensor:
    """Coefficients of the monomials, ``(n_monomials, n_harmonics)`` in float64, from e3nn's own values."""
    points = torch.randn(16 * len(powers), 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    points = points / points.norm(dim=1, keepdim=True)
    monomials = points.unsqueeze(1).pow(torch.tensor(powers)).prod(2)
    columns = []
    for degree in range(l_max + 1):
        own = [k for k, e in enumerate(powers) if sum(e) == degree]  # on a sphere, others would not be independent
        values = o3.spherical_harmonics(degree, points, normalize=False, normalization="component")
        found = torch.linalg.lstsq(monomials[:, own], values).solution
        found[found.abs() < 1e-10] = 0
        column = torch.zeros(len(powers), 2 * degree + 1, dtype=torch.float64)
        column[own] = found
        columns.append(column)
    return torch.cat(columns, 1)
