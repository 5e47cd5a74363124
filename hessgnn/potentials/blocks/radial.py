"""Networks of a distance with their first two derivatives, propagated forward.

A filter ``W(r)`` of continuous-filter or tensor-product convolutions is a network of one number per edge. Whatever a
Hessian product asks of it is ``W``, ``W'`` or ``W''``: three numbers per feature, the same for every probe vector.
Reverse over reverse differentiation does not know that and runs the network anew for each product and each of its
derivatives. Here the three go through the network side by side (Taylor-mode differentiation; Griewank and Walther,
*Evaluating Derivatives*, 2nd ed., ch. 13), and what is left for each product is a multiplication on the edges.

The highest derivative has none of its own in the distance, so this serves computations that declare how many
derivatives they take: :attr:`hessgnn.data.batch.Batch.derivatives`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import comb
from typing import Any

import torch
from torch import Tensor, nn

from hessgnn.potentials.blocks.layers import FORMS, Activation, BesselBasis, GaussianBasis, PolynomialCutoff

HIGHEST_ORDER = 2
"""Derivatives of bases, envelopes and networks that are written down: those that a Hessian needs."""


def radial_functions(
    distances: Tensor,
    basis: BesselBasis | GaussianBasis,
    envelope: PolynomialCutoff,
    order: int | None,
) -> Callable[[nn.Sequential], Tensor]:
    """Prepare networks of the distances ``(n_edges,)`` of one batch.

    The envelope brings their outputs to zero at the cutoff. If the number of derivatives that will be taken at most
    (``order``, :attr:`~hessgnn.data.batch.Batch.derivatives`) is known and at most 2, they go forward, otherwise
    autograd is left to find any.

    Returns
    -------
    Callable
        From a network, as of :func:`hessgnn.potentials.blocks.layers.mlp`, to its values ``(n_edges, n_out)``.
    """
    if order is None or order > HIGHEST_ORDER or not distances.requires_grad:
        x, e = basis(distances), envelope(distances).unsqueeze(-1)
        return lambda network: network(x) * e
    derivatives = radial_jets(distances, basis, envelope, order)
    return lambda network: known_function(distances, derivatives(network))


def radial_derivatives(
    distances: Tensor, basis: BesselBasis | GaussianBasis, envelope: PolynomialCutoff, order: int
) -> Callable[[nn.Sequential], tuple[Tensor, ...]]:
    """Values and derivatives of networks of the distances ``(n,)``, for those who differentiate what they make of them.

    The networks see the product of basis and envelope; ``order`` derivatives are computed, 2 at most.

    Returns
    -------
    Callable
        From a network to its value, slope, …, each ``(n, n_out)``, with their graph in its parameters.
    """
    known = distances.detach()
    jets = _leibniz(basis.derivatives(known, order), envelope.derivatives(known, order).unsqueeze(-1))
    return lambda network: _forward(network, jets).unbind()


def radial_jets(
    distances: Tensor, basis: BesselBasis | GaussianBasis, envelope: PolynomialCutoff, order: int
) -> Callable[[nn.Sequential], tuple[Tensor, ...]]:
    """Values and derivatives, at most two, of what :func:`radial_functions` returns: functions of the parameters.

    Returns
    -------
    Callable
        From a network to its value, slope, …, each ``(n_edges, n_out)``.
    """
    known = distances.detach()
    jets = basis.derivatives(known, order)
    envelopes = envelope.derivatives(known, order).unsqueeze(-1)
    return lambda network: _Product.apply(_forward(network, jets), envelopes)


def known_function(x: Tensor, derivatives: Sequence[Tensor]) -> Tensor:
    """Function of one variable ``x`` ``(n,)`` from its value, first derivative, … there, each ``(n, n_out)``.

    The result can be differentiated in ``x`` as often as there are derivatives, and in these.
    """
    return _Function.apply(x, *derivatives)


def _forward(network: nn.Sequential, x: Tensor) -> Tensor:
    """Bring values and derivatives ``(order + 1, n_edges, n_basis)`` through a network."""
    layers = list(network)
    while layers:
        linear = layers.pop(0)
        act = layers.pop(0) if layers else None
        if not isinstance(linear, nn.Linear) or not isinstance(act, Activation | None):
            raise TypeError(f"no derivatives are known for {linear} with {act}")
        x = _Dense.apply(x, linear.weight, linear.bias, None if act is None else act.name)
    return x


def _leibniz(a: Tensor, b: Tensor) -> Tensor:
    """Derivatives of a product from those of its factors, stacked along the first axis."""
    terms = [[comb(n, k) * a[k] * b[n - k] for k in range(n + 1)] for n in range(len(a))]
    return torch.stack([torch.stack(parts).sum(0) for parts in terms])


class _Function(torch.autograd.Function):
    """A function of a distance from its values and derivatives there."""

    @staticmethod
    def forward(ctx: Any, distances: Tensor, *derivatives: Tensor) -> Tensor:
        ctx.save_for_backward(distances, *derivatives[1:])
        return derivatives[0]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        distances, *derivatives = ctx.saved_tensors
        if not derivatives:  # nobody asks for more: see Batch.derivatives
            return None, gradient
        slope = _Function.apply(distances, *derivatives) if torch.is_grad_enabled() else derivatives[0]
        return (gradient * slope).sum(-1), gradient, *[None] * len(derivatives)


class _Dense(torch.autograd.Function):
    """A linear layer and an activation, of a value and its derivatives in one variable at once."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, act: str | None) -> Tensor:
        h = torch.mm(x.flatten(0, 1), weight.T).unflatten(0, x.shape[:2])
        if bias is not None:
            h[0] += bias
        ctx.order, ctx.act = len(x) - 1, act
        if act is None:
            ctx.save_for_backward(x, weight)
            return h
        form = FORMS[act](h[0])
        f = [form.derivative(n) for n in range(ctx.order + 2)]
        ctx.save_for_backward(x, weight, h, *f[1:])
        out = torch.empty_like(h)
        out[0] = f[0]
        if ctx.order > 0:
            torch.mul(f[1], h[1], out=out[1])
        if ctx.order > 1:  # Faà di Bruno
            torch.mul(f[1], h[2], out=out[2]).addcmul_(f[2] * h[1], h[1])
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        x, weight, *rest = ctx.saved_tensors
        if ctx.act is not None:
            h, f1, f2, *f3 = rest
            inner = g * f1
            if ctx.order > 0:
                slope = f2 * h[1]
                inner[0].addcmul_(g[1], slope)
            if ctx.order > 1:
                inner[1].addcmul_(g[2], slope, value=2)
                curvature = (f3[0] * h[1]).mul_(h[1]).addcmul_(f2, h[2])
                inner[0].addcmul_(g[2], curvature)
            g = inner
        flat = g.flatten(0, 1)
        return (
            torch.mm(flat, weight).view_as(x) if ctx.needs_input_grad[0] else None,
            torch.mm(flat.T, x.flatten(0, 1)) if ctx.needs_input_grad[1] else None,
            g[0].sum(0) if ctx.needs_input_grad[2] else None,
            None,
        )


class _Product(torch.autograd.Function):
    """Product of features and an envelope that has no parameters, each with its derivatives, taken apart."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, envelope: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(envelope)
        ctx.shape = x.shape
        ctx.set_materialize_grads(False)
        out = x * envelope[0]
        if len(x) > 1:
            out[1].addcmul_(x[0], envelope[1])
        if len(x) > 2:
            out[2].addcmul_(x[1], envelope[1], value=2).addcmul_(x[0], envelope[2])
        return out.unbind()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, None]:
        (e,) = ctx.saved_tensors
        inner = e.new_zeros(ctx.shape)
        for n, g in enumerate(gradients):
            for k in range(n + 1):
                if g is not None:
                    inner[k].addcmul_(g, e[n - k], value=comb(n, k))
        return inner, None
