"""What computes labels: one file per engine, chosen by ``engine.name`` in the recipe."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import BeforeValidator, SerializeAsAny

from hessgnn.runtime.config import parse_named
from hessgnn.surface.engines.ase import AseEngine, AseSettings
from hessgnn.surface.engines.base import Engine, EngineCalculator, EngineSettings, HessianLabel, LabelError
from hessgnn.surface.engines.pyscf import PySCFEngine, PySCFSettings
from hessgnn.surface.engines.tblite import TBLiteEngine, TBLiteSettings

__all__ = [
    "ENGINES",
    "AseEngine",
    "AseSettings",
    "Engine",
    "EngineCalculator",
    "EngineChoice",
    "EngineSettings",
    "HessianLabel",
    "LabelError",
    "PySCFEngine",
    "PySCFSettings",
    "TBLiteEngine",
    "TBLiteSettings",
    "make_engine",
]

ENGINES: dict[str, tuple[type[EngineSettings], Callable[[Any], Engine]]] = {
    "tblite": (TBLiteSettings, TBLiteEngine),
    "pyscf": (PySCFSettings, PySCFEngine),
    "ase": (AseSettings, AseEngine),
}
"""Name -> what the recipe may say, and the engine."""


def _chosen(content: Any) -> EngineSettings:
    models = {name: settings for name, (settings, _) in ENGINES.items()}
    return parse_named(models, content, key="name", where="engine", default="tblite")


EngineChoice = Annotated[SerializeAsAny[EngineSettings], BeforeValidator(_chosen)]
"""A field of settings that holds those of any engine, by its name; tblite where none is given."""


def make_engine(settings: EngineSettings) -> Engine:
    """Make the engine that settings belong to.

    Parameters
    ----------
    settings
        From a recipe.

    Returns
    -------
    Engine
        Ready to compute.

    Raises
    ------
    ConfigError
        When the engine's package is missing.
    """
    return ENGINES[settings.name][1](settings)
