"""ANI: torchani's atomic environment vectors and element networks, fed from our neighbour list.

Smith, Isayev, Roitberg, "ANI-1: an extensible neural network potential with DFT accuracy at force field
computational cost", Chem. Sci. 8, 3192 (2017). The default differs from the paper in the two places that make its
Hessian jump: the cutoff is torchani's infinitely smooth one and the activation is GELU.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import chain, cycle
from typing import Literal

import torch
from ase.data import chemical_symbols
from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn

from hessgnn.curvature.model import EdgeHessians
from hessgnn.curvature.sparse import edge_slots
from hessgnn.data.batch import Batch
from hessgnn.potentials.ani.aev import Displacement, Environment, gather_columns
from hessgnn.potentials.ani.element_networks import NetworkPass, multiply
from hessgnn.potentials.base import PotentialConfig, register
from hessgnn.potentials.blocks.layers import Activation
from hessgnn.potentials.closed_form import ClosedFormPotential, Evaluation

with warnings.catch_warnings():
    # Its compiled extensions have no second derivatives, so that they are absent is no loss here.
    warnings.filterwarnings("ignore", message="The extensions", category=UserWarning)
    from torchani.aev import AEVComputer, ANIAngular, ANIRadial
    from torchani.nn import ANINetworks


@register("ani")
class ANI(ClosedFormPotential):
    """ANI with torchani's ANI-1x environment vectors and one network for each element."""

    class Config(PotentialConfig):
        """Hyper-parameters; the environment vectors are those of ANI-1x, as in arXiv 2503.07839."""

        cutoff: PositiveFloat = Field(default=5.2, description="Å, of the radial part")
        angular_cutoff: PositiveFloat = Field(default=3.5, description="Å")
        radial_eta: PositiveFloat = Field(default=16.0, description="Å⁻², sharpness of the radial Gaussians")
        radial_shifts: PositiveInt = Field(default=16, description="radial Gaussians")
        angular_eta: PositiveFloat = Field(default=8.0, description="Å⁻², sharpness of the angular part's Gaussians")
        angular_zeta: PositiveFloat = Field(default=32.0, description="sharpness in the angle")
        angular_shifts: PositiveInt = Field(default=4, description="Gaussians of the angular part")
        angular_sections: PositiveInt = Field(default=8, description="angles of the angular part")
        hidden: tuple[PositiveInt, ...] = Field(default=(128, 112, 96), description="widths of each element's network")
        cutoff_function: Literal["smooth", "cosine"] = Field(default="smooth", description="cosine is not C²")
        activation: Literal["gelu", "celu"] = Field(default="gelu", description="celu is not C²")
        bias: bool = True
        initialization: Literal["uniform", "kaiming"] = Field(
            default="uniform",
            description="torch's uniform weights and biases; or normal weights of variance 1/n_inputs and zero biases",
        )

        @model_validator(mode="after")
        def _angular_inside_radial(self) -> ANI.Config:
            if self.angular_cutoff >= self.cutoff:
                raise ValueError("angular_cutoff must be smaller than cutoff")
            return self

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.n_hops = 1  # both edges of a triple have its centre
        self.aev = AEVComputer(
            ANIRadial.cover_linearly(cutoff=config.cutoff, eta=config.radial_eta, num_shifts=config.radial_shifts),
            ANIAngular.cover_linearly(
                cutoff=config.angular_cutoff,
                eta=config.angular_eta,
                zeta=config.angular_zeta,
                num_shifts=config.angular_shifts,
                num_sections=config.angular_sections,
            ),
            num_species=len(config.elements),
            cutoff_fn=config.cutoff_function,
            strategy="pyaev",  # the cuAEV extension drops second derivatives and gives silently wrong Hessians
        )
        self.aev.exponent = float(config.angular_zeta)  # torchani's is a tensor, whose value a traced step cannot see
        act = config.activation if config.activation == "celu" else Activation(config.activation)
        self.act: str = config.activation
        self.hidden = config.hidden
        self.triplet_cutoff = config.angular_cutoff
        self.sorts_elements = True
        symbols = [chemical_symbols[z] for z in config.elements]
        self.networks = ANINetworks.build(
            symbols, self.aev.out_dim, {}, default_dims=config.hidden, activation=act, bias=config.bias
        )
        if config.initialization == "kaiming":
            self.networks.apply(_initialize_kaiming)
        parts = []
        if config.cutoff_function == "cosine":
            parts.append("the cosine cutoff has a jump in its second derivative")
        if config.activation == "celu":
            parts.append("CELU has a jump in its second derivative at 0")
        self.not_c2 = " and ".join(parts) or None

    def atomic_energies(self, batch: Batch) -> Tensor:
        """Dimensionless energy of each atom, ``(n_atoms,)``."""
        species = self.species(batch)
        i, j = batch.edge_index
        vectors = batch.edge_vectors()
        aev = Environment(self.aev, len(species), i, species[j], vectors, 0, batch.triplets).jet().squeeze(1)
        # torchani sees the whole batch as one molecule
        return self.networks(species.unsqueeze(0), aev.unsqueeze(0), atomic=True).squeeze(0)

    def evaluate(self, batch: Batch, vectors: Tensor) -> ANIEvaluation:
        """Energies, gradient and products by the formulas."""
        layers = self.layers()  # parametrized weights have a graph of their own
        with torch.no_grad():
            return ANIEvaluation(self, batch, vectors, *layers)

    def product_bytes(self, batch: Batch) -> int:
        """See :meth:`ClosedFormPotential.product_bytes`."""
        n_triples = self._triples_of_atom(batch) * len(batch.numbers)
        features = 2 * self.aev.out_dim + 8 * sum(self.hidden)
        return int(
            (4 * n_triples * self.aev.angular.num_feats + features * len(batch.numbers)) * batch.positions.itemsize
        )

    def edge_hessians(self, batch: Batch, atoms: Tensor) -> EdgeHessians:
        """Second derivatives of the energies of some atoms ``(n_centres,)``, which come back in another order.

        With the environment vector G, ``∂²ε = ∂Gᵀ (∂²ε/∂G²) ∂G + Σ (∂ε/∂G) ∂²G``. A neighbour has a part in few
        features: in ``∂G`` those of its own element, and in ``∂²G`` what it shares with one other neighbour at a time.
        The network's part is a sum over its layers, ``∂²ε/∂G² = Σ_l D_lᵀ diag(g_l φ''(h_l)) D_l`` with ``D_l =
        ∂h_l/∂G`` and g the adjoint of ``φ(h)`` (edge pushing; Gower and Mello, Optim. Methods Softw. 27, 251 (2012)),
        so ``∂G`` goes forward through the layers and no derivative comes back. Costs of an atom follow from its number
        of neighbours, not from that of all atoms.
        """
        species = self.species(batch)
        n_species = len(self.elements)
        atoms = atoms[species[atoms].argsort(stable=True)]
        row = torch.full_like(species, -1).index_copy(0, atoms, torch.arange(len(atoms), device=atoms.device))
        i, j = batch.edge_index
        edges = (row[i] >= 0).nonzero().squeeze(-1)
        pair = species[i] * n_species + species[j]
        # Those of one pair of elements side by side.
        edges = edges[(pair[edges] * len(atoms) + row[i[edges]]).argsort()]
        i, j, row = i[edges], j[edges], row[i[edges]]
        slot, _, per_atom = edge_slots(row, len(atoms))
        most = int(per_atom.max())
        environment = Environment(self.aev, len(atoms), row, species[j], batch.edge_vectors()[edges], 2)

        weights, biases = self.layers()
        splits = torch.bincount(species[atoms], minlength=n_species).tolist()
        network_pass = NetworkPass(weights, biases, splits, self.act)
        network_pass.forward(environment.jet(), 2)
        blocks = environment.edge_curvatures(network_pass.reverse()[:, 0], slot, most)
        blocks = blocks.permute(0, 1, 3, 2, 4).reshape(len(atoms), 3 * most, 3 * most)

        tangents = environment.edge_tangents()
        counts = torch.bincount(pair[edges], minlength=n_species**2)
        per_element = counts.view(n_species, n_species).sum(1).tolist()
        columns = self.feature_columns()
        narrow = [w[:, columns[n]].T for w in weights[0] for n in range(n_species)]
        changes = multiply(tangents, counts.tolist(), narrow)
        place = row * most + slot
        for n, layer in enumerate(network_pass.layers):
            if n:
                slopes = network_pass.layers[n - 1].act.derivatives[0]
                changes = multiply(changes * slopes[row].unsqueeze(1), per_element, [w.T for w in weights[n]])
            behind, curvatures = layer.act.behind, layer.act.derivatives[1]
            padded = changes.new_zeros(len(atoms) * most, *changes.shape[1:]).index_copy_(0, place, changes)
            padded = padded.view(len(atoms), 3 * most, changes.shape[-1])
            assert behind is not None
            blocks.baddbmm_(padded * (behind[0] * curvatures).unsqueeze(1), padded.transpose(1, 2))
        neighbor = atoms.new_zeros(len(atoms) * most).index_copy_(0, place, j)
        return EdgeHessians(blocks.view(len(atoms), most, 3, most, 3), atoms, neighbor.view(len(atoms), most))

    def edge_hessian_bytes(self, batch: Batch) -> int:
        """Memory that :meth:`edge_hessians` takes for one atom, roughly."""
        edges = batch.edge_index.shape[1] / len(batch.numbers)
        columns, widths = self.feature_columns().shape[1], self.hidden
        tangents = 3 * edges * (2 * columns + 4 * max(widths)) + 3 * (3 * edges) ** 2
        triples = self._triples_of_atom(batch) * 8 * self.aev.angular.num_feats
        return int((tangents + triples) * batch.positions.element_size())

    def _triples_of_atom(self, batch: Batch) -> float:
        """Number of triples around an atom, at most."""
        return (batch.edge_index.shape[1] / len(batch.numbers)) ** 2 / 2

    def feature_columns(self) -> Tensor:
        """Features that a neighbour of each element has a part in, ``(n_elements, n_columns)``."""
        radial, angular = self.aev.radial.num_feats, self.aev.angular.num_feats
        species = torch.arange(len(self.elements), device=self.aev.triu_index.device)
        features = torch.arange(max(radial, angular), device=species.device)
        own = species.unsqueeze(1) * radial + features[:radial]
        shared = len(species) * radial + self.aev.triu_index.unsqueeze(2) * angular + features[:angular]
        return torch.cat([own, shared.flatten(1)], dim=1)

    def count_elements(self, batch: Batch, species: Tensor) -> list[int]:
        """Atoms of each element, in the order of ``elements``; known without a look at a padded batch."""
        if batch.element_counts is not None:
            return [batch.element_counts.get(z, 0) for z in self.elements]
        return torch.bincount(species, minlength=len(self.elements)).tolist()

    def layers(self) -> tuple[list[list[Tensor]], list[list[Tensor]]]:
        """Weights and biases of each layer, then of each element."""
        networks = [[*network.layers, network.final_layer] for network in self.networks.atomics.values()]
        weights = [[layer.weight for layer in layers] for layers in zip(*networks, strict=True)]
        biases = [[layer.bias for layer in layers if layer.bias is not None] for layers in zip(*networks, strict=True)]
        return weights, biases


