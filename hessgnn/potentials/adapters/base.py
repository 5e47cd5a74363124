"""What adapters share: settings, the package that is needed, and the model inside."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

from ase.data import chemical_symbols
from pydantic import Field, PositiveFloat
from torch import nn

from hessgnn.errors import ConfigError
from hessgnn.potentials.base import PotentialConfig, TotalEnergyPotential


class AdaptedConfig(PotentialConfig):
    """Which weights of which model. Elements and cutoff are those of the model."""

    elements: tuple[int, ...] = Field(
        default=(), description="atomic numbers, some of those that the model knows; all of them if absent"
    )
    cutoff: PositiveFloat | None = Field(  # type: ignore[assignment]
        default=None, description="Å: that of the model, and another one is refused"
    )
    weights: str = Field(description="a name that the package knows, or a file of weights")
    trust: bool = Field(
        default=False,
        description="load a file that can run any code while it is read (a pickle), such as a whole saved module; only "
        "for files whose origin is known",
    )


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
    """

    module: nn.Module
    elements: tuple[int, ...]
    cutoff: float


class AdaptedPotential(TotalEnergyPotential):
    """A potential of another package behind the one interface.

    An adapter writes :meth:`load_model` and ``structure_energies`` (in eV, so the scale stays 1). Reference energies
    are added to what the model gives. They are zero until they are fitted to data of another level of theory.
    """

    Config = AdaptedConfig

    def __init__(self, config: AdaptedConfig) -> None:
        model = self.load_model(config)
        super().__init__(config.model_copy(update=_resolved(config, model)))
        self.model = model.module

    @classmethod
    @abstractmethod
    def load_model(cls, config: AdaptedConfig) -> ForeignModel:
        """Load the model that ``config.weights`` names; :class:`ConfigError` where it cannot be loaded."""


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
    return {"elements": config.elements or tuple(sorted(model.elements)), "cutoff": model.cutoff}
