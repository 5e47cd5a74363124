"""Published ANI models of TorchANI, with the user's file of their weights: nothing is downloaded."""

from __future__ import annotations

from typing import Literal

import torch
from ase.units import Hartree
from pydantic import Field, NonNegativeInt
from torch import Tensor

from hessgnn.data.batch import Batch
from hessgnn.errors import ConfigError
from hessgnn.potentials.adapters.base import AdaptedConfig, AdaptedPotential, ForeignModel
from hessgnn.potentials.adapters.building import undisturbed
from hessgnn.potentials.adapters.files import explained, find_weights, foreign, quiet
from hessgnn.potentials.base import register


@register("torchani")
class TorchANI(AdaptedPotential):
    """An ensemble of ANI networks (package torchani), or one member of it."""

    class Config(AdaptedConfig):
        """Which model; its weights are a state dict as TorchANI publishes it, such as ani2x_state_dict.pt."""

        weights: str = Field(description="a file of weights, such as ani2x_state_dict.pt")
        architecture: Literal["ANI1x", "ANI1ccx", "ANI2x", "ANI2xr", "ANI2dr", "ANIr2s"] = Field(
            default="ANI2x", description="the model of torchani.models that they belong to"
        )
        member: NonNegativeInt | None = Field(default=None, description="of the ensemble; the mean of all if absent")

    package = "torchani"
    config: Config
    products_at_once = 16
    n_hops = 2
    """One edge, but each pair is computed once for both of its atoms."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        kinds = {type(part).__name__ for part in self.model.modules()}
        if "TwoBodyDispersionD3" in kinds:
            self.n_hops = 3  # coordination numbers of both atoms of a pair
        causes = [
            words
            for words, names in (("CELU", {"CELU", "TightCELU"}), ("the cosine cutoff", {"CutoffCosine"}))
            if names & kinds
        ]
        if causes:
            self.not_c2 = f"{' and '.join(causes)} of {config.architecture} jump in their second derivatives"

    @classmethod
    def load_model(cls, config: AdaptedConfig) -> ForeignModel:
        """See :meth:`AdaptedPotential.load_model`."""
        assert isinstance(config, cls.Config)
        models = foreign("torchani.models", package="torchani", extra="torchani")
        file = find_weights(config.weights, package="torchani")
        state = file.load(trust=config.trust)
        if not (isinstance(state, dict) and state and all(torch.is_tensor(value) for value in state.values())):
            raise ConfigError("is no state dict", where=file.path, hint="name a file such as ani2x_state_dict.pt")
        download = models._fetch_state_dict
        models._fetch_state_dict = lambda *_, **__: dict(state)  # what its constructors would download
        try:
            with explained(file.path), undisturbed(), quiet():
                # cuAEV, which other strategies may take, has no second derivatives.
                model = getattr(models, config.architecture)(model_index=config.member, strategy="pyaev")
        finally:
            models._fetch_state_dict = download
        model.requires_grad_(True)
        numbers = model.atomic_numbers.tolist()
        references = (model.energy_shifter.self_energies.double() * Hartree).tolist()
        model.set_enabled("energy_shifter", False)
        return ForeignModel(
            model, tuple(numbers), float(model.cutoff), file, dict(zip(numbers, references, strict=True))
        )

    def atomic_energies(self, batch: Batch) -> Tensor:
        """See :meth:`~hessgnn.potentials.base.Potential.atomic_energies`."""
        self.species(batch)  # refuses elements that the potential does not know
        pairs = batch.pair_edges()
        vectors = -batch.edge_vectors(pairs)  # theirs go from the second atom to the first
        neighbors = foreign("torchani.neighbors", package="torchani", extra="torchani").Neighbors(
            batch.edge_index[:, pairs], vectors.norm(dim=-1), vectors
        )
        # To TorchANI, the batch is one structure with these neighbours.
        species = self.model.species_converter(batch.numbers.unsqueeze(0))
        positions = batch.positions.unsqueeze(0)
        return Hartree * self.model.compute_from_neighbors(species, positions, neighbors, atomic=True).energies[0]
