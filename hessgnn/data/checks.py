"""Is a data set fit for training? Faults that would otherwise be found after it: units, signs, leaks, broken labels.

Each check looks at all structures and yields findings. Units and signs are judged twice: by magnitude, and where
frames of one molecule lie close together, by whether forces are the slope of the energies and Hessians that of the
forces.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from ase import units
from scipy.spatial.distance import pdist

from hessgnn.data.consistency import forces_against_energies, hessians_against_forces
from hessgnn.data.splits import leaking_groups
from hessgnn.data.store import Store
from hessgnn.data.structure import Structure
from hessgnn.data.writer import ASYMMETRY_TOLERANCE
from hessgnn.errors import DataError
from hessgnn.units import BOHR, HARTREE, HARTREE_PER_BOHR, HARTREE_PER_BOHR2, KCAL_PER_MOL

COINCIDENT = 0.3
"""Atoms nearer than this are a fault, Å. The shortest bond, H₂, is 0.74 Å; strongly displaced frames reach 0.5 Å."""
SUM_RULE_TOLERANCE = 5e-3
"""Largest share of ``max|H|`` that ``|Σ_j H_ij|`` may reach in an isolated molecule."""
HESSIAN_SCALE = (2.0, 200.0)
"""Where the mean |H_ii| of molecules lies, eV/Å²; about 25 in sets of organic ones, 3 for H₂, 100 for N₂."""

_HESSIAN_UNITS = {
    "Hartree/Bohr²": HARTREE_PER_BOHR2,
    "Hartree/Å²": HARTREE,
    "kcal/mol/Å²": KCAL_PER_MOL,
    "mdyn/Å": 100 * units.J / units.m**2,
    "eV/Bohr²": 1 / BOHR**2,
}
_FORCE_UNITS = {"Hartree/Bohr": HARTREE_PER_BOHR, "Hartree/Å": HARTREE, "kcal/mol/Å": KCAL_PER_MOL, "eV/Bohr": 1 / BOHR}
_TYPICAL_HESSIAN = 25.0  # eV/Å²


@dataclass(frozen=True)
class Finding:
    """What a check has to say.

    Attributes
    ----------
    level : str
        ``error`` forbids training, ``warning`` does not.
    code : str
        Name of the check, for filters and tests.
    message : str
        One line.
    structures : tuple of str
        Names of those concerned.
    """

    level: Literal["error", "warning"]
    code: str
    message: str
    structures: tuple[str, ...] = ()


def check(store: Store, indices: Iterable[int] | None = None) -> list[Finding]:
    """Judge a store.

    Parameters
    ----------
    store
        The data.
    indices
        Structures to look at; all by default.

    Returns
    -------
    list of Finding
        Errors first; empty when nothing is to be said.
    """
    chosen = range(len(store)) if indices is None else indices
    structures = [store[int(i)] for i in chosen]
    broken = list(_not_finite(structures))
    if broken:  # nothing else can be computed from such numbers
        return broken
    findings = [finding for judge in _CHECKS for finding in judge(structures)]
    return sorted(findings, key=lambda finding: finding.level != "error")


def require_sound(store: Store, indices: Iterable[int] | None = None) -> None:
    """Refuse data with errors.

    Parameters
    ----------
    store
        The data.
    indices
        Structures to look at; all by default.

    Raises
    ------
    DataError
        Telling the first error and counting the others.
    """
    errors = [finding for finding in check(store, indices) if finding.level == "error"]
    if errors:
        others = f" (and {len(errors) - 1} more, see `hessgnn data check`)" if len(errors) > 1 else ""
        raise DataError(
            errors[0].message + others, where=store.path, remedy="correct the labels and write the file again"
        )


def _names(structures: Iterable[Structure]) -> tuple[str, ...]:
    return tuple(structure.name for structure in structures)


def _found(code: str, what: str, concerned: list[Structure], level: Literal["error", "warning"] = "error") -> Finding:
    first = concerned[0].name
    who = f"{first!r}" if len(concerned) == 1 else f"{len(concerned)} structures, first {first!r}"
    return Finding(level, code, f"{what} ({who})", _names(concerned))


def _not_finite(structures: list[Structure]) -> Iterator[Finding]:
    for key in ("positions", "energy", "forces", "hessian"):
        values = ((structure, getattr(structure, key)) for structure in structures)
        concerned = [structure for structure, value in values if value is not None and not np.isfinite(value).all()]
        if concerned:
            yield _found("not-finite", f"{key} hold NaN or infinity", concerned)


def _missing_labels(structures: list[Structure]) -> Iterator[Finding]:
    for key in ("energy", "forces", "hessian"):
        without = [structure for structure in structures if getattr(structure, key) is None]
        if without and key == "energy":
            yield _found("missing", "no energy label", without)
        elif 0 < len(without) < len(structures):
            yield _found("missing", f"no {key} label", without, "warning")


def _coincident_atoms(structures: list[Structure]) -> Iterator[Finding]:
    close = [s for s in structures if len(s) > 1 and not s.pbc.any() and pdist(s.positions).min() < COINCIDENT]
    if close:
        yield _found("coincident", f"atoms nearer than {COINCIDENT} Å (are positions in Bohr or fractional?)", close)


def _duplicates(structures: list[Structure]) -> Iterator[Finding]:
    seen: dict[bytes, Structure] = {}
    for structure in structures:
        key = structure.numbers.tobytes() + np.round(structure.positions, 6).tobytes()
        first = seen.setdefault(key, structure)
        if first is not structure:
            level: Literal["error", "warning"] = "warning" if first.split == structure.split else "error"
            message = f"{first.name!r} ({first.split}) and {structure.name!r} ({structure.split}) are the same geometry"
            yield Finding(level, "duplicate", message, _names([first, structure]))


def _leakage(structures: list[Structure]) -> Iterator[Finding]:
    leaks = leaking_groups([s.group for s in structures], [s.split for s in structures])
    if leaks:
        concerned = [structure for structure in structures if structure.group in leaks]
        group, shared = min(leaks.items())
        what = f"{len(leaks)} groups stand in several splits, e.g. {group!r} in {' and '.join(sorted(shared))}"
        yield _found("leakage", what, concerned)


def _asymmetry(structures: list[Structure]) -> Iterator[Finding]:
    concerned = [
        s
        for s in structures
        if s.hessian is not None and (s.hessian_asymmetry or 0) > ASYMMETRY_TOLERANCE * np.abs(s.hessian).max()
    ]
    if concerned:
        yield _found("asymmetry", "the Hessian was far from symmetric when it was made", concerned)


def _sum_rule(structures: list[Structure]) -> Iterator[Finding]:
    concerned = []
    for structure in structures:
        if structure.hessian is not None:
            sums = structure.hessian.reshape(3 * len(structure), -1, 3).sum(axis=1)
            if np.abs(sums).max() > SUM_RULE_TOLERANCE * max(np.abs(structure.hessian).max(), 1.0):
                concerned.append(structure)
    if concerned:
        yield _found("sum-rule", "moving the whole structure changes the forces: Σ_j H_ij is not zero", concerned)


def _hessian_sign(structures: list[Structure]) -> Iterator[Finding]:
    concerned = [s for s in structures if s.hessian is not None and np.trace(s.hessian) < 0]
    if concerned:
        yield _found("hessian-sign", "negative trace: looks like −H", concerned)


def _hessian_unit(structures: list[Structure]) -> Iterator[Finding]:
    concerned = [s for s in structures if s.hessian is not None]
    if not concerned:
        return
    mean = float(np.mean(np.abs(np.concatenate([np.diag(s.hessian) for s in concerned if s.hessian is not None]))))
    low, high = HESSIAN_SCALE
    if not low <= mean <= high:
        unit = _likely_unit(mean / _TYPICAL_HESSIAN, _HESSIAN_UNITS)
        what = f"mean |H_ii| is {mean:.3g} eV/Å², expected {low:g} to {high:g}: looks like {unit}"
        yield _found("hessian-unit", what, concerned)


def _forces_are_slopes(structures: list[Structure]) -> Iterator[Finding]:
    fit = forces_against_energies(structures)
    if fit is None:
        return
    if fit.slope < 0:
        what = "energies rise along the forces: forces have the wrong sign, or hold gradients"
        yield Finding("error", "forces-sign", what, fit.structures)
    elif fit.is_off:
        what = f"forces are {fit.slope:.3g} times the slope of the energies: a unit is wrong"
        unit = _likely_unit(fit.slope, _FORCE_UNITS)
        yield Finding("error", "forces-unit", f"{what}, forces look like {unit} if energies are eV", fit.structures)


def _hessians_are_slopes(structures: list[Structure]) -> Iterator[Finding]:
    fit = hessians_against_forces(structures)
    if fit is None:
        return
    if fit.slope < 0:
        what = "Hessians and the change of forces between neighbouring frames have the same sign: one of them is −"
        yield Finding("error", "hessian-forces-sign", what, fit.structures)
    elif fit.is_off:
        unit = _likely_unit(fit.slope, _HESSIAN_UNITS)
        what = f"Hessians are {fit.slope:.3g} times the slope of the forces: a unit is wrong"
        yield Finding("error", "hessian-forces-unit", f"{what}, Hessians look like {unit}", fit.structures)


def _likely_unit(ratio: float, candidates: dict[str, float]) -> str:
    """Name the unit whose numbers are ``ratio`` times those in eV and Å."""
    return min(candidates, key=lambda name: abs(np.log(ratio * candidates[name])))


_CHECKS: tuple[Callable[[list[Structure]], Iterator[Finding]], ...] = (
    _leakage,
    _missing_labels,
    _coincident_atoms,
    _hessian_sign,
    _hessian_unit,
    _hessians_are_slopes,
    _forces_are_slopes,
    _asymmetry,
    _sum_rule,
    _duplicates,
)
