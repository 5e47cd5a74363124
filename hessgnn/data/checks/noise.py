"""How noisy the labels are, from what must be zero: no reference calculation is needed."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hessgnn.data.checks.finding import Seen


@dataclass(frozen=True)
class Noise:
    """One estimate of the noise of a label.

    Attributes
    ----------
    quantity : str
        What must be zero.
    unit : str
        Of the numbers below.
    count : int
        Structures, or pairs of them, that were measured.
    median, high, largest : float
        50 % and 95 % quantiles, and the largest.
    """

    quantity: str
    unit: str
    count: int
    median: float
    high: float
    largest: float


SYMMETRY = "max |H − Hᵀ| (as made)"
TRANSLATION = "max |Σ_j H_ij| (translation)"
ROTATION = "max |H u + ω × F| (rotation)"
NET_FORCE = "|Σ_i F_i|"
FORCES_AGAINST_ENERGIES = "ΔE + F·d between frames ≤"
HESSIANS_AGAINST_FORCES = "ΔF + H d between frames ≤"
"""The last two hold the anharmonicity between two frames besides: they bound the noise from above."""


class LabelNoise:
    """Measures each structure by itself."""

    def __init__(self) -> None:
        self._measured = {key: array("d") for key in (SYMMETRY, TRANSLATION, ROTATION, NET_FORCE)}

    def see(self, seen: Seen) -> None:
        """Measure one."""
        if seen.structure.hessian is not None:
            self._measured[SYMMETRY].append(seen.structure.hessian_asymmetry or 0.0)
        for key, residual in (
            (TRANSLATION, seen.shift_residual),
            (ROTATION, seen.turn_residual),
            (NET_FORCE, seen.net_force),
        ):
            if residual is not None:
                self._measured[key].append(residual)

    def estimates(self, energy_residuals: Sequence[float] = (), force_residuals: Sequence[float] = ()) -> list[Noise]:
        """Sum up, with the residuals of the trapezoidal rule between frames, eV and eV/Å."""
        units = {SYMMETRY: "eV/Å²", TRANSLATION: "eV/Å²", ROTATION: "eV/Å²", NET_FORCE: "eV/Å"}
        found = [_noise(key, units[key], values) for key, values in self._measured.items() if len(values)]
        if energy_residuals:
            found.append(_noise(FORCES_AGAINST_ENERGIES, "eV", energy_residuals))
        if force_residuals:
            found.append(_noise(HESSIANS_AGAINST_FORCES, "eV/Å", force_residuals))
        return found


def _noise(quantity: str, unit: str, values: Sequence[float]) -> Noise:
    median, high, largest = np.quantile(values, [0.5, 0.95, 1.0])
    return Noise(quantity, unit, len(values), float(median), float(high), float(largest))
