"""Parts that architectures share: smooth cutoffs, radial bases, activations.

Training on Hessians differentiates an energy three times (twice in positions, once in parameters). Whatever is not
twice continuously differentiable in the positions makes the Hessian jump, so only smooth parts are offered here;
the others are named so that a potential can own up to them.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


def mlp(*sizes: int, act: str, bias: bool = True) -> nn.Sequential:
    """Multilayer perceptron of these widths (input, hidden, output); no activation behind its last layer."""
    layers: list[nn.Module] = []
    for i, (n_in, n_out) in enumerate(pairwise(sizes)):
        if i:
            layers.append(Activation(act))
        layers.append(nn.Linear(n_in, n_out, bias=bias))
    return nn.Sequential(*layers)


class LayerNorm(nn.LayerNorm):
    """Layer normalisation whose third derivatives are right.

    Those of :func:`torch.nn.functional.layer_norm` are silently wrong (torch 2.13): its second backward takes mean and
    deviation, which it has saved, for constants. Energies, forces and Hessians are right, but not the gradient of a
    loss of Hessian products.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # torch's name
        """See ``torch.nn.LayerNorm``."""
        axes = tuple(range(-len(self.normalized_shape), 0))
        centred = input - input.mean(axes, keepdim=True)
        out = centred * torch.rsqrt(centred.square().mean(axes, keepdim=True) + self.eps)
        if self.elementwise_affine:
            out = out * self.weight
            out = out if self.bias is None else out + self.bias
        return out


def mend_layer_norms(module: nn.Module) -> None:
    """Let all layer normalisations inside a module be :class:`LayerNorm`; names and weights stay."""
    for part in module.modules():
        if type(part) is nn.LayerNorm:
            part.__class__ = LayerNorm


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
    """Radial Bessel functions ``sqrt(2/c) sin(nπr/c)/r``, n = 1…N (Gasteiger et al. 2020, eq. 7), fixed; c in Å."""

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
    """Gaussians ``exp(-(r - μ)² / 2σ²)`` whose centres cover 0 to the cutoff (Å), one σ apart, fixed; at least 2."""

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


HIGHEST = 4
"""Highest derivative in closed form; beyond it autograd differentiates that form, so there is no last derivative."""


class Form(ABC):
    """A function at some points, with its derivatives.

    A Hessian loss needs the third derivative of every activation. Torch has a kernel for the first one only; the second
    and third come from its differentiable formulas, a chain of ten to forty elementwise operations that each allocate.
    Here derivative ``n`` is one node of the graph whose backward is derivative ``n + 1``, and all share what they have
    in common, such as the sigmoid. The tests compare each with autograd.
    """

    def __init__(self, x: Tensor) -> None:
        self.x = x

    @abstractmethod
    def derivative(self, n: int) -> Tensor:
        """Derivative n at the points, 0 to :data:`HIGHEST`."""


class _Sigmoid(Form):
    """σ at some points, with its derivatives as polynomials of those before."""

    @cached_property
    def sigmoid0(self) -> Tensor:
        """σ."""
        return torch.sigmoid(self.x)

    @cached_property
    def sigmoid1(self) -> Tensor:
        """σ (1 - σ)."""
        return torch.addcmul(self.sigmoid0, self.sigmoid0, self.sigmoid0, value=-1)

    @cached_property
    def sigmoid2(self) -> Tensor:
        """σ' (1 - 2 σ)."""
        return torch.addcmul(self.sigmoid1, self.sigmoid1, self.sigmoid0, value=-2)

    @cached_property
    def sigmoid3(self) -> Tensor:
        """σ' (1 - 6 σ')."""
        return torch.addcmul(self.sigmoid1, self.sigmoid1, self.sigmoid1, value=-6)

    @cached_property
    def sigmoid4(self) -> Tensor:
        """σ'' (1 - 12 σ')."""
        return torch.addcmul(self.sigmoid2, self.sigmoid2, self.sigmoid1, value=-12)


class SiLU(_Sigmoid):
    """``x σ(x)``, whose derivatives are ``f⁽ⁿ⁾ = x σ⁽ⁿ⁾ + n σ⁽ⁿ⁻¹⁾``."""

    def derivative(self, n: int) -> Tensor:
        """See :meth:`Form.derivative`."""
        if n == 0:
            return functional.silu(self.x)
        return (self.x * getattr(self, f"sigmoid{n}")).add_(getattr(self, f"sigmoid{n - 1}"), alpha=n)


class Softplus(_Sigmoid):
    """``log(1 + eˣ)``, whose derivatives are those of the sigmoid."""

    def derivative(self, n: int) -> Tensor:
        """See :meth:`Form.derivative`."""
        return functional.softplus(self.x) if n == 0 else getattr(self, f"sigmoid{n - 1}")


class GELU(Form):
    """``x Φ(x)`` with the normal distribution Φ; its derivatives are polynomials times the density φ."""

    @cached_property
    def density(self) -> Tensor:
        """φ."""
        return torch.exp((self.square * -0.5).sub_(0.5 * math.log(2 * math.pi)))

    @cached_property
    def square(self) -> Tensor:
        """x²."""
        return self.x.square()

    def derivative(self, n: int) -> Tensor:
        """See :meth:`Form.derivative`."""
        if n == 0:
            return functional.gelu(self.x)
        if n == 1:
            return torch.addcmul(torch.special.ndtr(self.x), self.x, self.density)
        if n == 2:
            return self.density * (2 - self.square)
        if n == 3:
            return self.density * self.x * (self.square - 4)
        return self.density * ((7 - self.square) * self.square - 4)


class Tanh(Form):
    """Hyperbolic tangent; its derivatives are polynomials of itself."""

    @cached_property
    def value(self) -> Tensor:
        """Tanh."""
        return torch.tanh(self.x)

    @cached_property
    def slope(self) -> Tensor:
        """1 - tanh²."""
        return 1 - self.value.square()

    def derivative(self, n: int) -> Tensor:
        """See :meth:`Form.derivative`."""
        if n < 2:
            return self.slope if n else self.value
        if n == 2:
            return self.slope * self.value * -2
        if n == 3:
            return self.slope * (6 * self.value.square() - 2)
        return self.slope * self.value * (16 - 24 * self.value.square())


FORMS: dict[str, type[Form]] = {"silu": SiLU, "gelu": GELU, "softplus": Softplus, "tanh": Tanh}
"""Activations that are infinitely often differentiable."""


class Activation(nn.Module):
    """A smooth activation, one of :data:`FORMS`, as a module without parameters."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name, self.form = name, FORMS[name]

    def forward(self, x: Tensor) -> Tensor:
        """Apply it elementwise."""
        # Functorch's transforms take plain operations only, and without a graph there is nothing to save.
        if not (torch.is_grad_enabled() and x.requires_grad) or torch._C._are_functorch_transforms_active():
            return self.form(x).derivative(0)
        return _Derivative.apply(x, self.form(x.detach()), 0)

    def extra_repr(self) -> str:
        """Its name."""
        return self.name


class _Derivative(torch.autograd.Function):
    """Derivative n of a form as a node of the graph."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, form: Form, n: int) -> Tensor:
        ctx.save_for_backward(x)
        ctx.form, ctx.n = form, n
        return form.derivative(n)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        n = ctx.n + 1
        if not torch.is_grad_enabled():
            return gradient * ctx.form.derivative(n), None, None
        slope = type(ctx.form)(x).derivative(n) if n == HIGHEST else _Derivative.apply(x, ctx.form, n)
        return gradient * slope, None, None
