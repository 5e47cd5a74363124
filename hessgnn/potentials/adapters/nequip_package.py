"""Models of the package ``nequip``, built there or read from its checkpoints and packages.

The name is ``nequip-package``, since ``nequip`` is this project's own architecture of that kind.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from ase.data import atomic_numbers, chemical_symbols
from pydantic import Field
from torch import Tensor

from hessgnn.data.batch import Batch
from hessgnn.errors import ConfigError
from hessgnn.potentials.adapters.base import AdaptedConfig, AdaptedPotential, ForeignModel
from hessgnn.potentials.adapters.building import BuiltConfig, build, undisturbed
from hessgnn.potentials.adapters.files import explained, find_weights, foreign, quiet
from hessgnn.potentials.base import register

_SETTINGS = "key 'potential.settings'"
_CALLED = [f"nequip.nn.pair_potential.{name}" for name in ("LennardJones", "SimpleLennardJones", "ZBL")]
"""What settings may name as ``_target_``."""


@register("nequip-package")
class NequIPPackage(AdaptedPotential):
    """Energies of a model of nequip in eager mode; hessgnn takes the derivatives."""

    class Config(BuiltConfig):
        """A builder of ``nequip.model`` with its arguments, or a checkpoint (.ckpt) or package (.nequip.zip)."""

        builder: Literal["NequIPGNNModel", "PresetNequIPGNNModel", "FullNequIPGNNModel"] = Field(
            default="NequIPGNNModel", description="what builds a new model, in nequip.model"
        )

    types: Tensor

    package = "nequip"

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        types = torch.full((len(chemical_symbols),), -1)
        types[[atomic_numbers[name] for name in self.model.type_names]] = torch.arange(len(self.model.type_names))
        self.register_buffer("types", types, persistent=False)
        self.n_hops = _count(self.model, "InteractionBlock") or None
        self._apply(lambda tensor: tensor)

    @classmethod
    def load_model(cls, config: AdaptedConfig) -> ForeignModel:
        """See :meth:`AdaptedPotential.load_model`."""
        assert isinstance(config, cls.Config)
        file = None if config.weights is None else find_weights(config.weights, package="nequip")
        builders = foreign("nequip.model", package="nequip", extra="nequip")
        state = foreign("nequip.utils.global_state", package="nequip", extra="nequip")
        if file is None:
            _require_harmless(config)
            defaults = {"avg_num_neighbors": 10.0, "per_type_energy_scales": 1.0, "per_type_energy_shifts": 0.0}

            def make(seed: int) -> Any:
                state.set_global_state()
                given = {"type_names": config.new_symbols, "r_max": config.cutoff or 5.0, "model_dtype": "float64"}
                builder = getattr(builders, config.builder)
                return builder(seed=seed, do_derivatives=False, **{**defaults, **config.settings, **given})

            module = build(make, config.builder)
        else:
            file.require_trust(config.trust, "checkpoints and packages of nequip can run code while they are read")
            saved = foreign("nequip.model.saved_models", package="nequip", extra="nequip")
            with explained(file.path), undisturbed(), quiet(), file.private_copy() as copy:
                state.set_global_state()
                module = saved.load_saved_model(str(copy))
        if unknown := [name for name in module.type_names if name not in atomic_numbers]:
            raise ConfigError(f"its types are no elements: {', '.join(unknown)}", where=config.weights)
        numbers = [atomic_numbers[name] for name in module.type_names]
        references = dict.fromkeys(numbers, 0.0)
        for part in module.modules():
            part.requires_grad_(True)
            if type(part).__name__ == "PerTypeScaleShift" and part.has_shifts:
                for z, shift in zip(numbers, part.shifts.flatten().expand(len(numbers)).tolist(), strict=True):
                    references[z] += shift
                part.shifts.data.zero_()
        return ForeignModel(module, tuple(numbers), float(module.metadata["r_max"]), file, references)

    def atomic_energies(self, batch: Batch) -> Tensor:
        """See :meth:`~hessgnn.potentials.base.Potential.atomic_energies`."""
        self.species(batch)  # refuses elements that the potential does not know
        energy_model = getattr(self.model.model, "func", self.model.model)  # what forces are computed around
        out = energy_model(
            {
                "pos": batch.positions,
                "atom_types": self.types[batch.numbers],
                "edge_index": batch.edge_index,
                "edge_vectors": batch.edge_vectors(),
                "batch": batch.batch,
                "num_atoms": batch.n_atoms,
            }
        )
        return out["atomic_energy"].squeeze(-1).to(batch.positions.dtype)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> NequIPPackage:
        """Convert as any module; parts of nequip also hold the type that they convert to."""
        super()._apply(fn, recurse)
        dtype = next(self.model.parameters()).dtype
        for part in self.model.modules():
            for name in ("_output_dtype", "model_dtype"):
                if hasattr(part, name):
                    setattr(part, name, dtype)
        return self


def _require_harmless(config: NequIPPackage.Config) -> None:
    """Refuse settings that name functions for hydra to call, but for pair potentials, unless the user trusts them."""
    places: list[Any] = [config.settings]
    while places and not config.trust:
        place = places.pop()
        if isinstance(place, dict) and (name := place.get("_target_")) is not None and name not in _CALLED:
            hint = "set potential.trust=true if you know what it does"
            raise ConfigError(f"{name} would be called, which can run any code", where=_SETTINGS, hint=hint)
        if isinstance(place, dict | list):
            places += place.values() if isinstance(place, dict) else place


def _count(module: Any, kind: str) -> int:
    return sum(type(part).__name__ == kind for part in module.modules())
