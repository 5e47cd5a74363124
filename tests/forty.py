"""A potential that stands for one of another package: total energies, and weights that it comes with."""

from __future__ import annotations

import torch

import hessgnn
from hessgnn.errors import ConfigError
from hessgnn.potentials.adapters.base import AdaptedConfig, AdaptedPotential, ForeignModel
from hessgnn.potentials.base import TotalEnergyPotential


class FortyConfig(AdaptedConfig):
    weights: str = "forty"


class Forty(AdaptedPotential, TotalEnergyPotential):
    """Network whose weights are those that a seed gives, under the name ``forty``; it knows H, C, N, O and F."""

    Config = FortyConfig

    @classmethod
    def load_model(cls, config):
        if config.weights != "forty":
            raise ConfigError(f"no such weights: {config.weights}", where="key 'potential.weights'", hint="forty")
        with torch.random.fork_rng():
            torch.manual_seed(40)
            network = hessgnn.create("schnet", elements=[1, 6, 7, 8, 9], width=8, n_interactions=1, cutoff=4.0)
        network.set_scaling(dict.fromkeys((1, 6, 7, 8, 9), 0.0), 3.0)
        return ForeignModel(network, network.elements, network.cutoff)

    def structure_energies(self, batch):
        return self.model.total_energy(batch)
