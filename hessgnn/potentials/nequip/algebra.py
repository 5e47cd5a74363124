"""Numbers with infinitesimal parts, which carry all derivatives that a Hessian loss asks for.

Energies E(R), their gradient g and K products H v_k come from evaluating E at ``R + Σ_k v_k ε_k`` with ``ε² = 0`` and
differentiating it in R. A loss with the gradients e in E, u in g and h_k in ``H v_k`` has the same gradient in the
parameters as

    ``e E + u·∂E/∂R + Σ_k h_k·H v_k``,

the τ part of ``(1 + e τ) E(R + Σ_k v_k ε_k + Σ_k h_k η_k + u τ)`` where ``ε_k η_k = τ`` and all other products of
infinitesimals vanish. These numbers form a commutative algebra, where the τ part of a product pairs each part with its
dual (a Frobenius algebra). So one forward and one reverse sweep, each written once, serve values, products and the
gradient of the loss alike; parts 1 and ε of both sweeps are known from the evaluation when τ and η are added. (Higher
order chain rules: Griewank and Walther, *Evaluating Derivatives*, 2nd ed., ch. 13.)

Parts are in the order ``1, ε_1 … ε_K`` or ``1, ε_1 … ε_K, η_1 … η_K, τ``. Where they are stacked, this is axis 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

Parts = Sequence[Tensor | None]
"""Parts of a number, each an array of its own; ``None`` is zero."""

Adder = Callable[["Tensor | None", Tensor, Tensor], Tensor]
"""Adds a bilinear operation of two arrays to a total, in place if there is one."""


def dual(size: int) -> list[int]:
    """For each part the one whose product with it is τ."""
    number = size // 2 - 1
    return [size - 1, *range(1 + number, size - 1), *range(1, 1 + number), 0]


def in_dual_order(x: Tensor) -> Tensor:
    """Parts ``(C, ...)`` in the order of :func:`dual`, from slices: a list of indices would wait for a GPU."""
    number = len(x) // 2 - 1
    return torch.cat([x[-1:], x[1 + number : -1], x[1 : 1 + number], x[:1]])


def terms(part: int, size: int, number: int) -> list[tuple[int, int]]:
    """Which parts of two factors make this part of their product, out of ``size`` with K = ``number``."""
    if part == 0:
        return [(0, 0)]
    pairs = [(0, part), (part, 0)]
    if part == 2 * number + 1 and size == 2 * number + 2:
        pairs += [(k, n) for k, n in zip(range(1, size - 1), dual(size)[1:-1], strict=True)]
    return pairs


def product(
    a: Parts,
    b: Parts,
    number: int,
    wanted: Iterable[int],
    add: Adder,
) -> list[Tensor | None]:
    """Some parts of a product, for any bilinear operation that ``add`` adds to a total."""
    out = []
    for part in wanted:
        total = None
        for m, n in terms(part, len(a), number):
            left, right = a[m], b[n]
            if left is not None and right is not None:
                total = add(total, left, right)
        out.append(total)
    return out


def times(a: Tensor, b: Tensor, number: int, start: int = 0) -> Tensor:
    """Elementwise product of stacked numbers, from part ``start`` on."""
    first = max(start, 1)
    out = (a[first:] * b[:1]).addcmul_(a[:1], b[first:])
    if len(a) == 2 * number + 2 and number:
        out[-1] += (a[1 : 1 + number] * b[1 + number : -1]).sum(0)
        out[-1] += (a[1 + number : -1] * b[1 : 1 + number]).sum(0)
    return out if start else torch.cat([a[:1] * b[:1], out])


def function(derivatives: Sequence[Tensor], x: Tensor, number: int, start: int = 0) -> Tensor:
    """A function of stacked numbers from part ``start`` on, by its value and derivatives at part 1 of x."""
    out = x[max(start, 1) :] * derivatives[1]
    if len(x) == 2 * number + 2 and number:
        out[-1].addcmul_(second(x, number), derivatives[2])
    return out if start else torch.cat([derivatives[0].unsqueeze(0), out])


def second(x: Tensor, number: int) -> Tensor:
    """Half of the τ part of the square of the infinitesimal parts, ``Σ_k x_εk x_ηk``."""
    return (x[1 : 1 + number] * x[1 + number : -1]).sum(0)


def add_mul(total: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
    """Add an elementwise product."""
    return a * b if total is None else total.addcmul_(a, b)


def extended(known: Tensor, new: Tensor) -> Tensor:
    """Stacked numbers with further parts; nothing is copied if none were known."""
    return torch.cat([known, new]) if len(known) else new
