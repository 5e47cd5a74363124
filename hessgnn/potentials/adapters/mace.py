"""MACE of the package ``mace-torch``, from a ``.model`` file that mace has written."""

from __future__ import annotations

from typing import Any

import e3nn
import torch
from pydantic import Field
from torch import Tensor, nn

from hessgnn.data.batch import Batch
from hessgnn.errors import ConfigError
from hessgnn.potentials.adapters.base import AdaptedConfig, AdaptedPotential, ForeignModel
from hessgnn.potentials.adapters.building import undisturbed
from hessgnn.potentials.adapters.files import find_weights, foreign, quiet
from hessgnn.potentials.base import register


@register("mace")
class MACE(AdaptedPotential):
    """A ``ScaleShiftMACE`` with one of its heads."""

    class Config(AdaptedConfig):
        """Which file: a pickle of the whole model, so ``trust`` is needed. And which head of several."""

        weights: str = Field(description="a .model file")
        head: str | None = Field(default=None, description="of a model with several heads")

    package = "mace-torch"
    config: Config
    products_at_once = 1
    types: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.n_hops = int(self.model.num_interactions)
        self.head = self.model.heads.index(config.head) if config.head is not None else 0
        index = torch.full((int(self.model.atomic_numbers.max()) + 1,), -1)
        index[self.model.atomic_numbers] = torch.arange(len(self.model.atomic_numbers))
        self.register_buffer("types", index, persistent=False)
        if hasattr(self.model, "pair_repulsion_fn"):
            why = "pair repulsion ends at the sum of covalent radii, where third derivatives jump under differences"
            self.excused = dict.fromkeys(("hessian", "axes"), why)
        self.model = _eager(self.model)

    @classmethod
    def load_model(cls, config: AdaptedConfig) -> ForeignModel:
        """See :meth:`AdaptedPotential.load_model`."""
        assert isinstance(config, cls.Config)
        modules = foreign("mace.modules", package="mace-torch", extra="mace", pins="e3nn 0.4.4")
        file = find_weights(config.weights, package="mace-torch")
        with undisturbed():
            model = file.load(trust=config.trust)
        if isinstance(model, dict):
            hint = "give the .model file that mace writes beside its checkpoints"
            raise ConfigError("checkpoints hold weights without a model", where=file.path, hint=hint)
        if type(model) is not modules.ScaleShiftMACE or hasattr(model, "joint_embedding"):
            what = f"holds a {type(model).__name__}, not a ScaleShiftMACE of positions and elements alone"
            raise ConfigError(what, where=file.path)
        heads = [*getattr(model, "heads", ["Default"])]
        if config.head not in (heads if len(heads) > 1 else [None, *heads]):
            raise ConfigError(
                f"its heads are {', '.join(heads)}", where="key 'potential.head'", hint="name one of them"
            )
        numbers = model.atomic_numbers.tolist()
        energies = torch.atleast_2d(model.atomic_energies_fn.atomic_energies)
        own = energies[heads.index(config.head) if config.head is not None else 0].double().tolist()
        energies.zero_()
        return ForeignModel(model, tuple(numbers), float(model.r_max), file, dict(zip(numbers, own, strict=True)))

    def atomic_energies(self, batch: Batch) -> Tensor:
        """See :meth:`~hessgnn.potentials.base.Potential.atomic_energies`."""
        self.species(batch)  # refuses elements that the potential does not know
        positions = batch.positions.view_as(batch.positions)  # the model sets a flag of its own on what it is given
        types = self.types[batch.numbers]
        out = self.model(
            {
                "positions": positions,
                "node_attrs": nn.functional.one_hot(types, len(self.model.atomic_numbers)).to(positions),
                "edge_index": batch.edge_index,
                "shifts": batch.edge_shift,
                "cell": positions.new_zeros(batch.n_structures, 3, 3),
                "batch": batch.batch,
                "ptr": torch.cat([batch.first_atom, batch.n_atoms.sum().view(1)]),
                "head": torch.full_like(batch.n_atoms, self.head),
            },
            compute_force=False,
        )
        return out["node_energy"].to(positions.dtype)


def _eager(model: Any) -> nn.Module:
    """The same model without TorchScript, which breaks batched and third derivatives; a pickle always holds it."""
    tools = foreign("mace.tools.scripts_utils", package="mace-torch", extra="mace")
    with undisturbed(), quiet():
        e3nn.set_optimization_defaults(jit_script_fx=False)
        torch.set_default_dtype(torch.float64)
        settings = tools.extract_config_mace_model(model)
        plain = type(model)(**settings | {"atomic_numbers": model.atomic_numbers.tolist()})
    state, exact = model.state_dict(), plain.state_dict()
    for name, value in state.items():
        # Coupling coefficients of a model in float32 break rotational symmetry, even when it is converted to float64.
        if ("_w3j_" in name or "U_matrix" in name) and torch.allclose(value.double(), exact[name], atol=1e-5):
            state[name] = exact[name]
    plain.load_state_dict(state)
    return plain
