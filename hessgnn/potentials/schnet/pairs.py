"""Messages between pairs of atoms, with what derivatives in the positions and in the parameters ask of them.

A filter depends on one distance, so all that derivatives ask of it are ``W``, ``W'`` and ``W''`` of each pair of atoms,
whatever the number K of products. A message ``Σ_j x_j W(r_ij)`` is linear in features and filter, and its change along
v is ``Σ_j ẋ_j W + x_j W' ṙ``, with ``ṙ`` of the pair. So the forward and the reverse pass share one convolution
(:meth:`Pairs.convolve`), and the two passes for the parameters another (:meth:`Pairs.convolve_mixed`), both for all K
at once. For the passes see :mod:`hessgnn.potentials.blocks.tangents`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hessgnn.data.batch import Batch


class Pairs:
    """Pairs of atoms, with the changes of their distances along K displacements.

    Parameters
    ----------
    batch
        The structures.
    vectors
        ``(K, n_atoms, 3)``, displacements v.
    """

    def __init__(self, batch: Batch, vectors: Tensor) -> None:
        once = batch.pair_edges()
        i, j = self.ends = batch.edge_index.index_select(1, once).unbind()
        self.n_atoms = len(batch.numbers)
        self.receiver, self.sender = torch.cat([i, j]), torch.cat([j, i])
        edges = batch.edge_vectors(once)
        self.distances = edges.norm(dim=-1)
        self.inverse = (1 / self.distances).unsqueeze(-1)
        self.units = edges * self.inverse
        moved = self._differences(vectors)
        self.changes = (moved * self.units).sum(-1, keepdim=True)
        """``ṙ_k``, ``(K, n_pairs, 1)``."""
        self.unit_changes = (moved - self.changes * self.units) * self.inverse
        """Changes of the unit vectors, ``(K, n_pairs, 3)``."""

    def forces(self, slopes: Tensor) -> Tensor:
        """Gradient and products ``(1 + K, n_atoms, 3)`` from ``∂E/∂r`` and its tangents, ``(1 + K, n_pairs)``."""
        slopes = slopes.unsqueeze(-1)
        fields = slopes * self.units
        fields[1:].addcmul_(slopes[:1], self.unit_changes)
        out = slopes.new_zeros(len(slopes), self.n_atoms, 3)
        i, j = self.ends
        return out.index_add_(1, j, fields).index_add_(1, i, fields, alpha=-1)

    def displace(self, gradient: Tensor, products: Tensor) -> None:
        """Transpose of :meth:`forces`: from the gradients of a loss to changes of the distances.

        Sets ``others`` ``(1 + K, n_pairs, 1)``: the change along the gradient in the forces plus the mixed ones of each
        ``v_k`` and the gradient ``b_k`` in its product, then the changes ``ρ_k`` along the ``b_k``; and ``both``,
        ``Σ_k ρ_k ṙ_k``, ``(n_pairs, 1)``.
        """
        moved = self._differences(torch.cat([gradient.unsqueeze(0), products]))
        self.others = (moved * self.units).sum(-1, keepdim=True)
        self.others[0] += (moved[1:] * self.unit_changes).sum((0, 2)).unsqueeze(-1)
        self.both = (self.others[1:] * self.changes).sum(0)

    def send(self, x: Tensor) -> Tensor:
        """Features of the senders, ``(1 + K, 2, n_pairs, width)``, of ``(1 + K, n_atoms, width)``.

        Both directions of each pair: those of the receivers are the same, the other way round.
        """
        return x.index_select(1, self.sender).unflatten(1, (2, -1))

    def convolve(self, x: Tensor, filters: Sequence[Tensor]) -> Tensor:
        """``Σ_j x_j W`` and its tangents, ``(1 + K, n_atoms, width)``.

        Of what is sent, which is written over. In the first layer it has no tangents, ``(1, 2, n_pairs, width)``.
        """
        w, k = filters[0], len(self.changes)
        if not k:
            return self._receive(x.mul_(w))
        change = (filters[1] * self.changes).unsqueeze(1)
        if len(x) > 1:
            x[1:].mul_(w).addcmul_(x[:1], change)
            x[0].mul_(w)
            return self._receive(x)
        out = x.new_empty(1 + k, *x.shape[1:])
        torch.mul(x, change, out=out[1:])
        torch.mul(x[0], w, out=out[0])
        return self._receive(out)

    def convolve_mixed(self, z: Tensor | None, x: Tensor, filters: Sequence[Tensor]) -> Tensor:
        """Change of :meth:`convolve`'s result, tangents included, from changes z of x and those of the distances.

        ``Σ_j z_k W + x W' ρ_k`` for k > 0, and ``Σ_j z_0 W + x_0 (W' ρ_0 + W'' Σ ρ ṙ) + W' Σ_k (z_k ṙ_k + x_k ρ_k)``.
        z is written over. With the adjoints of z and x in their places it is its own transpose.
        """
        w, slope, *curvature = filters
        along = slope * self.others
        if curvature:
            along[0].addcmul_(curvature[0], self.both)
        if z is None:
            return self._receive(along.unsqueeze(1) * x[:1])
        mixed = _along(x[1:], self.others[1:], _along(z[1:], self.changes)) if curvature else None
        z.mul_(w).addcmul_(x[:1], along.unsqueeze(1))
        if mixed is not None:
            z[0].addcmul_(mixed, slope)
        return self._receive(z)

    def slopes(self, x: Tensor, m: Tensor, filters: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Derivatives in the distances from what is sent and the adjoints m of what is received, as sent.

        Returns
        -------
        products
            Adjoint of W, without those of W's derivatives, and its tangents, ``(1 + K, n_pairs, width)``.
        slopes
            ``∂E/∂r`` and its tangents, ``(1 + K, n_pairs)``.
        """
        products = (x[:1, 0] * m[:, 1]).addcmul_(x[:1, 1], m[:, 0])
        if len(x) > 1:
            products[1:].addcmul_(x[1:, 0], m[:1, 1]).addcmul_(x[1:, 1], m[:1, 0])
        slopes = (products * filters[1]).sum(-1)
        if len(m) > 1:
            slopes[1:].addcmul_((products[0] * filters[2]).sum(-1), self.changes.squeeze(-1))
        return products, slopes

    def filter_gradients(self, z: Tensor | None, x: Tensor, q: Tensor, m: Tensor, products: Tensor) -> list[Tensor]:
        """Gradients in W, W', …: of x, z and their adjoints q, m, all as sent, with the products of :meth:`slopes`."""
        slope = _along(products, self.others)
        if len(self.changes):
            changed = _along(q[1:], self.changes)
            slope.addcmul_(x[0, 0], changed[1]).addcmul_(x[0, 1], changed[0])
            if z is not None:
                changed = _along(z[1:], self.changes)
                slope.addcmul_(m[0, 1], changed[0]).addcmul_(m[0, 0], changed[1])
        value = torch.zeros_like(slope)
        for a, b in [(x, q), *([] if z is None else [(z, m)])]:
            for one, other in zip(a, b, strict=False):
                value.addcmul_(one[0], other[1]).addcmul_(one[1], other[0])
        return [value, slope, *([products[0] * self.both] if len(self.changes) else [])]

    def _receive(self, messages: Tensor) -> Tensor:
        out = messages.new_zeros(len(messages), self.n_atoms, messages.shape[-1])
        for target, values in zip(out, messages.flatten(1, 2), strict=True):
            target.index_add_(0, self.receiver, values)  # along the first axis torch has a faster kernel
        return out

    def _differences(self, vectors: Tensor) -> Tensor:
        """Of a field ``(K, n_atoms, 3)``, ``(K, n_pairs, 3)``."""
        i, j = self.ends
        return vectors.index_select(1, j) - vectors.index_select(1, i)


def _along(x: Tensor, rates: Tensor, out: Tensor | None = None) -> Tensor:
    """``Σ_k x_k rates_k``, added to ``out``: one after the other, so that the sum stays in the cache."""
    for one, rate in zip(x, rates, strict=True):
        out = one * rate if out is None else out.addcmul_(one, rate)
    assert out is not None
    return out
