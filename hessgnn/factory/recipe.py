"""The recipe of a data set: everything that its numbers depend on, read from YAML."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, SerializeAsAny, field_validator, model_validator

from hessgnn.data.store.splits import Relation
from hessgnn.data.store.store import Store
from hessgnn.data.structure import KINDS
from hessgnn.errors import ConfigError, DataError
from hessgnn.factory.geometries import SOURCES, SourceSettings
from hessgnn.factory.labels import RecipeLabels
from hessgnn.factory.reactions import ReactionSettings
from hessgnn.factory.targets import PairSettings
from hessgnn.runtime.config import Seed, Settings, parse, parse_named
from hessgnn.surface.engines.base import EngineChoice
from hessgnn.surface.engines.tblite import TBLiteSettings


class MinimumSettings(Settings):
    """When a geometry counts as a minimum."""

    fmax: PositiveFloat = Field(default=1e-5, description="largest force on any atom, eV/Å")
    max_steps: PositiveInt = 1000
    pushes: NonNegativeInt = Field(default=3, description="times a saddle is left along its imaginary mode")
    first: EngineChoice | None = Field(
        default=None, description="cheap engine whose minimum and Hessian the optimisation of molecules begins with"
    )


class PathSettings(Settings):
    """Guesses of a saddle point: a geometry halfway, or a path relaxed as a climbing-image nudged elastic band."""

    guesses: list[Literal["halfway", "geodesic", "idpp"]] = Field(
        default=["halfway", "geodesic"], min_length=1, description="ways to guess, tried in turn until one leads there"
    )
    images: PositiveInt = Field(default=9, ge=3, description="between the ends")
    spring: PositiveFloat = Field(default=0.1, description="eV/Å²")
    fmax: PositiveFloat = Field(default=0.1, description="largest force on the band that is converged, eV/Å")
    max_steps: PositiveInt = Field(default=150, description="a band that has not converged still gives a guess")


class SaddleSettings(Settings):
    """The search for the saddle point from the guess."""

    fmax: PositiveFloat = Field(default=1e-5, description="largest force on any atom, eV/Å")
    max_steps: PositiveInt = 100
    renew: PositiveInt = Field(default=10, description="steps after which the Hessian is computed again")


class IRCSettings(Settings):
    """The intrinsic reaction coordinate, and the frames taken from it."""

    frames: NonNegativeInt = Field(default=5, description="on each side of the saddle point")
    fmax: PositiveFloat = Field(default=1e-2, description="largest force where a path ends, eV/Å")
    tolerance: PositiveFloat = Field(default=1e-3, description="of the integration, Å·amu^½")


class DisplacedSettings(Settings):
    """Frames displaced along normal modes, of minima, saddle points and frames of paths."""

    frames: dict[str, NonNegativeInt] = Field(
        default={"minimum": 8}, description="kind of structure -> frames of each, e.g. {minimum: 4, irc: 1}"
    )
    max_energy: PositiveFloat = Field(default=1.7346, description="highest energy above the structure itself, eV")
    softest: PositiveFloat = Field(default=100.0, description="softer modes move as if they had this frequency, cm⁻¹")
    attempts: PositiveInt = Field(default=100, description="draws per frame before it is given up")

    @field_validator("frames")
    @classmethod
    def _known(cls, frames: dict[str, int]) -> dict[str, int]:
        unknown = sorted(set(frames) - set(KINDS))
        if unknown:
            raise ValueError(f"no such kind of structure: {', '.join(unknown)}; there are {', '.join(KINDS)}")
        return frames


class ThermalSettings(Settings):
    """Frames of short molecular dynamics from each minimum."""

    frames: NonNegativeInt = 0
    temperature: PositiveFloat = Field(default=500.0, description="K")
    interval: PositiveFloat = Field(default=50.0, description="between frames, fs")
    time_step: PositiveFloat = Field(default=0.5, description="fs")


class SplitSettings(Settings):
    """How the structures are divided into splits, see :func:`hessgnn.data.store.families.divide`."""

    by: Relation = Field(default="molecule", description="what is never divided between splits")
    fractions: dict[str, float] = Field(
        default={"train": 0.7, "validation": 0.1, "test": 0.2}, description="shares of the stationary points"
    )
    frames: Literal["apart", "together"] = Field(
        default="apart", description="frames in splits of their kinds, or together with what they were made from"
    )
    seed: Seed = 0

    @model_validator(mode="after")
    def _families(self) -> SplitSettings:
        if self.by == "structure" and self.frames == "together":
            raise ValueError("frames: together needs families, which a split by structure has not")
        return self


class Recipe(Settings):
    """A data set that can be built again."""

    name: str
    description: str = ""
    seed: Seed = Field(default=0, description="of all that is drawn; each molecule has a stream of its own")
    engine: EngineChoice = TBLiteSettings()
    geometries: list[SerializeAsAny[SourceSettings]] = Field(default=[], description="starting points of minima")
    reactions: ReactionSettings | None = None
    pairs: list[PairSettings] = Field(default=[], description="reactions whose two sides are geometries")
    minimum: MinimumSettings = MinimumSettings()
    path: PathSettings = PathSettings()
    saddle: SaddleSettings = SaddleSettings()
    irc: IRCSettings = IRCSettings()
    displaced: DisplacedSettings = DisplacedSettings()
    thermal: ThermalSettings = ThermalSettings()
    labels: RecipeLabels = RecipeLabels()
    split: SplitSettings = SplitSettings()
    resolution: PositiveFloat | None = Field(
        default=None, description="stored Hessians are rounded to about so fine a grid, eV/Å²; below their noise"
    )

    @field_validator("geometries", mode="before")
    @classmethod
    def _geometries(cls, content: Any) -> Any:
        if not isinstance(content, list):
            return content
        return [parse_named(SOURCES, source, key="source", where=f"geometries.{k}") for k, source in enumerate(content)]


def require_same(recipe: Recipe, names: Iterable[str], output: Path) -> None:
    """Refuse to replace a file that another recipe made, or one that is more than a recipe makes.

    The same recipe may ask for more molecules and reactions than before; ``names`` are those that it asks for now.

    Raises :class:`DataError`.
    """
    if not output.exists():
        return
    # What is named and described differently is the same; which jobs there are is compared by their names.
    free = {"name", "description", "geometries", "reactions", "pairs"}
    with suppress(DataError, ConfigError, yaml.YAMLError):
        told = yaml.safe_load(Store.open(output).attributes.provenance)
        if isinstance(told, dict) and set(told) == {"recipe", "skipped", "failed", "tasks"}:
            earlier = parse(Recipe, told["recipe"], where=output)
            if earlier.model_dump(exclude=free) == recipe.model_dump(exclude=free) and set(told["tasks"]) <= set(names):
                return
    hint = "give another name with -o, or remove it first"
    raise DataError("exists already, and is not what this recipe makes", where=output, hint=hint)
