"""Checks that tie labels together: forces must be the slope of the energies, Hessians that of the forces."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from hessgnn.data.checks.consistency import (
    TOLERANCE,
    Pair,
    SlopeFit,
    fit,
    forces_against_energies,
    hessians_against_forces,
)
from hessgnn.data.checks.finding import Finding, Seen, finding
from hessgnn.data.checks.magnitude import ENERGY_UNITS, FORCE_UNITS, HESSIAN_UNITS, likely_unit, misreading
from hessgnn.data.structure import Structure

MIN_TURN = 5e-2
"""Turns whose forces change by less, eV/Å², are at a stationary point and give no slope."""
MAX_MISFIT = 1.0
"""Residual of a pair over its scale; the wrong sign gives 2, anharmonicity up to 0.6 at 0.3 Å."""
MIN_MISFIT = 0.1
"""Smaller residuals, eV or eV/Å, are noise rather than a fault."""
SHUFFLED = 0.5
"""When so large a share of at least :data:`MIN_SHUFFLED` pairs does not fit, the labels belong to other frames."""
MIN_SHUFFLED = 10


class Slopes:
    """Compares neighbouring frames, which it is shown molecule by molecule, and turns of single ones."""

    def __init__(self) -> None:
        self._turns: list[float] = []
        self._turned: dict[int, str] = {}
        self._forces = _Comparison("forces are not the slope of the energies", "eV")
        self._hessians = _Comparison("Hessians are not the slope of the forces", "eV/Å")

    def see(self, seen: Seen) -> None:
        """Turn one."""
        turned = seen.turned
        if turned is not None and (size := float((turned[1] ** 2).sum())) > MIN_TURN**2:
            self._turns.append(float((turned[0] * turned[1]).sum()) / size)
            self._turned[seen.index] = seen.structure.name

    def see_molecule(self, frames: Mapping[int, Structure]) -> None:
        """Compare the frames of one group; keys are their indices."""
        places = {structure.name: index for index, structure in frames.items()}
        for pair in forces_against_energies(frames.values()):
            self._forces.add(pair, places)
        for pair in hessians_against_forces(frames.values()):
            self._hessians.add(pair, places)

    @property
    def energy_residuals(self) -> list[float]:
        """``|ΔE + ½ (F₁ + F₂)·d|`` of each pair, eV."""
        return self._forces.residuals

    @property
    def force_residuals(self) -> list[float]:
        """``|ΔF + ½ (H₁ + H₂) d|`` of each pair, eV/Å."""
        return self._hessians.residuals

    def findings(self) -> Iterator[Finding]:
        """Blame the label that the others contradict; else list the frames that fit no neighbour."""
        to_energies = fit(self._forces.slopes)
        to_forces, turned = fit(self._turns), self._turned  # exact, where frames are blurred by anharmonicity
        if to_forces is None:
            to_forces, turned = fit(self._hessians.slopes), self._hessians.names
        verdicts = list(_verdicts(to_energies, to_forces))
        for verdict in verdicts:
            names = turned if verdict.of_hessians else self._forces.names
            yield finding("error", verdict.code, verdict.what, list(names), list(names.values()))
        if not verdicts:
            yield from self._forces.misfits()
            yield from self._hessians.misfits()


class _Comparison:
    """Pairs of frames, one kind of derivative."""

    def __init__(self, what: str, unit: str) -> None:
        self._what, self._unit = what, unit
        self.slopes: list[float] = []
        self.residuals: list[float] = []
        self.names: dict[int, str] = {}
        self._misfits: Counter[int] = Counter()
        self._count, self._worst = 0, 0.0

    def add(self, pair: Pair, places: Mapping[str, int]) -> None:
        self.slopes.append(pair.slope)
        self.residuals.append(pair.residual)
        members = {places[structure.name]: structure.name for structure in pair.structures}
        self.names |= members
        if pair.residual > max(MAX_MISFIT * pair.scale, MIN_MISFIT):
            self._count, self._worst = self._count + 1, max(self._worst, pair.residual)
            self._misfits.update(members.keys())

    def misfits(self) -> Iterator[Finding]:
        """Frames of pairs that do not fit, those of most pairs first."""
        if self._count:
            shuffled = len(self.slopes) >= MIN_SHUFFLED and self._count > SHUFFLED * len(self.slopes)
            indices = [index for index, _ in self._misfits.most_common()]
            what = f"{self._what} between neighbouring frames, by up to {self._worst:.3g} {self._unit},"
            what += f" in {self._count} of {len(self.slopes)} pairs: labels of other frames or of another state?"
            names = [self.names[index] for index in indices]
            yield finding("error" if shuffled else "warning", "slope-outlier", what, indices, names)


@dataclass(frozen=True)
class _Verdict:
    """Which label is wrong and how."""

    code: str
    what: str
    of_hessians: bool = False


def _verdicts(to_energies: SlopeFit | None, to_forces: SlopeFit | None) -> Iterator[_Verdict]:
    """Weigh both slopes: forces over the slope of energies, and Hessians over the slope of forces."""
    energies_off = to_energies is not None and to_energies.is_off
    hessians_off = to_forces is not None and to_forces.is_off
    slope = 1.0
    if to_energies is not None and energies_off:
        if to_forces is not None and not hessians_off:
            yield _energies(to_energies.slope)
        else:
            slope = _factor(to_energies.slope)
            yield _forces(to_energies.slope, alone=to_forces is None)
    if to_forces is not None and hessians_off:
        left = to_forces.slope * slope  # what is off once the forces are right is the Hessians' own mistake
        if not 1 / TOLERANCE < left < TOLERANCE:
            yield _hessians(left)


def _factor(slope: float) -> float:
    """The mistake in forces that a slope, blurred by anharmonicity, points to."""
    size = abs(slope)
    if not 1 / TOLERANCE < size < TOLERANCE:
        name = likely_unit(size, FORCE_UNITS)
        unit = size if name is None else FORCE_UNITS[name]
        size = min(unit, 1 / unit, key=lambda factor: abs(np.log(size / factor)))
        return float(np.copysign(size, slope))
    return float(np.copysign(1.0, slope))


def _energies(slope: float) -> _Verdict:
    what = "forces and Hessians agree, but"
    if slope < 0:
        return _Verdict("energy-sign", f"{what} energies rise along the forces: energies have the wrong sign")
    reading = misreading(1 / slope, ENERGY_UNITS, "eV")
    return _Verdict("energy-unit", f"{what} energies between neighbouring frames are {reading}")


def _forces(slope: float, *, alone: bool) -> _Verdict:
    if slope < 0:
        return _Verdict("forces-sign", "energies rise along the forces: forces have the wrong sign, or hold gradients")
    what = f"against the energies of neighbouring frames, forces are {misreading(slope, FORCE_UNITS, 'eV/Å')}"
    if alone:  # without Hessians nobody can tell which of the two is wrong
        what += f" Or energies {misreading(1 / slope, ENERGY_UNITS, 'eV')}"
    return _Verdict("forces-unit", what)


def _hessians(slope: float) -> _Verdict:
    if slope < 0:
        what = "forces change along a displacement d by +H d, not −H d: Hessians have the wrong sign"
        return _Verdict("hessian-forces-sign", what, of_hessians=True)
    what = f"against the change of forces, Hessians are {misreading(slope, HESSIAN_UNITS, 'eV/Å²')}"
    return _Verdict("hessian-forces-unit", what, of_hessians=True)
