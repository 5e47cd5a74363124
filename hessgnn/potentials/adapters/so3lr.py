"""SO3LR of the package ``so3krates-torch``: a transformer with long-range electrostatics and dispersion.

A. Kabylda et al., J. Am. Chem. Soc. 147, 33723 (2025). The wheel holds the published weights, trained on PBE0+MBD.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from e3nn import o3
from pydantic import Field, NonNegativeInt, PositiveFloat
from torch import Tensor, nn

from hessgnn.data.batch import Batch
from hessgnn.errors import ConfigError
from hessgnn.potentials.adapters.base import AdaptedConfig, AdaptedPotential, ForeignModel
from hessgnn.potentials.adapters.files import find_weights, foreign
from hessgnn.potentials.base import TotalEnergyPotential, register
from hessgnn.potentials.nequip.model import eager_e3nn


class _Harmonics(nn.Module):
    """The same spherical harmonics as the model's own, without the assignments that cannot be vectorised."""

    def __init__(self, degrees: list[int]) -> None:
        super().__init__()
        with eager_e3nn():
            self.harmonics = o3.SphericalHarmonics(degrees, normalize=True, normalization="integral")

    def forward(self, vectors: Tensor) -> Tensor:
        """``(n, 3)`` to ``(n, m)``; e3nn orders the axes y, z, x."""
        return self.harmonics(vectors.roll(-1, 1))


@register("so3lr")
class SO3LR(AdaptedPotential, TotalEnergyPotential):
    """SO3LR (package so3krates-torch): the published weights, or a model file of your own."""

    class Config(AdaptedConfig):
        """Which weights, how far long-range interactions reach, and the charge and spin of all structures."""

        weights: str = Field(default="so3lr", description="so3lr, or a file that so3krates-torch has written")
        long_range_cutoff: PositiveFloat = Field(default=12.0, description="Å, of electrostatics and dispersion")
        damping_width: PositiveFloat = Field(
            default=2.0, description="Å below the long-range cutoff, in which dispersion is switched off"
        )
        charge: int = Field(default=0, description="of each structure, in units of e")
        unpaired_electrons: NonNegativeInt = Field(default=0, description="of each structure")

    package = "so3krates-torch"
    config: Config
    products_at_once = 16
    model: Any
    not_c2 = (
        "the second derivative of the shifted electrostatics jumps at the long-range cutoff, and Hirshfeld ratios are "
        "absolute values, with a kink where strongly distorted geometries bring them to 0"
    )
    excused = dict.fromkeys(
        ("no_neighbours", "fragments"), "partial charges add up to the charge of the structure, so all atoms interact"
    )

    @classmethod
    def load_model(cls, config: AdaptedConfig) -> ForeignModel:
        """See :meth:`AdaptedPotential.load_model`."""
        assert isinstance(config, cls.Config)
        models = foreign("so3krates_torch.modules.models", package="so3krates-torch", extra="so3lr")
        inside = Path(models.__file__).parents[1] / "pretrained/so3lr/so3lr.model"
        file = find_weights(config.weights, package="so3krates-torch", published={"so3lr": inside})
        model = file.load(trust=config.trust)
        if type(model) is not models.SO3LR or getattr(model, "use_pme", False):
            raise ConfigError("is no SO3LR model with one head", where=file.path, hint="name a whole saved model")
        model.spherical_harmonics = _Harmonics(model.degrees)
        model.r_max_lr, model.dispersion_energy_cutoff_lr_damping = config.long_range_cutoff, config.damping_width
        # All 118 elements have weights. Those that were trained on have a scale of their own.
        trained = (model.atomic_energy_output_block.energy_scales.weight[0] != 1).nonzero().squeeze(-1) + 1
        return ForeignModel(model, tuple(trained.tolist()), max(model.r_max, config.long_range_cutoff), file)

    def structure_energies(self, batch: Batch) -> Tensor:
        """See :meth:`~hessgnn.potentials.base.TotalEnergyPotential.structure_energies`."""
        self.species(batch)  # refuses elements that the potential does not know
        positions = batch.positions.view_as(batch.positions)  # the model sets a flag of its own on what it is given
        near = batch.edge_vectors().detach().norm(dim=-1) < self.model.r_max
        state, own = vars(self.model), dict(vars(self.model))
        data = {
            "positions": positions,
            "cell": positions.new_zeros(batch.n_structures, 3, 3),
            "atomic_numbers": batch.numbers,
            "node_attrs": torch.nn.functional.one_hot(batch.numbers - 1, self.model.num_elements).to(positions),
            "edge_index": batch.edge_index[:, near],
            "shifts": batch.edge_shift[near],
            "edge_index_lr": batch.edge_index,
            "shifts_lr": batch.edge_shift,
            "batch": batch.batch,
            "ptr": torch.cat([batch.first_atom, batch.n_atoms.sum().view(1)]),
            "head": torch.zeros_like(batch.n_atoms),
            "total_charge": positions.new_full((batch.n_structures,), self.config.charge),
            "total_spin": positions.new_full((batch.n_structures,), self.config.unpaired_electrons / 2),
        }
        default = torch.get_default_dtype()
        torch.set_default_dtype(positions.dtype)  # the type in which the model divides integers
        try:
            return self.model(data, compute_force=False)["energy"]
        finally:
            torch.set_default_dtype(default)
            state.clear()
            state.update(own)  # the model keeps tensors of each call, with their graph