def _initialize_kaiming(module: nn.Module) -> None:
    """Initialise a layer as the training notebook of arXiv 2503.07839 does."""
    if isinstance(module, nn.Linear):
        nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class ANIEvaluation(Evaluation):
    """Energies, gradient and products of a batch; atoms are ordered by element in between."""

    def __init__(
        self,
        potential: ANI,
        batch: Batch,
        vectors: Tensor,
        weights: list[list[Tensor]],
        biases: list[list[Tensor]],
    ) -> None:
        self.batch = batch
        self.parameters = [*chain(*weights), *chain(*biases)]
        species = potential.species(batch)
        order = species.argsort(stable=True)
        self.row = torch.empty_like(order).index_copy_(0, order, torch.arange(len(order), device=order.device))
        splits = potential.count_elements(batch, species)
        i, j = batch.edge_index
        derivatives = 2 if len(vectors) else 1
        edges = batch.edge_vectors()
        self.environment = Environment(
            potential.aev,
            len(species),
            self.row.index_select(0, i),
            species.index_select(0, j),
            edges,
            derivatives,
            batch.triplets,
        )
        self.displaced = Displacement(self.environment, self._to_edges(vectors)) if len(vectors) else None
        self.network_pass = NetworkPass(weights, biases, splits, potential.act)
        energies = self.network_pass.forward(self.environment.jet(self.displaced), derivatives + 1)
        pulled = self._to_atoms(self.environment.pull(self.network_pass.reverse(), self.displaced))
        self.energies, self.gradient, self.products = energies.index_select(0, self.row), pulled[0], pulled[1:]

    def backward(self, energies: Tensor, gradient: Tensor, products: Tensor) -> Sequence[Tensor | None]:
        """Gradients in the parameters."""
        moved = Displacement(self.environment, self._to_edges(torch.cat([gradient.unsqueeze(0), products])))
        features = self.environment.push(moved, self.displaced)
        by_row = torch.empty_like(energies).index_copy_(0, self.row, energies)
        weights, biases = self.network_pass.backward(by_row, features)
        gradients = [*chain(*weights), *chain(*biases)][: len(self.parameters)]
        # An element that is not there has no gradient, as with autograd.
        there = [n > 0 for n in self.network_pass.splits]
        return [g if yes else None for g, yes in zip(gradients, cycle(there), strict=False)]

    def _to_edges(self, vectors: Tensor) -> Tensor:
        """Differences ``(K, 3, n_edges)`` of a field ``(K, n_atoms, 3)``."""
        i, j = self.batch.edge_index
        by_axis = vectors.transpose(1, 2).contiguous()
        return gather_columns(by_axis, j) - gather_columns(by_axis, i)

    def _to_atoms(self, cotangents: Tensor) -> Tensor:
        """Transpose of :meth:`_to_edges`."""
        i, j = self.batch.edge_index
        summed = cotangents.new_zeros(*cotangents.shape[:2], len(self.batch.numbers))
        return summed.index_add_(-1, j, cotangents).index_add_(-1, i, cotangents, alpha=-1).transpose(1, 2).contiguous()
