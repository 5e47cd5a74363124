"""ANI: torchani's atomic environment vectors and element networks, fed from our neighbour list.

Smith, Isayev, Roitberg, "ANI-1: an extensible neural network potential with DFT accuracy at force field
computational cost", Chem. Sci. 8, 3192 (2017). The default differs from the paper in the two places that make its
Hessian jump: the cutoff is torchani's infinitely smooth one and the activation is GELU.
"""

from __future__ import annotations

import warnings
from typing import Literal

import torch
from ase.data import chemical_symbols
from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from hessgnn.data.batch import Batch
from hessgnn.potentials.aev import environment_vectors
from hessgnn.potentials.base import Potential, PotentialConfig
from hessgnn.potentials.blocks import activation
from hessgnn.potentials.radial import HIGHEST_ORDER
from hessgnn.potentials.registry import register

with warnings.catch_warnings():
    # Its compiled extensions have no second derivatives, so that they are absent is no loss here.
    warnings.filterwarnings("ignore", message="The extensions", category=UserWarning)
    from torchani.aev import AEVComputer, ANIAngular, ANIRadial
    from torchani.neighbors import Neighbors
    from torchani.nn import ANINetworks


@register("ani")
class ANI(Potential):
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
        act = config.activation if config.activation == "celu" else activation(config.activation)
        symbols = [chemical_symbols[z] for z in config.elements]
        self.networks = ANINetworks.build(
            symbols, self.aev.out_dim, {}, default_dims=config.hidden, activation=act, bias=config.bias
        )
        parts = []
        if config.cutoff_function == "cosine":
            parts.append("the cosine cutoff has a jump in its second derivative")
        if config.activation == "celu":
            parts.append("CELU has a jump in its second derivative at 0")
        self.not_c2 = " and ".join(parts) or None

    def atomic_energies(self, batch: Batch) -> Tensor:
        """Dimensionless energy of each atom, ``(n_atoms,)``."""
        species = self.species(batch)
        if not batch.edge_index.shape[1]:  # torchani cannot sort an empty list of neighbours
            aev = batch.positions.new_zeros(len(species), self.aev.out_dim)
        elif batch.derivatives is not None and batch.derivatives <= HIGHEST_ORDER:
            aev = environment_vectors(self.aev, species, batch, batch.derivatives)
        else:
            aev = self._torchani_environment_vectors(species, batch)
        # torchani sees the whole batch as one molecule
        return self.networks(species.unsqueeze(0), aev.unsqueeze(0), atomic=True).squeeze(0)

    def _torchani_environment_vectors(self, species: Tensor, batch: Batch) -> Tensor:
        once = _each_pair_once(batch)
        i, j = batch.edge_index[:, once]
        vectors = -batch.edge_vectors().index_select(0, once)  # torchani's point from the second to the first atom
        neighbors = Neighbors(torch.stack([i, j]), vectors.norm(dim=-1), vectors)
        return self.aev.compute_from_neighbors(species.unsqueeze(0), batch.positions.unsqueeze(0), neighbors)[0]


def _each_pair_once(batch: Batch) -> Tensor:
    """Indices of the edges that stand for a pair, whichever order it was listed in."""
    i, j = batch.edge_index
    x, y, z = batch.edge_shift.unbind(-1)
    # Between an atom and its own image (i == j) the sign of the shift decides.
    forward = (x > 0) | ((x == 0) & ((y > 0) | ((y == 0) & (z > 0))))
    return ((i < j) | ((i == j) & forward)).nonzero().squeeze(-1)
