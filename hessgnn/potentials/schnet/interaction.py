"""SchNet's interaction: a module, and its passes by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

from torch import Tensor, nn

from hessgnn.potentials.blocks.layers import FORMS, Activation, mlp
from hessgnn.potentials.blocks.tangents import TangentActivation, dense, dense_transposed, weight_gradient
from hessgnn.potentials.schnet.pairs import Pairs


class Interaction(nn.Module):
    """One continuous-filter convolution with the dense layers around it."""

    def __init__(self, width: int, n_basis: int, act: str) -> None:
        super().__init__()
        self.filter = mlp(n_basis, width, width, act=act)
        self.before = nn.Linear(width, width, bias=False)
        self.after = nn.Sequential(nn.Linear(width, width), Activation(act), nn.Linear(width, width))

    def forward(self, x: Tensor, at_distances: Callable[[nn.Sequential], Tensor], pairs: Tensor) -> Tensor:
        """Update of the atom features ``(n_atoms, width)``, by messages both ways between pairs of atoms ``(2, n)``."""
        i, j = pairs
        features, filters = self.before(x), at_distances(self.filter)
        messages = x.new_zeros(x.shape).index_add(0, i, features.index_select(0, j) * filters)
        return self.after(messages.index_add(0, j, features.index_select(0, i) * filters))


class InteractionPass:
    """One interaction in the four passes of :mod:`hessgnn.potentials.blocks.tangents`, in their order."""

    def __init__(self, interaction: Interaction, pairs: Pairs, filters: Sequence[Tensor], order: int) -> None:
        first, act, last = one_hidden(interaction.after)
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


class Affine(NamedTuple):
    """Parameters of a linear layer.

    They are read when an evaluation is made, since a step that is recorded puts its own in the modules' place, and only
    until the energies are there.
    """

    weight: Tensor
    bias: Tensor


def one_hidden(network: nn.Sequential) -> tuple[Affine, Activation, Affine]:
    """Layers of a network with one hidden layer."""
    first, act, last = network
    linear = [cast(nn.Linear, layer) for layer in (first, last)]
    hidden, output = (Affine(layer.weight, layer.bias) for layer in linear)
    return hidden, cast(Activation, act), output
