"""Naming the unit mistake behind a factor, and judging labels by their magnitude alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from ase import units

from hessgnn.data.checks.finding import Finding, Seen, Suspects, finding
from hessgnn.units import BOHR, HARTREE, HARTREE_PER_BOHR, HARTREE_PER_BOHR2, KCAL_PER_MOL

ENERGY_UNITS = {"Hartree": HARTREE, "kcal/mol": KCAL_PER_MOL, "kJ/mol": units.kJ / units.mol, "Rydberg": units.Rydberg}
FORCE_UNITS = {
    "Hartree/Bohr": HARTREE_PER_BOHR,
    "Hartree/Å": HARTREE,
    "kcal/mol/Å": KCAL_PER_MOL,
    "eV/Bohr": 1 / BOHR,
}
HESSIAN_UNITS = {
    "Hartree/Bohr²": HARTREE_PER_BOHR2,
    "Hartree/Å²": HARTREE,
    "kcal/mol/Å²": KCAL_PER_MOL,
    "mdyn/Å": 100 * units.J / units.m**2,
    "eV/Bohr²": 1 / BOHR**2,
}
LENGTH_UNITS = {"Bohr": BOHR, "nm": 1 / units.Ang * units.nm}
"""eV, eV/Å, eV/Å² and Å in one of each."""

HESSIAN_SCALE = (2.0, 200.0)
"""Where the mean |H_ii| of molecules lies, eV/Å²; about 25 in sets of organic ones, 3 for H₂, 100 for N₂."""
MAX_FORCES = 20.0
"""Largest median, over structures with forces, of the RMS force, eV/Å; about 2 in strongly displaced frames."""

_TYPICAL_HESSIAN = 25.0  # eV/Å²
_PREFERENCE = 1.5  # how much better "converted twice" must fit than "not converted", the usual mistake
_RECOGNISED = 3.0  # a factor this far from every unit is no unit


def misreading(ratio: float, candidates: Mapping[str, float], ours: str) -> str:
    """Name the likely unit mistake.

    Parameters
    ----------
    ratio
        (number found) / (number expected).
    candidates
        Unit -> value of one in our unit.
    ours
        Our unit.

    Returns
    -------
    str
        E.g. ``97.2 times too small: Hartree/Bohr² read as eV/Å²?``
    """
    size = f"{max(ratio, 1 / ratio):.3g} times too {'small' if ratio < 1 else 'large'}"
    name = likely_unit(ratio, candidates)
    if name is None:
        return size
    factor = candidates[name]
    as_read = abs(np.log(ratio * factor)) <= abs(np.log(ratio / factor)) * _PREFERENCE
    return f"{size}: {name} read as {ours}?" if as_read else f"{size}: {ours} read as {name}?"


def likely_unit(ratio: float, candidates: Mapping[str, float]) -> str | None:
    """Name the unit whose factor, taken once too rarely or too often, comes nearest to a ratio."""

    def distance(name: str) -> float:
        missed, doubled = abs(np.log(ratio * candidates[name])), abs(np.log(ratio / candidates[name]))
        return float(min(missed, doubled + np.log(_PREFERENCE)))

    best = min(candidates, key=distance)
    return best if distance(best) < np.log(_RECOGNISED) else None


class HessianMagnitude:
    """Hessians in another unit, or of the other sign."""

    def __init__(self) -> None:
        self._sign = Suspects("error", "hessian-sign", "negative trace: looks like −H")
        self._indices: list[int] = []
        self._names: list[str] = []
        self._sum, self._count = 0.0, 0

    def see(self, seen: Seen) -> None:
        """Add up the diagonal."""
        structure = seen.structure
        if structure.hessian is None:
            return
        diagonal = np.diag(structure.hessian)
        if diagonal.sum() < 0:
            self._sign.add(seen)
        self._sum, self._count = self._sum + float(np.abs(diagonal).sum()), self._count + len(diagonal)
        self._indices.append(seen.index)
        self._names.append(structure.name)

    def findings(self) -> Iterator[Finding]:
        """Judge the mean over all."""
        yield from self._sign.findings()
        if not self._count:
            return
        mean, (low, high) = self._sum / self._count, HESSIAN_SCALE
        if not low <= mean <= high:
            what = f"mean |H_ii| is {mean:.3g} eV/Å², expected {low:g} to {high:g}"
            # Only the order of magnitude is known: the factor told is that of the unit it points to.
            name = likely_unit(mean / _TYPICAL_HESSIAN, HESSIAN_UNITS) if mean else None
            if name is not None:
                factor = HESSIAN_UNITS[name]
                missed = abs(np.log(mean / _TYPICAL_HESSIAN * factor)) <= abs(np.log(mean / _TYPICAL_HESSIAN / factor))
                what += f": {misreading(1 / factor if missed else factor, {name: factor}, 'eV/Å²')}"
            yield finding("error", "hessian-unit", what, self._indices, self._names)


class ForceMagnitude:
    """Forces too large for any molecule that holds together; small ones say nothing, they vanish at minima."""

    def __init__(self) -> None:
        self._rms: list[float] = []
        self._indices: list[int] = []
        self._names: list[str] = []

    def see(self, seen: Seen) -> None:
        """Take the RMS over components."""
        structure = seen.structure
        if structure.forces is not None:
            self._rms.append(float(np.sqrt(np.mean(structure.forces**2))))
            self._indices.append(seen.index)
            self._names.append(structure.name)

    def findings(self) -> Iterator[Finding]:
        """Judge the median over structures."""
        median = float(np.median(self._rms)) if self._rms else 0.0
        if median > MAX_FORCES:
            what = f"the median RMS force is {median:.3g} eV/Å, expected below {MAX_FORCES:g}: kcal/mol/Å read as eV/Å?"
            yield finding("error", "forces-unit", what, self._indices, self._names)
