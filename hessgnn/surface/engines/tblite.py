"""Extended tight binding through tblite: C. Bannwarth, S. Ehlert, S. Grimme, JCTC 15, 1652 (2019)."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from ase import Atoms
from pydantic import Field, PositiveFloat
from tblite.interface import Calculator

from hessgnn.data.structure import Array
from hessgnn.surface.engines.base import Engine, EngineSettings, engine
from hessgnn.units import BOHR, HARTREE, HARTREE_PER_BOHR

_ITERATIONS = 500
"""Of the self-consistent field."""


class TBLiteSettings(EngineSettings):
    """GFN-xTB: milliseconds for a gradient, Hessians by central differences."""

    name: Literal["tblite"] = "tblite"
    method: Literal["GFN2-xTB", "GFN1-xTB"] = "GFN2-xTB"
    accuracy: PositiveFloat = Field(default=1e-5, description="tblite's accuracy; smaller is tighter, 1 its default")


@engine("tblite")
class TBLiteEngine(Engine):
    """GFN1-xTB or GFN2-xTB."""

    Settings = TBLiteSettings
    settings: TBLiteSettings
    packages: ClassVar = ("tblite",)
    of_data = True

    def __init__(self, settings: TBLiteSettings) -> None:
        super().__init__(settings, level_of_theory=settings.method)
        self._system = b""
        self._calculator: Any = None
        self._last: Any = None

    def compute(self, atoms: Atoms) -> tuple[float, Array]:
        """Energy (eV) and analytic forces ``(N, 3)`` (eV/Å)."""
        # Asked directly: ASE's calculator takes up to a third longer for molecules of this size.
        positions = atoms.positions / BOHR
        lattice = atoms.cell.array / BOHR if atoms.pbc.any() else None
        system = atoms.numbers.tobytes() + atoms.pbc.tobytes()
        if system == self._system:
            self._calculator.update(positions, lattice)
        else:
            periodic = None if lattice is None else atoms.pbc
            self._calculator = Calculator(
                self.settings.method, atoms.numbers, positions, lattice=lattice, periodic=periodic
            )
            self._calculator.set("accuracy", self.settings.accuracy)
            self._calculator.set("max-iter", _ITERATIONS)
            self._calculator.set("verbosity", 0)
            self._system, self._last = system, None
        try:
            self._last = self._calculator.singlepoint(self._last)  # the density of the last geometry is a good guess
        except RuntimeError:
            self._last = None
            raise
        return float(self._last["energy"]) * HARTREE, -np.array(self._last["gradient"]) * HARTREE_PER_BOHR
