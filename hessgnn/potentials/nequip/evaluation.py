"""Forward and reverse sweep through the whole network, for numbers of :mod:`hessgnn.potentials.nequip.algebra`."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from hessgnn.data.batch import Batch
from hessgnn.potentials.blocks.layers import FORMS
from hessgnn.potentials.closed_form import Evaluation
from hessgnn.potentials.nequip.algebra import dual, extended, function, in_dual_order, times
from hessgnn.potentials.nequip.edges import EdgePass, Edges
from hessgnn.potentials.nequip.geometry import EdgeFunctions
from hessgnn.potentials.nequip.tensor_product import TensorProduct


@dataclass(frozen=True)
class GateShape:
    """Irreps that a gate gives: the even scalar first, then each one's ``l``, and the scales of the activations."""

    degrees: Sequence[int]
    channels: int
    even_scale: float
    odd_scale: float


@dataclass(frozen=True)
class LayerWeights:
    """Matrices of one layer as they multiply, and its radial functions.

    Attributes
    ----------
    product, gate
        Of the layer.
    before
        For each irrep in, ``(channels, channels)``.
    after
        For each irrep out, ``(n_paths * channels, width)``.
    connections
        For each irrep out, ``(channels * n_elements, width)`` or ``None``.
    kept
        For each irrep out its place among those in, or ``None``.
    radial
        Value, slope, … ``(n_pairs, n_paths * channels)``.
    """

    product: TensorProduct
    gate: GateShape
    before: Sequence[Tensor]
    after: Sequence[Tensor]
    connections: Sequence[Tensor | None]
    kept: Sequence[int | None]
    radial: Sequence[Tensor]

    def tensors(self) -> list[Tensor]:
        """All that a gradient is wanted of, in order."""
        return [*self.before, *self.after, *(c for c in self.connections if c is not None), *self.radial]


