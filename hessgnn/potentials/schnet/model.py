"""SchNet-like potential: continuous-filter convolutions on distances, made smooth enough for Hessians.

Schütt et al., "SchNet: A continuous-filter convolutional neural network for modeling quantum interactions"
(NeurIPS 2017). Two changes: the cosine cutoff became a C² polynomial, and nothing in the network is less smooth than
the activation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from hessgnn.data.batch import Batch
from hessgnn.potentials.base import PotentialConfig, register
from hessgnn.potentials.blocks.layers import FORMS, Form, GaussianBasis, PolynomialCutoff, mlp
from hessgnn.potentials.blocks.radial import radial_functions, radial_jets
from hessgnn.potentials.blocks.tangents import TangentActivation, dense, dense_transposed, weight_gradient
from hessgnn.potentials.closed_form import ClosedFormPotential, Evaluation
from hessgnn.potentials.schnet.interaction import Interaction, InteractionPass, one_hidden
from hessgnn.potentials.schnet.pairs import Pairs


@register("schnet")
class SchNet(ClosedFormPotential):
    """SchNet with a C² cutoff and smooth activations."""

    class Config(PotentialConfig):
        """Hyper-parameters; the defaults make a small model for molecules."""

        width: PositiveInt = Field(default=64, description="features of an atom")
        n_interactions: PositiveInt = Field(default=3, description="message-passing layers")
        n_basis: PositiveInt = Field(default=32, description="Gaussians that a distance is expanded in")
        activation: Literal["silu", "gelu", "softplus", "tanh"] = "silu"

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        # An edge's filter serves the opposite edge too, so that even one layer does not leave each atom its own edges.
        self.n_hops = config.n_interactions if config.n_interactions > 1 else None
        self.embedding = nn.Embedding(len(config.elements), config.width)
        self.basis = GaussianBasis(config.cutoff, config.n_basis)
        self.envelope = PolynomialCutoff(config.cutoff)
        self.interactions = nn.ModuleList(
            Interaction(config.width, config.n_basis, config.activation) for _ in range(config.n_interactions)
        )
        self.readout = mlp(config.width, config.width // 2, 1, act=config.activation)

    def atomic_energies(self, batch: Batch) -> Tensor:
        """Dimensionless energy of each atom, ``(n_atoms,)``."""
        # A filter depends on the distance alone, so that both directions of a pair share it.
        once = batch.pair_edges()
        distances = batch.edge_vectors(once).norm(dim=-1)
        pairs = batch.edge_index.index_select(1, once)
        # What carries derivatives forward does not call the filters either.
        order = None if batch.derivatives is None or self.change() else batch.derivatives
        at_distances = radial_functions(distances, self.basis, self.envelope, order)
        x = self.embedding(self.species(batch))
        for interaction in self.interactions:
            x = x + interaction(x, at_distances, pairs)
        return self.readout(x).squeeze(-1)

    def evaluate(self, batch: Batch, vectors: Tensor) -> SchNetEvaluation:
        """Energies, gradient and products by the formulas."""
        return SchNetEvaluation(self, batch, vectors)

    def product_bytes(self, batch: Batch) -> int:
        """See :meth:`ClosedFormPotential.product_bytes`."""
        n_atoms, n_edges, n_layers = len(batch.numbers), batch.edge_index.shape[1], len(self.interactions)
        # Of a layer about a dozen arrays of the atoms are kept and one of the pairs; in passing, three of the edges.
        numbers = n_layers * (12 * n_atoms + n_edges // 2) + 3 * n_edges
        return numbers * self.embedding.embedding_dim * batch.positions.itemsize


class SchNetEvaluation(Evaluation):
    """Energies, gradient and products of a batch; filters have a graph of their own and are inputs like the weights."""

    def __init__(self, potential: SchNet, batch: Batch, vectors: Tensor) -> None:
        derivatives = 2 if len(vectors) else 1
        with torch.no_grad():
            self.pairs = Pairs(batch, vectors)
            self.species = potential.species(batch)
        at_distances = radial_jets(self.pairs.distances, potential.basis, potential.envelope, derivatives)
        interactions = [cast(Interaction, interaction) for interaction in potential.interactions]
        filters = [at_distances(interaction.filter) for interaction in interactions]
        order = derivatives + torch.is_grad_enabled()
        self.layers = [
            InteractionPass(interaction, self.pairs, [f.detach() for f in jets], order)
            for interaction, jets in zip(interactions, filters, strict=True)
        ]
        self.embedding = potential.embedding.weight
        hidden, act, self.output = one_hidden(potential.readout)
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
