"""Smooth activations that know their own derivatives.

A Hessian loss needs the third derivative of every activation. Torch has a kernel for the first one only; the second
and third come from its differentiable formulas, a chain of ten to forty elementwise operations that each allocate. Here
derivative ``n`` is one node of the graph whose backward is derivative ``n + 1``, and all share what they have in
common, such as the sigmoid. Each is proven against autograd in the tests.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

HIGHEST = 4
"""Highest derivative in closed form; beyond it autograd differentiates that form, so there is no last derivative."""


class Form(ABC):
    """A function at some points, with its derivatives."""

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
        """Derivative n at the points, 0 to :data:`HIGHEST`."""
        if n == 0:
            return functional.silu(self.x)
        return (self.x * getattr(self, f"sigmoid{n}")).add_(getattr(self, f"sigmoid{n - 1}"), alpha=n)


class Softplus(_Sigmoid):
    """``log(1 + eˣ)``, whose derivatives are those of the sigmoid."""

    def derivative(self, n: int) -> Tensor:
        """Derivative n at the points, 0 to :data:`HIGHEST`."""
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
        """Derivative n at the points, 0 to :data:`HIGHEST`."""
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
        """Derivative n at the points, 0 to :data:`HIGHEST`."""
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
    """A smooth activation as a module without parameters.

    Parameters
    ----------
    name
        A key of :data:`FORMS`.
    """

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
