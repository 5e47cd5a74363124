"""What do Hessian labels buy, for which machine-learning interatomic potential, at what cost.

The names below are all that a user must know; each is imported when it is first used, so that ``import hessgnn`` and
the command line start quickly.
"""

from __future__ import annotations

import importlib
from importlib import metadata
from typing import TYPE_CHECKING, Any

from hessgnn.runtime.machine import wait_briefly

if TYPE_CHECKING:
    from hessgnn.curvature.model import Prediction
    from hessgnn.data.batch import Batch
    from hessgnn.errors import UserError
    from hessgnn.evaluation.evaluate import evaluate
    from hessgnn.potentials.base import Potential, PotentialConfig, TotalEnergyPotential, create, register
    from hessgnn.potentials.saved import load
    from hessgnn.training.config import RunConfig
    from hessgnn.training.trainer import train

__all__ = [
    "Batch",
    "Potential",
    "PotentialConfig",
    "Prediction",
    "RunConfig",
    "TotalEnergyPotential",
    "UserError",
    "create",
    "evaluate",
    "load",
    "register",
    "train",
]

_HOME = {
    "Batch": "hessgnn.data.batch",
    "Potential": "hessgnn.potentials.base",
    "PotentialConfig": "hessgnn.potentials.base",
    "Prediction": "hessgnn.curvature.model",
    "RunConfig": "hessgnn.training.config",
    "TotalEnergyPotential": "hessgnn.potentials.base",
    "UserError": "hessgnn.errors",
    "create": "hessgnn.potentials.base",
    "evaluate": "hessgnn.evaluation.evaluate",
    "load": "hessgnn.potentials.saved",
    "register": "hessgnn.potentials.base",
    "train": "hessgnn.training.trainer",
}


wait_briefly()  # before torch is imported


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return metadata.version("hessgnn")
    if name not in _HOME:
        raise AttributeError(f"module 'hessgnn' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