class LayerPass:
    """One layer. Arrays on atoms are ``(C, n_atoms, components, channels)``.

    The features of the first layer do not depend on the positions (``constant``): they have part 1 only.
    """

    def __init__(self, weights: LayerWeights, sizes: Sequence[int], elements: Tensor, constant: bool) -> None:
        self.weights, self.sizes, self.elements, self.constant = weights, sizes, elements, constant
        self.edges = EdgePass(weights.product, weights.radial)
        nothing = elements.new_empty(0)
        self.parts = [nothing] * len(weights.after)
        self.adjoints = [nothing] * len(weights.after)
        self.x = self.mixed = self.messages = self.asked = nothing
        self.gates: list[Tensor] = []
        self.answered: dict[int, Tensor] = {}

    def forward(self, edges: Edges, x: Tensor, start: int) -> Tensor:
        """Features of the next layer, from part ``start`` on; x holds all parts."""
        self.x = x
        new = x[start:]
        inside = new.split(self.sizes, 2)
        if len(new):
            mixed = torch.cat([part @ weight for part, weight in zip(inside, self.weights.before, strict=True)], 2)
            self.mixed = extended(self.mixed, mixed)
        message = self.edges.forward(edges, self._features(edges), start)
        self.messages = extended(self.messages, message)
        blocks = zip(self.weights.product.blocks, self.weights.after, strict=True)
        for k, (block, after) in enumerate(blocks):
            part = block.of_rows(message).flatten(3) @ after
            connection, place = self.weights.connections[k], self.weights.kept[k]
            if connection is not None and place is not None and len(new):
                part[: len(new)] += self._by_element(inside[place]) @ connection
            self.parts[k] = extended(self.parts[k], part)
        return self._gate(edges.number, start)

    def reverse(self, edges: Edges, adjoint: Tensor, start: int, functions: Tensor | None) -> Tensor:
        """Adjoint of the features from part ``start`` on, from all parts of that of the next layer's.

        ``functions`` is as of :meth:`EdgePass.reverse`. Parts that multiply zeros are left out, so that of the first
        layer there is none or τ alone.
        """
        new = self._gate_reverse(edges.number, adjoint, start)
        self.adjoints = behind = [extended(old, part) for old, part in zip(self.adjoints, new, strict=True)]
        asked = torch.cat(
            [
                (part @ after.T).unflatten(3, (block.n_paths, -1)).flatten(2, 3)
                for part, after, block in zip(new, self.weights.after, self.weights.product.blocks, strict=True)
            ],
            2,
        )
        self.asked = extended(self.asked, asked)
        size = len(edges.functions)
        wanted = list(range(start, size))
        if self.constant:
            wanted = [] if functions is not None else [size - 1]
        answered, self.radial_gradient = self.edges.reverse(edges, self._features(edges), self.asked, wanted, functions)
        self.answered |= answered
        if not wanted:
            return adjoint[:0]
        back = torch.stack([answered[part] for part in wanted])
        out = [part @ w.T for part, w in zip(back.split(self.sizes, 2), self.weights.before, strict=True)]
        for part, connection, place in zip(behind, self.weights.connections, self.weights.kept, strict=True):
            if connection is not None and place is not None:
                spread = (part[wanted[0] :] @ connection.T).unflatten(3, (-1, self.elements.shape[1]))
                out[place] = out[place] + (spread * self.elements[:, None, None, :]).sum(4)
        return torch.cat(out, 2)

    def gradients(self) -> list[Tensor]:
        """Of :meth:`LayerWeights.tensors`."""
        size = len(self.adjoints[0])
        order = dual(size)
        x = self.x
        there = order[: len(x)]
        inside = x.split(self.sizes, 2)
        back = torch.stack([self.answered[part] for part in there]).split(self.sizes, 2)
        out = [_paired(a, b) for a, b in zip(inside, back, strict=True)]
        behind = [in_dual_order(part) for part in self.adjoints]
        for block, part in zip(self.weights.product.blocks, behind, strict=True):
            out.append(_paired(block.of_rows(self.messages).flatten(3), part))
        for part, connection, place in zip(behind, self.weights.connections, self.weights.kept, strict=True):
            if connection is not None and place is not None:
                out.append(_paired(self._by_element(inside[place]), part[: len(x)]))
        return [*out, *self.radial_gradient]

    def __copy__(self) -> LayerPass:
        """One whose further parts are its own."""
        new = object.__new__(type(self))
        vars(new).update(vars(self), edges=copy(self.edges), parts=self.parts.copy(), answered=self.answered.copy())
        return new

    def _features(self, edges: Edges) -> list[Tensor | None]:
        return [*self.mixed, *[None] * (len(edges.functions) - len(self.mixed))]

    def _by_element(self, x: Tensor) -> Tensor:
        """Features in the columns of the atom's element, ``(C, n_atoms, 2 l + 1, channels * n_elements)``."""
        return (x.unsqueeze(4) * self.elements[:, None, None, :]).flatten(3)

    def _gate(self, number: int, start: int) -> Tensor:
        gate = self.weights.gate
        if start == 0:
            self.forms = {
                k: FORMS["tanh" if k else "silu"](part[0])
                for k, (part, degree) in enumerate(zip(self.parts, gate.degrees, strict=True))
                if degree == 0
            }
        scalars, *gates = self._activated(0, gate.even_scale, number, start).split(gate.channels, 3)
        self.gates = [extended(*pair) for pair in zip(self.gates, gates, strict=True)] if start else gates
        remaining = iter(self.gates)
        out = [scalars]
        for k, degree in enumerate(gate.degrees[1:], start=1):
            if degree:
                out.append(times(self.parts[k], next(remaining), number, start))
            else:
                out.append(self._activated(k, gate.odd_scale, number, start))
        return torch.cat(out, 2)

    def _activated(self, k: int, scale: float, number: int, start: int) -> Tensor:
        form = self.forms[k]
        return function([form.derivative(n) for n in range(3)], self.parts[k], number, start) * scale

    def _gate_reverse(self, number: int, adjoint: Tensor, start: int) -> list[Tensor]:
        gate = self.weights.gate
        out = adjoint.split([2 * degree + 1 for degree in gate.degrees], 2)
        scalars, behind = [out[0]], []
        remaining = iter(self.gates)
        for k, degree in enumerate(gate.degrees[1:], start=1):
            if degree:
                scalars.append(times(out[k], self.parts[k], number).sum(2, keepdim=True))
                behind.append(times(out[k], next(remaining), number, start))
            else:
                behind.append(times(out[k], self._slopes(k, gate.odd_scale, number), number, start))
        return [times(torch.cat(scalars, 3), self._slopes(0, gate.even_scale, number), number, start), *behind]

    def _slopes(self, k: int, scale: float, number: int) -> Tensor:
        form = self.forms[k]
        return function([form.derivative(n) for n in range(1, 4)], self.parts[k], number) * scale


