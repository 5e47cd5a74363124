"""One network for each element with a scalar output, differentiated by hand.

For ``ε(G)`` of each atom, a Hessian loss asks for ``ε``, ``u = ∂ε/∂G`` and ``∂²ε/∂G² t`` for some tangents t, and then
for the gradient of all three in the parameters. With h, x the values before and behind an activation φ, the tangents go
through the layers beside the values, ``ẋ = φ'(h) ḣ``; so do, on the way back, the adjoints s of h and their changes
(forward over reverse). Values and all K tangents lie side by side, so that two matrix products for each element and
layer give all three, and four more the gradient, where autograd needs ``6 + 6K`` and a node of its graph for each
operation. The arithmetic is the same; the batch is small and the number of operations is what costs.

All elements share the elementwise operations, so the atoms are ordered by element and the networks are of equal widths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hessgnn.potentials.blocks.layers import FORMS, Form
from hessgnn.potentials.blocks.tangents import TangentActivation


class CELU(Form):
    """torchani's ``max(0, x) + min(0, α (exp(x/α) - 1))`` with α = 0.1, whose second derivative jumps at 0."""

    alpha = 0.1

    def derivative(self, n: int) -> Tensor:
        """Derivative n at the points; what happens at 0 itself is left out."""
        if n == 0:
            return torch.nn.functional.celu(self.x, self.alpha)
        below = torch.exp(self.x.clamp(max=0) / self.alpha)
        return below if n == 1 else torch.where(self.x > 0, 0, below / self.alpha ** (n - 1))


ACTIVATIONS: dict[str, type[Form]] = {**FORMS, "celu": CELU}


@dataclass
class Layer:
    """What is kept of one hidden layer: its ``inputs`` ``(n_atoms, 1 + K, width)`` and its activation."""

    inputs: Tensor
    act: TangentActivation


class NetworkPass:
    """One evaluation of the networks, with the activation ``act``.

    ``weights`` and ``biases`` are those of each layer, then of each element; no biases if the layers have none. The
    last layer has one output. ``splits`` counts the atoms of each element, in this order.
    """

    def __init__(
        self, weights: Sequence[Sequence[Tensor]], biases: Sequence[Sequence[Tensor]], splits: Sequence[int], act: str
    ) -> None:
        self.weights, self.biases, self.splits, self.form = weights, biases, splits, ACTIVATIONS[act]
        self.layers: list[Layer] = []

    def forward(self, x: Tensor, order: int) -> Tensor:
        """Energies ``(n_atoms,)`` from features and their tangents ``(n_atoms, 1 + K, n_features)``.

        Derivatives of φ up to ``order`` are kept: one more than were taken, for :meth:`backward`.
        """
        for weights, biases in zip(self.weights[:-1], self.biases[:-1], strict=True):
            h = multiply(x, self.splits, [w.T for w in weights])
            for part, b in zip(h[:, 0].split(self.splits), biases, strict=False):
                part += b
            # It has the tangents first, in a view: its arrays keep the order in memory, that of the matrix products.
            self.layers.append(Layer(x, act := TangentActivation(self.form, h.transpose(0, 1), order)))
            x = act.values.transpose(0, 1)
        self.top = x
        energy = torch.cat([part @ w[0] for part, w in zip(x[:, 0].split(self.splits), self.weights[-1], strict=True)])
        for part, b in zip(energy.split(self.splits), self.biases[-1], strict=False):
            part += b
        return energy

    def reverse(self) -> Tensor:
        """``u`` and ``∂²ε/∂G² t``, ``(n_atoms, 1 + K, n_features)``."""
        g = torch.zeros_like(self.top)
        for part, w in zip(g[:, 0].split(self.splits), self.weights[-1], strict=True):
            part += w
        for layer, weights in zip(self.layers[::-1], self.weights[-2::-1], strict=True):
            g = multiply(layer.act.reverse(g.transpose(0, 1)).transpose(0, 1), self.splits, weights)
        return g

    def backward(self, energy: Tensor, z: Tensor) -> tuple[list[list[Tensor]], list[list[Tensor]]]:
        """Gradients of weights and biases from those of the energies ``(n_atoms,)`` and of :meth:`reverse`'s result."""
        outputs: list[Tensor] = []
        for layer, weights in zip(self.layers, self.weights, strict=False):
            m = multiply(z, self.splits, [w.T for w in weights])
            outputs.append(z)
            z = layer.act.push(m.transpose(0, 1)).transpose(0, 1)
        weighted = self.top[:, 0] * energy.unsqueeze(1) + z[:, 0]
        w_grad = [[part.sum(0, keepdim=True) for part in weighted.split(self.splits)]]
        b_grad = [[part.sum(0, keepdim=True) for part in energy.split(self.splits)]]
        p = torch.zeros_like(self.top)
        for part, e, w in zip(p[:, 0].split(self.splits), energy.split(self.splits), self.weights[-1], strict=True):
            torch.outer(e, w[0], out=part)
        for n in range(len(self.layers) - 1, -1, -1):
            layer = self.layers[n]
            r = layer.act.pull(p.transpose(0, 1)).transpose(0, 1)
            w_grad.append(self._outer(r, layer, outputs[n]))
            b_grad.append([part.sum(0) for part in r[:, 0].split(self.splits)])
            if n:
                p = multiply(r, self.splits, self.weights[n])
        return w_grad[::-1], b_grad[::-1]

    def _outer(self, r: Tensor, layer: Layer, z: Tensor) -> list[Tensor]:
        assert layer.act.before is not None
        arrays = (r, layer.inputs, layer.act.before.transpose(0, 1), z)
        parts = zip(*(x.split(self.splits) for x in arrays), strict=True)
        return [
            torch.mm(a.flatten(0, 1).T, b.flatten(0, 1)).addmm_(c.flatten(0, 1).T, d.flatten(0, 1))
            for a, b, c, d in parts
        ]


def multiply(x: Tensor, counts: Sequence[int], matrices: Sequence[Tensor]) -> Tensor:
    """Multiply groups of so many rows ``(K, n_in)`` each with its own matrix ``(n_in, n_out)``."""
    n_out = matrices[0].shape[1]
    out = x.new_empty(*x.shape[:2], n_out)
    for part, target, matrix in zip(x.split(counts), out.split(counts), matrices, strict=True):
        # Flattened part by part: what has to be copied for it is still in the cache when it is multiplied.
        torch.mm(part.flatten(0, 1), matrix, out=target.view(-1, n_out))
    return out
