"""Activations and matrix products of values with tangents beside them, and their derivatives.

A Hessian loss asks of a network for an energy, its gradient and products of its Hessian with K vectors, and then for
the gradient of all three in the parameters. Values and their changes along the K vectors (tangents) lie side by side,
``(1 + K, n, width)``, and go through four passes: forward, back (:meth:`TangentActivation.reverse`, adjoints and their
tangents), and for the parameters forward (:meth:`~TangentActivation.push`, along the gradients of a loss in the
gradient and the products) and back again (:meth:`~TangentActivation.pull`). A linear layer is one matrix product per
pass whatever K is, and two more for its gradient; autograd needs ``6 + 6K`` and a node of its graph for each operation.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hessgnn.potentials.blocks.layers import Form


class TangentActivation:
    """An activation φ of values with K tangents.

    Parameters
    ----------
    form
        φ.
    sums
        ``(1 + K, n, width)``, h: values, then their tangents.
    order
        Derivatives of φ that are kept: 1 for the gradient, 2 for products, one more if :meth:`pull` will be called.

    Attributes
    ----------
    values
        φ(h) and its tangents, ``(1 + K, n, width)``.
    """

    def __init__(self, form: type[Form], sums: Tensor, order: int) -> None:
        at = form(sums[0])
        self.sums = sums
        self.derivatives = [at.derivative(n) for n in range(1, order + 1)]
        self.values = torch.empty_like(sums)
        self.values[0] = at.derivative(0)
        if len(sums) > 1:
            torch.mul(sums[1:], self.derivatives[0], out=self.values[1:])
        self.behind: Tensor | None = None
        self.before: Tensor | None = None
        self.pushed: Tensor | None = None

    def reverse(self, g: Tensor) -> Tensor:
        """Adjoint of h, with its tangents, from that of φ(h)."""
        self.behind = g
        s = g * self.derivatives[0]
        if len(g) > 1:
            s[1:].addcmul_(g[0] * self.derivatives[1], self.sums[1:])
        self.before = s
        return s

    def push(self, m: Tensor) -> Tensor:
        """Transpose of :meth:`reverse`: the change of φ(h) from changes ``m`` of h, those of the tangents included."""
        self.pushed = m
        z = m * self.derivatives[0]
        if len(m) > 1:
            z[0].addcmul_((self.sums[1:] * m[1:]).sum(0), self.derivatives[1])
        return z

    def pull(self, p: Tensor) -> Tensor:
        """Adjoint of h, of all that came out of the other passes, from that ``p`` of φ(h)."""
        f1, f2, *f3 = self.derivatives
        g, h, m = self.behind, self.sums, self.pushed
        assert g is not None
        assert m is not None
        r = p * f1
        value = g[0] * f2
        r[0].addcmul_(value, m[0])
        if len(h) > 1:
            tangents, changes = h[1:], m[1:]
            r[0].addcmul_(g[0] * f3[0], (tangents * changes).sum(0))
            r[0].addcmul_(f2, (p[1:] * tangents).addcmul_(g[1:], changes).sum(0))
            r[1:].addcmul_(value, changes)
        return r


def dense(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Linear layer of values with tangents ``(1 + K, n, n_in)``; a bias has no tangent."""
    out = torch.mm(x.flatten(0, 1), weight.T).view(*x.shape[:2], len(weight))
    if bias is not None:
        out[0] += bias
    return out


def dense_transposed(g: Tensor, weight: Tensor) -> Tensor:
    """Adjoint of the input of :func:`dense` from that of its result ``(1 + K, n, n_out)``."""
    return torch.mm(g.flatten(0, 1), weight).view(*g.shape[:2], weight.shape[1])


def weight_gradient(*pairs: tuple[Tensor, Tensor]) -> Tensor:
    """``Σ aᵀ b`` of pairs ``(1 + K, n, n_out)``, ``(1 + K, n, n_in)``, the gradient of a matrix, ``(n_out, n_in)``."""
    (a, b), *others = pairs
    out = torch.mm(a.flatten(0, 1).T, b.flatten(0, 1))
    for a, b in others:
        out.addmm_(a.flatten(0, 1).T, b.flatten(0, 1))
    return out