class NequIPEvaluation(Evaluation):
    """Energies, gradient and products of one batch, and the gradient of a loss on them."""

    def __init__(
        self,
        batch: Batch,
        vectors: Tensor,
        functions: EdgeFunctions,
        embedding: Tensor,
        elements: Tensor,
        layers: Sequence[LayerWeights],
        readout: Sequence[Tensor],
    ) -> None:
        once = batch.pair_edges()
        i, j = batch.edge_index.index_select(1, once)
        self.i, self.j = i, j
        self.readout = readout
        values, self.slope, self.curvature = functions(batch.edge_vectors(once))
        self.number = len(vectors)
        self.moves = self._along(vectors)
        changes = torch.einsum("nma,kna->knm", self.slope, self.moves)
        self.edges = Edges(
            torch.stack([i, j]),
            torch.stack([j, i]),
            functions.sign,
            self.number,
            torch.cat([values.unsqueeze(0), changes]),
        )
        self.embedding, self.elements = embedding, elements
        self.parameters = [embedding, *(t for layer in layers for t in layer.tensors()), *readout]
        degrees = [[0], *([0] if n == len(layers) - 1 else layer.gate.degrees for n, layer in enumerate(layers))]
        self.layers = [
            LayerPass(layer, [2 * degree + 1 for degree in inside], elements, constant=n == 0)
            for n, (layer, inside) in enumerate(zip(layers, degrees, strict=False))
        ]
        self.adjoint_of: dict[int, Tensor] = {}
        self.top = self.hidden = values.new_empty(0)
        self.energies = self._forward(0)[0]
        adjoint = torch.zeros_like(self.edges.functions)
        self._reverse(self._seed(None), 0, adjoint)
        back = torch.einsum("nma,knm->kna", self.slope, adjoint)
        if self.number:
            bent = torch.einsum("nmab,nm->nab", self.curvature, adjoint[0])
            back[1:] += torch.einsum("nab,knb->kna", bent, self.moves)
        total = back.new_zeros(len(back), *batch.positions.shape).index_add(1, j, back).index_add(1, i, -back)
        self.gradient, self.products = total[0], total[1:]

    def backward(self, energies: Tensor, gradient: Tensor, products: Tensor) -> Sequence[Tensor | None]:
        """See :meth:`Evaluation.backward`; uses the evaluation up."""
        edges, number = self.edges, self.number
        moves = self._along(torch.cat([products, gradient.unsqueeze(0)]))
        changes = torch.einsum("nma,kna->knm", self.slope, moves)
        for v, h in zip(self.moves, moves[:-1], strict=True):
            bent = (self.curvature @ v[:, None, :, None]).squeeze(3)
            changes[-1] += torch.einsum("nma,na->nm", bent, h)
        edges.functions = torch.cat([edges.functions, changes])
        start = 1 + number
        self._forward(start)
        back = self._reverse(self._seed(energies), start, None)
        gradients = [self.elements.T @ back[-1].squeeze(1)]
        for layer in self.layers:
            gradients += layer.gradients()
        return [*gradients, *self.readout_gradient]

    def __copy__(self) -> NequIPEvaluation:
        """One that :meth:`backward` may use up; they share all tensors."""
        new = object.__new__(type(self))
        vars(new).update(vars(self), edges=copy(self.edges), layers=[copy(layer) for layer in self.layers])
        new.adjoint_of = self.adjoint_of.copy()
        return new

    def _along(self, moves: Tensor) -> Tensor:
        """Changes of the vectors of the pairs."""
        return moves.index_select(1, self.j) - moves.index_select(1, self.i)

    def _forward(self, start: int) -> Tensor:
        """Energies of the atoms from part ``start`` on, ``(C, n_atoms)``."""
        x = (self.elements @ self.embedding)[None, :, None, :]
        for n, layer in enumerate(self.layers):
            known = self.top if n == len(self.layers) - 1 else self.layers[n + 1].x
            new = layer.forward(self.edges, x, start)
            x = extended(known, new)
        self.top = x
        w1, b1, w2, b2 = self.readout
        hidden = x[start:].squeeze(2) @ w1.T
        if start == 0:
            hidden[0] += b1
            self.form = FORMS["silu"](hidden[0])
        self.hidden = extended(self.hidden, hidden)
        self.active = function([self.form.derivative(n) for n in range(3)], self.hidden, self.number)
        energies = (self.active[start:] @ w2.T).squeeze(2)
        if start == 0:
            energies[0] += b2
        return energies

    def _seed(self, energies: Tensor | None) -> Tensor:
        """Adjoint of the energies of the atoms, ``(C, n_atoms)``: ``1``, or ``1 + e τ``."""
        n_atoms = len(self.elements)
        seed = self.slope.new_zeros(len(self.edges.functions), n_atoms)
        seed[0].fill_(1)
        if energies is not None:
            seed[-1] = energies
        return seed

    def _reverse(self, seed: Tensor, start: int, functions: Tensor | None) -> Tensor:
        """Adjoint of the first layer's features, of those parts that are needed; see :meth:`LayerPass.reverse`."""
        w1, _, w2, _ = self.readout
        number = self.number
        slopes = function([self.form.derivative(n) for n in range(1, 4)], self.hidden, number)
        adjoint = times(seed.unsqueeze(2) * w2, slopes, number)
        if start:
            self.readout_gradient = [
                _paired(in_dual_order(adjoint).unsqueeze(2), self.top),
                adjoint[-1].sum(0),
                _paired(in_dual_order(seed)[..., None, None], self.active.unsqueeze(2)),
                seed[-1].sum().unsqueeze(0),
            ]
        back = (adjoint @ w1).unsqueeze(2)
        for n in range(len(self.layers) - 1, -1, -1):
            new = self.layers[n].reverse(self.edges, back, start, functions)
            if n:
                back = self.adjoint_of[n] = extended(self.adjoint_of.get(n, new[:0]), new)
        return new


def _paired(a: Tensor, b: Tensor) -> Tensor:
    """Sum of ``aᵀ b`` over all but the last axis."""
    return a.flatten(0, 2).T @ b.flatten(0, 2)
