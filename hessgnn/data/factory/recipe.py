"""The recipe of a data set: everything that its numbers depend on, read from YAML."""

from __future__ import annotations

from typing import Literal

from ase.data import atomic_numbers
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, field_validator

from hessgnn.config import Settings


class EngineSettings(Settings):
    """How labels are computed."""

    method: Literal["GFN2-xTB", "GFN1-xTB"] = "GFN2-xTB"
    accuracy: PositiveFloat = Field(default=1e-5, description="tblite's accuracy; smaller is tighter, 1 its default")
    step: PositiveFloat = Field(default=2e-4, le=0.1, description="central-difference step of the Hessian, Å")
    sum_rule_tolerance: PositiveFloat = Field(
        default=1e-3, description="largest |Σ_j H_ij| of a Hessian that is accepted, eV/Å²"
    )


class GeometrySettings(Settings):
    """Where the starting geometries come from."""

    source: Literal["g2"] = "g2"
    elements: list[str] = Field(default=["H", "C", "N", "O"], min_length=1)
    min_atoms: int = Field(default=2, ge=2, description="a single atom has no internal motion to learn")
    max_atoms: PositiveInt = 50
    names: list[str] | None = Field(default=None, description="only these molecules; all by default")

    @field_validator("elements")
    @classmethod
    def _known(cls, elements: list[str]) -> list[str]:
        unknown = [symbol for symbol in elements if symbol not in atomic_numbers]
        if unknown:
            raise ValueError(f"no such element: {', '.join(unknown)}")
        return elements


class MinimumSettings(Settings):
    """When a geometry counts as a minimum."""

    fmax: PositiveFloat = Field(default=1e-5, description="largest force on any atom, eV/Å")
    max_steps: PositiveInt = 1000
    pushes: NonNegativeInt = Field(default=3, description="times a saddle is left along its imaginary mode")


class DisplacedSettings(Settings):
    """Frames displaced along the normal modes of each minimum."""

    frames: NonNegativeInt = 8
    max_energy: PositiveFloat = Field(default=1.7346, description="highest energy above the minimum, eV")
    attempts: PositiveInt = Field(default=100, description="draws per frame before the molecule counts as failed")


class SplitSettings(Settings):
    """How the minima are divided, by molecule. Displaced frames go to ``nms``, or to validation with their molecule."""

    fractions: dict[str, float] = Field(default={"train": 0.7, "validation": 0.15, "test": 0.15})
    seed: NonNegativeInt = 0


class Recipe(Settings):
    """A data set that can be built again."""

    name: str
    description: str = ""
    seed: NonNegativeInt = Field(default=0, description="of the displacements; each molecule has a stream of its own")
    engine: EngineSettings = EngineSettings()
    geometries: GeometrySettings = GeometrySettings()
    minimum: MinimumSettings = MinimumSettings()
    displaced: DisplacedSettings = DisplacedSettings()
    split: SplitSettings = SplitSettings()
