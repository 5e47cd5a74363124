"""A potential as a label engine: a trained one, or a published one of another package, with its analytic Hessians.

Labels of a potential are a surface to learn from (distillation), and the record of what a model predicted before it
was trained further.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from ase import Atoms
from pydantic import Field, model_validator

from hessgnn.data.structure import Array
from hessgnn.errors import ConfigError
from hessgnn.potentials.base import POTENTIALS, Potential, resolve
from hessgnn.potentials.saved import BEST, create_from, load
from hessgnn.runtime.imports import import_path
from hessgnn.surface.engines.base import ENGINES, Engine, EngineSettings, engine
from hessgnn.surface.potential import PotentialSurface


class PotentialSettings(EngineSettings):
    """A run folder, or the name and weights of a potential of another package."""

    name: Literal["potential"] = "potential"
    run: Path | None = Field(default=None, description="run folder of a trained potential")
    potential: dict[str, Any] | None = Field(
        default=None, description="name and settings of a potential that comes with weights: `{name: sevennet}`"
    )
    level_of_theory: str | None = Field(
        default=None, min_length=1, description="what the labels are; the name of the folder or the weights if absent"
    )
    device: str = "cpu"

    @model_validator(mode="after")
    def _one(self) -> PotentialSettings:
        if (self.run is None) == (self.potential is None):
            raise ValueError("give one of run and potential")
        return self


@engine("potential")
class PotentialEngine(Engine):
    """What a potential predicts, in float64.

    Raises
    ------
    ConfigError
        When the run or the weights cannot be read, or the potential has no weights until it is trained.
    """

    Settings = PotentialSettings
    settings: PotentialSettings

    def __init__(self, settings: PotentialSettings) -> None:
        potential = _loaded(settings.model_dump_json(), _changed(settings))
        super().__init__(settings, level_of_theory=settings.level_of_theory or _level(settings, potential))
        self._surface = PotentialSurface(potential, self.level_of_theory, device=settings.device)
        self.fingerprint = self._surface.fingerprint

    def compute(self, atoms: Atoms) -> tuple[float, Array]:
        """Energy (eV) and forces ``(N, 3)`` (eV/Å)."""
        return self._surface.compute(atoms)

    def second_derivatives(self, atoms: Atoms) -> Array:
        """Second derivatives ``(3N, 3N)``, eV/Å², by automatic differentiation."""
        return self._surface.second_derivatives(atoms)


def engine_settings(text: str) -> dict[str, Any]:
    """Settings of the engine that a user names: an engine, a run folder, or a potential that comes with weights."""
    if Path(text).is_dir():
        return {"name": "potential", "run": text}
    found = import_path(text) if ":" in text else None
    is_potential = isinstance(found, type) and issubclass(found, Potential)
    if is_potential or (text not in ENGINES and text in POTENTIALS):
        return {"name": "potential", "potential": {"name": text}}
    return {"name": text}


def _level(settings: PotentialSettings, potential: Potential) -> str:
    """What labels are called: the name of the run's folder or of the weights, or what a file of weights is called."""
    if settings.run is not None:
        return settings.run.resolve().name
    weights = str(potential.config.weights)  # type: ignore[attr-defined]
    return Path(weights).stem if Path(weights).is_file() else weights


@lru_cache(maxsize=2)  # a worker makes an engine for each part of its work
def _loaded(settings: str, changed: int) -> Potential:  # noqa: ARG001 - weights that changed are read again
    wanted = PotentialSettings.model_validate_json(settings)
    if wanted.run is not None:
        return load(wanted.run)
    assert wanted.potential is not None
    name = wanted.potential.get("name")
    if isinstance(name, str) and "weights" not in resolve(name).Config.model_fields:
        raise ConfigError(
            f"{name} has no weights until it is trained",
            where="key 'engine.potential'",
            hint="give a run folder (`run: runs/mine`), or name a potential of another package",
        )
    return create_from(wanted.potential, "float64")


def _changed(settings: PotentialSettings) -> int:
    """When the weights of a run were written, ns; 0 where that does not matter."""
    weights = None if settings.run is None else settings.run / BEST
    return weights.stat().st_mtime_ns if weights is not None and weights.is_file() else 0
