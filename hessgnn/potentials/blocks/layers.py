"""Parts that architectures share: smooth cutoffs, radial bases, activations.

Training on Hessians differentiates an energy three times (twice in positions, once in parameters). Whatever is not
twice continuously differentiable in the positions makes the Hessian jump, so only smooth parts are offered here;
the others are named so that a potential can own up to them.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from hessgnn.potentials.blocks.activations import Activation


def activation(name: str) -> nn.Module:
    """Build a smooth activation.

    Parameters
    ----------
    name
        A key of :data:`~hessgnn.potentials.blocks.activations.FORMS`.

    Returns
    -------
    nn.Module
        The activation.
    """
    return Activation(name)


def mlp(*sizes: int, act: str, bias: bool = True) -> nn.Sequential:
    """Build a multilayer perceptron without activation behind its last layer.

    Parameters
    ----------
    *sizes
        Width of the input, of each hidden layer, and of the output.
    act
        Name of the activation.
    bias
        Whether the layers have biases.

    Returns
    -------
    nn.Sequential
        The layers.
    """
    layers: list[nn.Module] = []
    for i, (n_in, n_out) in enumerate(pairwise(sizes)):
        if i:
            layers.append(activation(act))
        layers.append(nn.Linear(n_in, n_out, bias=bias))
    return nn.Sequential(*layers)


class PolynomialCutoff(nn.Module):
    """Polynomial envelope: 1 at r = 0, zero with ``p - 1``... three derivatives at the cutoff.

    Gasteiger, Groß, Günnemann, "Directional Message Passing for Molecular Graphs" (ICLR 2020), eq. 8:
    ``1 - (p+1)(p+2)/2 x^p + p(p+2) x^(p+1) - p(p+1)/2 x^(p+2)``. Value, first and second derivative vanish at
    ``x = r/cutoff = 1``, so an energy that is multiplied by it is C².

    Parameters
    ----------
    cutoff
        Å.
    p
        Degree, at least 6.
    """

    def __init__(self, cutoff: float, p: int = 6) -> None:
        super().__init__()
        self.cutoff, self.p = cutoff, p

    def forward(self, distances: Tensor) -> Tensor:
        """Envelope of each distance, same shape; zero beyond the cutoff."""
        p = self.p
        x = distances / self.cutoff
        power = x.pow(p)
        value = 1 - power * ((p + 1) * (p + 2) / 2 - x * (p * (p + 2) - x * (p * (p + 1) / 2)))
        return value * (x < 1)

    @torch.no_grad()
    def derivatives(self, distances: Tensor, order: int) -> Tensor:
        """Value and derivatives in the distance up to an order of at most 2, ``(order + 1, *shape)``."""
        p = self.p
        x = distances / self.cutoff
        rest = (1 - x).clamp(min=0)
        factor = -p * (p + 1) * (p + 2) / 2
        values = [self(distances)]
        if order > 0:
            values.append(factor / self.cutoff * x.pow(p - 1) * rest.square())
        if order > 1:
            values.append(factor / self.cutoff**2 * x.pow(p - 2) * rest * ((p - 1) * rest - 2 * x))
        return torch.stack(values)


class BesselBasis(nn.Module):
    """Radial Bessel functions ``sqrt(2/c) sin(nπr/c)/r``, n = 1…N (Gasteiger et al. 2020, eq. 7), fixed.

    Parameters
    ----------
    cutoff
        Å.
    n_basis
        Number of functions.
    """

    frequencies: Tensor

    def __init__(self, cutoff: float, n_basis: int) -> None:
        super().__init__()
        self.cutoff = cutoff
        self.register_buffer("frequencies", torch.arange(1, n_basis + 1) * math.pi / cutoff, persistent=False)

    def forward(self, distances: Tensor) -> Tensor:
        """Values ``(n_edges, n_basis)`` for distances ``(n_edges,)``, which must not be zero."""
        r = distances.unsqueeze(-1)
        return math.sqrt(2 / self.cutoff) * torch.sin(self.frequencies * r) / r

    @torch.no_grad()
    def derivatives(self, distances: Tensor, order: int) -> Tensor:
        """Value and derivatives in the distance up to an order of at most 2, ``(order + 1, n_edges, n_basis)``."""
        r, k = distances.unsqueeze(-1), self.frequencies
        amplitude = math.sqrt(2 / self.cutoff)
        sine = amplitude * torch.sin(k * r)
        values = [sine / r]
        if order > 0:  # from differentiating r f = sin(k r)
            values.append((k * amplitude * torch.cos(k * r) - values[0]) / r)
        if order > 1:
            values.append((-k.square() * sine - 2 * values[1]) / r)
        return torch.stack(values)


class GaussianBasis(nn.Module):
    """Gaussians ``exp(-(r - μ)² / 2σ²)`` whose centres cover 0 to the cutoff, one σ apart, fixed.

    Parameters
    ----------
    cutoff
        Å.
    n_basis
        Number of functions, at least 2.
    """

    offset: Tensor

    def __init__(self, cutoff: float, n_basis: int) -> None:
        super().__init__()
        self.register_buffer("offset", torch.linspace(0, cutoff, n_basis))
        self.sharpness = 0.5 * ((n_basis - 1) / cutoff) ** 2

    def forward(self, distances: Tensor) -> Tensor:
        """Values ``(n_edges, n_basis)`` for distances ``(n_edges,)``."""
        return torch.exp(-self.sharpness * (distances.unsqueeze(-1) - self.offset).square())

    @torch.no_grad()
    def derivatives(self, distances: Tensor, order: int) -> Tensor:
        """Value and derivatives in the distance up to an order of at most 2, ``(order + 1, n_edges, n_basis)``."""
        slope = -2 * self.sharpness * (distances.unsqueeze(-1) - self.offset)
        values = [self(distances)]
        if order > 0:
            values.append(values[0] * slope)
        if order > 1:
            values.append(values[0] * (slope.square() - 2 * self.sharpness))
        return torch.stack(values)
