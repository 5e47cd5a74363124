"""What computes labels: one file per engine, chosen by ``engine.name`` in the recipe."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hessgnn.data.factory.engines.ase import AseEngine, AseSettings
from hessgnn.data.factory.engines.base import Engine, EngineCalculator, EngineSettings, HessianLabel, LabelError
from hessgnn.data.factory.engines.pyscf import PySCFEngine, PySCFSettings
from hessgnn.data.factory.engines.tblite import TBLiteEngine, TBLiteSettings

__all__ = [
    "ENGINES",
    "AseEngine",
    "AseSettings",
    "Engine",
    "EngineCalculator",
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
