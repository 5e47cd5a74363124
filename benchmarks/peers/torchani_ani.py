"""torchani's ANI: its environment vectors of a padded batch, neighbours included, as its training tutorial does."""

from __future__ import annotations

from typing import Any

import torch
import torchani
from peer import Molecules, Peer
from torch import Tensor, nn
from torchani.aev import AEVComputer, ANIAngular, ANIRadial
from torchani.nn import ANINetworks, SpeciesConverter


class Driver(Peer):
    """``strategy="pyaev"``: the compiled extension has no second derivatives."""

    version = torchani.__version__

    def __init__(self, molecules: Molecules, settings: dict[str, Any]) -> None:
        super().__init__(molecules, settings)
        size, elements = self.size, settings["elements"]
        self.aev = AEVComputer(
            ANIRadial.cover_linearly(cutoff=size["cutoff"], eta=size["radial_eta"], num_shifts=size["radial_shifts"]),
            ANIAngular.cover_linearly(
                cutoff=size["angular_cutoff"],
                eta=size["angular_eta"],
                zeta=size["angular_zeta"],
                num_shifts=size["angular_shifts"],
                num_sections=size["angular_sections"],
            ),
            num_species=len(elements),
            cutoff_fn=settings.get("cutoff_function", size["cutoff_function"]),
            strategy="pyaev",
        )
        self.networks = ANINetworks.build(
            elements,
            self.aev.out_dim,
            {},
            default_dims=tuple(size["hidden"]),
            activation=settings.get("activation", size["activation"]),
            bias=True,
        )
        self.model = nn.ModuleList([self.aev, self.networks])
        numbers = self._padded(torch.from_numpy(molecules.numbers), -1)
        self.species = SpeciesConverter(elements)(numbers)

    def _padded(self, per_atom: Tensor, fill: float) -> Tensor:
        shape = (len(self.labels.sizes), int(self.labels.sizes.max()), *per_atom.shape[1:])
        return per_atom.new_full(shape, fill).index_put((self.labels.molecule, self.labels.slot), per_atom)

    def energy_and_forces(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Of the padded batch; padding counts as part of the model's input, as in its own data sets."""
        energy = self.networks(self.species, self.aev(self.species, self._padded(positions, 0.0)))
        (gradient,) = torch.autograd.grad(energy.sum(), positions, create_graph=True)
        return energy, -gradient
