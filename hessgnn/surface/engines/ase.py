"""Any calculator of ASE as a label engine, with Hessians by central differences of its forces."""

from __future__ import annotations

from typing import Any, Literal

from ase import Atoms
from ase.calculators.calculator import Calculator, CalculatorError
from pydantic import Field

from hessgnn.data.structure import Array
from hessgnn.errors import ConfigError
from hessgnn.runtime.imports import import_path
from hessgnn.surface.base import Surface
from hessgnn.surface.engines.base import Engine, EngineSettings, engine


class AseSettings(EngineSettings):
    """A calculator named by its import path; the recipe runs that code, so read it first as you would any program."""

    name: Literal["ase"] = "ase"
    calculator: str = Field(description="module:factory, called with the arguments below")
    arguments: dict[str, Any] = Field(default={}, description="keyword arguments of the factory")
    level_of_theory: str = Field(min_length=1, description="what the labels are, for the data set's records")


@engine("ase")
class AseEngine(Engine):
    """What an ASE calculator computes.

    Raises
    ------
    ConfigError
        When it cannot be imported or made, or computes no forces.
    """

    Settings = AseSettings
    settings: AseSettings
    failures = (CalculatorError, RuntimeError, ValueError, OSError)

    def __init__(self, settings: AseSettings) -> None:
        super().__init__(settings, level_of_theory=settings.level_of_theory)
        where = f"engine.calculator {settings.calculator}"
        factory = import_path(settings.calculator)
        try:
            self._own: Calculator = factory(**settings.arguments)
        except (TypeError, ValueError, RuntimeError, OSError) as error:
            raise ConfigError(f"cannot be made ({error})", where=where, hint="check engine.arguments") from error
        if "forces" not in getattr(self._own, "implemented_properties", ()):
            raise ConfigError("computes no forces", where=where, hint="name a calculator with analytic forces")

    def compute(self, atoms: Atoms) -> tuple[float, Array]:
        """Energy (eV) and forces ``(N, 3)`` (eV/Å) of the calculator."""
        return Surface.compute(self, atoms)
