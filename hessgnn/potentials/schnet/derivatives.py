"""SchNet's energy, gradient and products with the Hessian, and their gradient in the parameters, by hand.

A filter depends on one distance, so all that derivatives ask of it are ``W``, ``W'`` and ``W''`` of each pair of atoms,
whatever the number K of products. They come from :func:`hessgnn.potentials.blocks.radial.radial_jets` with a graph of
their own and are inputs here like the weights. Features of atoms carry K tangents, see
:mod:`hessgnn.potentials.blocks.tangents` for the four passes and their names.

A message ``Σ_j x_j W(r_ij)`` is linear in features and filter, and its change along v is ``Σ_j ẋ_j W + x_j W' ṙ`` with
``ṙ`` of the pair. So forward and reverse pass share one convolution (:meth:`Pairs.convolve`), and the two passes for
the parameters another (:meth:`Pairs.convolve_mixed`), both for all K at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from hessgnn.data.batch import Batch
from hessgnn.potentials.blocks.layers import FORMS, Activation, Form
from hessgnn.potentials.blocks.radial import radial_jets
from hessgnn.potentials.blocks.tangents import TangentActivation, dense, dense_transposed, weight_gradient
from hessgnn.potentials.closed_form import Evaluation

if TYPE_CHECKING:
    from hessgnn.potentials.schnet.model import Interaction, SchNet


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


def _parts(network: nn.Sequential) -> tuple[nn.Linear, Activation, nn.Linear]:
    """Layers of a network with one hidden layer."""
    first, act, last = network
    return cast(nn.Linear, first), cast(Activation, act), cast(nn.Linear, last)


class _Layer:
    """One interaction in the four passes; see the module for their order."""

    def __init__(self, interaction: Interaction, pairs: Pairs, filters: Sequence[Tensor], order: int) -> None:
        first, act, last = _parts(interaction.after)
        self.pairs, self.filters, self.order = pairs, filters, order
        self.form = FORMS[act.name]
        self.before, self.first, self.last = interaction.before.weight, first, last

    def forward(self, x: Tensor | None, sent: Tensor) -> Tensor:
        """Update of the features from what the atoms send, ``(1 + K, n_atoms, width)``; x is kept for the gradient."""
        self.x, self.sent = x, sent
        self.messages = self.pairs.convolve(self.pairs.send(sent), self.filters)
        self.act = TangentActivation(self.form, dense(self.messages, self.first.weight, self.first.bias), self.order)
        return dense(self.act.values, self.last.weight, self.last.bias)

    def reverse(self, g: Tensor) -> tuple[Tensor, Tensor | None]:
        """From the adjoint of the update to ``∂E/∂r`` and, but in the first layer, the adjoint of the features."""
        self.g = g
        s = self.act.reverse(dense_transposed(g, self.last.weight))
        self.m = dense_transposed(s, self.first.weight)
        m = self.pairs.send(self.m)
        self.products, slopes = self.pairs.slopes(self.pairs.send(self.sent), m, self.filters)
        if self.x is None:
            return slopes, None
        self.sent_adjoint = self.pairs.convolve(m, self.filters)
        return slopes, dense_transposed(self.sent_adjoint, self.before)

    def push(self, z: Tensor | None) -> Tensor:
        """Change of the update from that of the features."""
        self.z = z
        self.z_sent = None if z is None else dense(z, self.before)
        sent = None if self.z_sent is None else self.pairs.send(self.z_sent)
        self.z_messages = self.pairs.convolve_mixed(sent, self.pairs.send(self.sent), self.filters)
        self.z_values = self.act.push(dense(self.z_messages, self.first.weight))
        return dense(self.z_values, self.last.weight)

    def pull(self, p: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Adjoint of what the atoms send, gradients of the layers behind the messages, and those of the filters."""
        r = self.act.pull(dense_transposed(p, self.last.weight))
        q = dense_transposed(r, self.first.weight)
        assert self.act.before is not None
        gradients = [
            weight_gradient((r, self.messages), (self.act.before, self.z_messages)),
            r[0].sum(0),
            weight_gradient((p, self.act.values), (self.g, self.z_values)),
            p[0].sum(0),
        ]
        z = None if self.z_sent is None else self.pairs.send(self.z_sent)
        q, m = self.pairs.send(q), self.pairs.send(self.m)
        filters = self.pairs.filter_gradients(z, self.pairs.send(self.sent), q, m, self.products)
        return self.pairs.convolve_mixed(q, m, self.filters), gradients, filters


