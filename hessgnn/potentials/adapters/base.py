"""What adapters share: settings, the package that is needed, and the model inside."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from ase.data import chemical_symbols
from pydantic import Field, PositiveFloat, field_validator
from torch import nn

from hessgnn.errors import ConfigError
from hessgnn.potentials.adapters.files import WeightFile
from hessgnn.potentials.base import Potential, PotentialConfig
from hessgnn.potentials.blocks.layers import mend_layer_norms


class AdaptedConfig(PotentialConfig):
    """Which weights of which model. Elements and cutoff are those of the model."""

    elements: tuple[int, ...] = Field(
        default=(), description="atomic numbers, some of those that the model knows; all of them if absent"
    )
    cutoff: PositiveFloat | None = Field(  # type: ignore[assignment]
        default=None, description="Å: that of the model, and another one is refused"
    )
    weights: str = Field(description="a name that the package knows, or a file of weights")
    weights_sha256: str | None = Field(
        default=None, description="hash of that file, filled in by a run; a file with another content is then refused"
    )
    trust: bool = Field(
        default=False,
        description="load a file that can run any code while it is read (a pickle), such as a whole saved module; only "
        "for files whose origin is known",
    )

    not_loaded_by: ClassVar[tuple[str, ...]] = ("elements", "cutoff", "weights_sha256")
    """Fields that make no other model."""

    @field_validator("elements")
    @classmethod
    def _sorted_and_known(cls, elements: tuple[int, ...]) -> tuple[int, ...]:
        return super()._sorted_and_known(elements) if elements else elements


@dataclass(frozen=True)
class ForeignModel:
    """A model of another package, and what must be known of it.

    Attributes
    ----------
    module
        In any floating type, on the CPU.
    elements
        Atomic numbers that it knows.
    cutoff
        Å, of the neighbour list that it needs.
    file
        Where its weights come from; ``None`` for a new model, whose weights are drawn each time.
    reference_energies
        eV of each free atom, by atomic number, where the adapter took them out of the module: float32 would lose
        their digits there. Zero if absent.
    """

    module: nn.Module
    elements: tuple[int, ...]
    cutoff: float
    file: WeightFile | None = None
    reference_energies: Mapping[int, float] = field(default_factory=dict)


class AdaptedPotential(Potential):
    """A potential of another package behind the one interface.

    An adapter writes :meth:`load_model` and ``atomic_energies`` in eV, so the scale stays 1. One that knows total
    energies only derives from :class:`~hessgnn.potentials.base.TotalEnergyPotential` as well, and writes
    ``structure_energies``. Reference energies are added to what the model gives. They are zero until they are fitted
    to data of another level of theory.
    """

    Config = AdaptedConfig
    products_at_once = 4  # measured with hexane on a CPU, as in the adapters that set it
    package: ClassVar[str] = ""
    """What must be installed, as pip calls it."""
    model: Any
    """What the adapter has loaded."""

    def __init__(self, config: AdaptedConfig) -> None:
        model = _load_once(type(self), config)
        super().__init__(config.model_copy(update=_resolved(config, model)))
        self.model = model.module
        mend_layer_norms(self.model)
        if model.reference_energies:
            self.set_scaling(model.reference_energies, 1.0)

    @classmethod
    @abstractmethod
    def load_model(cls, config: AdaptedConfig) -> ForeignModel:
        """Load the model that ``config.weights`` names; :class:`ConfigError` where it cannot be loaded."""


MOST = 4
"""Models that are kept, so that a potential that is made again and again is loaded once."""

_models: dict[tuple[type[AdaptedPotential], str], ForeignModel] = {}


def _load_once(cls: type[AdaptedPotential], config: AdaptedConfig) -> ForeignModel:
    """A copy of the model, which is loaded again when its file has changed."""
    key = (cls, config.model_dump_json(exclude={*config.not_loaded_by}))
    known = _models.pop(key, None)
    if known is None or (known.file is not None and not known.file.unchanged()):
        _require_file_of_run(config)
        known = cls.load_model(config)
    if known.file is None:
        return known
    _models[key] = known  # the latest is the last
    while len(_models) > MOST:
        _models.pop(next(iter(_models)))
    return replace(known, module=copy.deepcopy(known.module))


def _require_file_of_run(config: AdaptedConfig) -> None:
    """Say that a run needs the file that it began with, where that is gone."""
    path = Path(config.weights or "")
    if config.weights_sha256 is not None and path.is_absolute() and not path.is_file():
        raise ConfigError(
            "no such file: the run began with these weights and needs them to make the model again",
            where=path,
            hint=f"bring the file back to this place (SHA-256 {config.weights_sha256[:12]}...)",
        )


def _resolved(config: AdaptedConfig, model: ForeignModel) -> dict[str, object]:
    unknown = sorted(set(config.elements) - set(model.elements))
    if unknown:
        raise ConfigError(
            f"{config.weights} does not know {', '.join(chemical_symbols[z] for z in unknown)}",
            where="key 'potential.elements'",
            hint="leave structures with these elements out, or choose other weights",
        )
    if config.cutoff is not None and abs(config.cutoff - model.cutoff) > 1e-9:
        raise ConfigError(
            f"the cutoff of {config.weights} is {model.cutoff:g} Å, not {config.cutoff:g}",
            where="key 'potential.cutoff'",
            hint="leave it out",
        )
    found: dict[str, object] = {
        "elements": config.elements or tuple(sorted(model.elements)),
        "cutoff": model.cutoff,
    }
    if model.file is not None:
        if config.weights_sha256 not in (None, model.file.sha256):
            raise ConfigError(
                "these are not the weights that the configuration was made with: the content has changed",
                where=model.file.path,
                hint="bring the file back, or leave out potential.weights_sha256 to use the new content",
            )
        found |= {"weights": model.file.name, "weights_sha256": model.file.sha256}
    return found
