"""Extended tight binding through tblite: C. Bannwarth, S. Ehlert, S. Grimme, JCTC 15, 1652 (2019)."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from ase import Atoms
from ase.calculators.calculator import CalculatorError
from pydantic import Field, PositiveFloat
from tblite.ase import TBLite

from hessgnn.data.factory.engines.base import Engine, EngineSettings
from hessgnn.data.structure import Array


class TBLiteSettings(EngineSettings):
    """GFN-xTB: milliseconds for a gradient, Hessians by central differences."""

    name: Literal["tblite"] = "tblite"
    method: Literal["GFN2-xTB", "GFN1-xTB"] = "GFN2-xTB"
    accuracy: PositiveFloat = Field(default=1e-5, description="tblite's accuracy; smaller is tighter, 1 its default")


class TBLiteEngine(Engine):
    """GFN1-xTB or GFN2-xTB.

    Parameters
    ----------
    settings
        Method, accuracy and step.
    """

    settings: TBLiteSettings
    packages: ClassVar = ("tblite",)
    failures: ClassVar = (CalculatorError, RuntimeError, ValueError)

    def __init__(self, settings: TBLiteSettings) -> None:
        super().__init__(settings, level_of_theory=settings.method)
        # One calculator for all molecules: it keeps the density of the last one as a guess for neighbouring geometries.
        self._calculator = TBLite(
            method=settings.method,
            accuracy=settings.accuracy,
            max_iterations=500,
            verbosity=0,
            cache_api=True,
        )

    def compute(self, atoms: Atoms) -> tuple[float, Array]:
        """Energy (eV) and analytic forces ``(N, 3)`` (eV/Å)."""
        image = atoms.copy()
        image.calc = self._calculator
        return float(image.get_potential_energy()), np.array(image.get_forces())