class SchNetEvaluation(Evaluation):
    """Energies, gradient and products of a batch."""

    def __init__(self, potential: SchNet, batch: Batch, vectors: Tensor) -> None:
        derivatives = 2 if len(vectors) else 1
        with torch.no_grad():
            self.pairs = Pairs(batch, vectors)
            self.species = potential.species(batch)
        at_distances = radial_jets(self.pairs.distances, potential.basis, potential.envelope, derivatives)
        interactions = [cast("Interaction", interaction) for interaction in potential.interactions]
        filters = [at_distances(interaction.filter) for interaction in interactions]
        order = derivatives + torch.is_grad_enabled()
        self.layers = [
            _Layer(interaction, self.pairs, [f.detach() for f in jets], order)
            for interaction, jets in zip(interactions, filters, strict=True)
        ]
        self.embedding = potential.embedding.weight
        hidden, act, self.output = _parts(potential.readout)
        self.hidden = hidden
        self.parameters = [self.embedding]
        for layer, jets in zip(self.layers, filters, strict=True):
            self.parameters += [layer.before, layer.first.weight, layer.first.bias, layer.last.weight, layer.last.bias]
            self.parameters += jets
        self.parameters += [hidden.weight, hidden.bias, self.output.weight, self.output.bias]
        with torch.no_grad():
            self._evaluate(FORMS[act.name], order)

    def _evaluate(self, form: type[Form], order: int) -> None:
        x: Tensor | None = None
        for layer in self.layers:
            # The features of the first layer are those of the elements, and have no tangents.
            sent = self._of_atoms(self.embedding @ layer.before.T) if x is None else dense(x, layer.before)
            update = layer.forward(x, sent)
            if x is None:
                update[0] += self.embedding[self.species]
                x = update
            else:
                x = update.add_(x)
        assert x is not None
        self.x = x
        self.act = TangentActivation(form, dense(x, self.hidden.weight, self.hidden.bias), order)
        self.energies = torch.mv(self.act.values[0], self.output.weight[0]) + self.output.bias
        g = torch.zeros_like(self.act.values)
        g[0] = self.output.weight[0]
        g = dense_transposed(self.act.reverse(g), self.hidden.weight)
        slopes: Tensor | None = None
        for layer in self.layers[::-1]:
            slope, behind = layer.reverse(g)
            slopes = slope if slopes is None else slopes.add_(slope)
            if behind is not None:
                g = behind.add_(g)
        assert slopes is not None
        fields = self.pairs.forces(slopes)
        self.gradient, self.products = fields[0], fields[1:]

    def backward(self, energies: Tensor, gradient: Tensor, products: Tensor) -> Sequence[Tensor | None]:
        """Gradients in the parameters, in their order."""
        self.pairs.displace(gradient, products)
        z: Tensor | None = None
        for layer in self.layers:
            change = layer.push(z)
            z = change if z is None else change.add_(z)
        assert z is not None
        assert self.act.before is not None
        pushed = self.act.push(dense(z, self.hidden.weight))
        p = torch.zeros_like(self.act.values)
        torch.outer(energies, self.output.weight[0], out=p[0])
        r = self.act.pull(p)
        gradients = [
            weight_gradient((r, self.x), (self.act.before, z)),
            r[0].sum(0),
            (torch.mv(self.act.values[0].T, energies) + pushed[0].sum(0)).unsqueeze(0),
            energies.sum(0, keepdim=True),
        ]
        p = dense_transposed(r, self.hidden.weight)
        for layer in self.layers[::-1]:
            sent, behind, filters = layer.pull(p)
            if layer.x is None:
                by_element = self._of_elements(sent)
                before = by_element.T @ self.embedding
                embedding = self._of_elements(p).addmm_(by_element, layer.before)
            else:
                assert layer.z is not None
                before = weight_gradient((sent, layer.x), (layer.sent_adjoint, layer.z))
                p = dense_transposed(sent, layer.before).add_(p)
            gradients = [before, *behind, *filters, *gradients]
        return [embedding, *gradients]

    def _of_atoms(self, by_element: Tensor) -> Tensor:
        return by_element.index_select(0, self.species).unsqueeze(0)

    def _of_elements(self, by_atom: Tensor) -> Tensor:
        """Sum values over the atoms of each element."""
        return torch.zeros_like(self.embedding).index_add_(0, self.species, by_atom[0])
