"""Checks of single labels: magnitude, placeholders, symmetry, invariance; and how noisy labels are."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from ase import units

from hessgnn.data.checks.finding import Finding, Seen, Suspects, finding
from hessgnn.data.store.writer import ASYMMETRY_TOLERANCE
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
"""Where the mean |H_ii| of molecules lies, eV/Å²; about 25 in sets of organic ones, 3 for H₂, 100 for N₂. Soft crystals
are below without a fault: 0.3 for argon."""
MAX_FORCES = 20.0
"""Largest median, over structures with forces, of the RMS force, eV/Å; about 2 in strongly displaced frames."""
SUM_RULE_TOLERANCE = 5e-3
"""Largest share of ``max|H|`` that ``|Σ_j H_ij|`` may reach."""
ROTATION_TOLERANCE = 1e-2
"""Largest share of ``max|H|`` by which ``H u`` of a turn may miss ``−ω × F``; integration grids leave 5e-4."""
NET_FORCE_TOLERANCE = 0.1
"""Largest net force ``|Σ F_i|``, eV/Å; tight calculations stay below 1e-3."""

SYMMETRY = "max |H − Hᵀ| (as made)"
TRANSLATION = "max |Σ_j H_ij| (translation)"
ROTATION = "max |H u + ω × F| (rotation)"
NET_FORCE = "|Σ_i F_i|"
FORCES_AGAINST_ENERGIES = "ΔE + F·d between frames ≤"
HESSIANS_AGAINST_FORCES = "ΔF + H d between frames ≤"
"""The last two hold the anharmonicity between two frames besides: they bound the noise from above."""

PRODUCT_SYMMETRY = "uᵀHv − vᵀHu (products)"
PRODUCT_TRANSLATION = "Σ_i(Hv)_i (products)"
PRODUCT_ROTATION = "uᵀHv + vᵀ(ω×F) (products)"
PRODUCT_ERROR = "stored error (products)"
OF_PRODUCTS = (PRODUCT_SYMMETRY, PRODUCT_TRANSLATION, PRODUCT_ROTATION, PRODUCT_ERROR)
"""All in terms of the error of a component of a product, see
:class:`~hessgnn.data.checks.finding.ProductResiduals`."""

_TYPICAL_HESSIAN = 25.0  # eV/Å²
_PREFERENCE = 1.5  # how much better "converted twice" must fit than "not converted", the usual mistake
_RECOGNISED = 3.0  # a factor this far from every unit is no unit


def misreading(ratio: float, candidates: Mapping[str, float], ours: str) -> str:
    """Name the likely unit mistake, e.g. ``97.2 times too small: Hartree/Bohr² read as eV/Å²?``.

    ``ratio`` is (number found) / (number expected); ``candidates`` map a unit to the value of one in ``ours``.
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
        self._of = {periodic: _Diagonal() for periodic in (False, True)}

    def see(self, seen: Seen) -> None:
        """Add up the diagonal."""
        structure = seen.structure
        if structure.hessian is None:
            return
        diagonal = np.diag(structure.hessian)
        if diagonal.sum() < 0:
            self._sign.add(seen)
        of = self._of[bool(structure.pbc.any())]
        of.total, of.count = of.total + float(np.abs(diagonal).sum()), of.count + len(diagonal)
        of.indices.append(seen.index)
        of.names.append(structure.name)

    def findings(self) -> Iterator[Finding]:
        """Judge the mean over all molecules, and that over all periodic structures, which may be soft."""
        yield from self._sign.findings()
        low, high = HESSIAN_SCALE
        for periodic, of in self._of.items():
            if of.count and not low <= (mean := of.total / of.count) <= high:
                what = f"mean |H_ii| is {mean:.3g} eV/Å², expected {low:g} to {high:g}{suspected_unit(mean)}"
                yield of_magnitude("hessian-unit", what, of.indices, of.names, periodic=periodic)


@dataclass
class _Diagonal:
    indices: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    total: float = 0.0
    count: int = 0


def of_magnitude(code: str, what: str, indices: Sequence[int], names: Sequence[str], *, periodic: bool) -> Finding:
    """A unit told from the size of numbers alone, which proves nothing of periodic structures: there a warning."""
    if not periodic:
        return finding("error", code, what, indices, names)
    return finding("warning", code, f"{what} (not certain: range of molecules; a soft crystal?)", indices, names)


def suspected_unit(mean: float) -> str:
    """The unit that an order of magnitude of second derivatives points to, with its factor, after a colon; or empty."""
    ratio = mean / _TYPICAL_HESSIAN
    name = likely_unit(ratio, HESSIAN_UNITS) if ratio else None
    if name is None:
        return ""
    factor = HESSIAN_UNITS[name]
    missed = abs(np.log(ratio * factor)) <= abs(np.log(ratio / factor))
    return f": {misreading(1 / factor if missed else factor, {name: factor}, 'eV/Å²')}"


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


class Placeholders:
    """Labels that are exactly zero: often a missing one that a program wrote as a number."""

    def __init__(self) -> None:
        what = "{} exactly zero: is a missing label written as a number?"
        self._suspects = {
            "energy": Suspects("warning", "zeros", what.format("the energy is")),
            "forces": Suspects("warning", "zeros", what.format("forces are")),
            "hessian": Suspects("warning", "zeros", what.format("the Hessian is")),
            "products": Suspects("warning", "zeros", what.format("products are")),
        }

    def see(self, seen: Seen) -> None:
        """Look for zeros; on a single atom there is no force."""
        structure = seen.structure
        for key, suspects in self._suspects.items():
            labelled = structure.directions if key == "products" else structure
            value = getattr(labelled, key, None)
            if value is not None and len(structure) > 1 and not np.any(value):
                suspects.add(seen)

    def findings(self) -> Iterator[Finding]:
        """One for each label."""
        for suspects in self._suspects.values():
            yield from suspects.findings()


class Symmetry:
    """Hessians that were far from symmetric when they were made; the store keeps the symmetric part."""

    def __init__(self) -> None:
        self._suspects = Suspects(
            "error", "asymmetry", "the Hessian was far from symmetric when made: max|H − Hᵀ| up to {worst} eV/Å²"
        )

    def see(self, seen: Seen) -> None:
        """Compare what symmetrising removed with what is left."""
        structure = seen.structure
        if structure.hessian is not None:
            removed = structure.hessian_asymmetry or 0.0
            if removed > ASYMMETRY_TOLERANCE * np.abs(structure.hessian).max():
                self._suspects.add(seen, removed)

    def findings(self) -> Iterator[Finding]:
        """At most one."""
        yield from self._suspects.findings()


class Invariances:
    """Moving or turning a whole molecule changes neither its energy nor, but for the turn, its forces."""

    def __init__(self) -> None:
        self._sums = Suspects(
            "error", "sum-rule", "moving the whole structure changes the forces: |Σ_j H_ij| up to {worst} eV/Å²"
        )
        self._turns = Suspects(
            "error",
            "rotation",
            "turning the whole molecule does not turn the forces: H u misses −ω × F by up to {worst} eV/Å²;"
            " positions, forces and Hessian of different orientations or geometries?",
        )
        self._net = Suspects("warning", "net-force", "forces do not add up to zero: |Σ F_i| up to {worst} eV/Å")

    def see(self, seen: Seen) -> None:
        """Apply both rules."""
        structure = seen.structure
        if (seen.net_force or 0.0) > NET_FORCE_TOLERANCE:
            self._net.add(seen, seen.net_force or 0.0)
        if structure.hessian is None or seen.shift_residual is None:
            return
        largest = max(float(np.abs(structure.hessian).max()), 1.0)
        if seen.shift_residual > SUM_RULE_TOLERANCE * largest:
            self._sums.add(seen, seen.shift_residual)
        elif seen.turn_residual is not None and seen.turn_residual > ROTATION_TOLERANCE * largest:
            self._turns.add(seen, seen.turn_residual)

    def findings(self) -> Iterator[Finding]:
        """At most three."""
        for suspects in (self._sums, self._turns, self._net):
            yield from suspects.findings()


@dataclass(frozen=True)
class Noise:
    """One estimate of the noise of a label.

    Attributes
    ----------
    quantity : str
        What must be zero.
    count : int
        Structures, or pairs of them, that were measured.
    median, high, largest : float
        50 % and 95 % quantiles, and the largest, in ``unit``.
    """

    quantity: str
    unit: str
    count: int
    median: float
    high: float
    largest: float

    @property
    def of_products(self) -> bool:
        """Whether it is the noise of Hessian-vector products."""
        return self.quantity in OF_PRODUCTS


class LabelNoise:
    """Measures each structure by itself."""

    def __init__(self) -> None:
        keys = (SYMMETRY, TRANSLATION, ROTATION, *OF_PRODUCTS, NET_FORCE)
        self._measured = {key: array("d") for key in keys}

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
        if (products := seen.product_residuals) is not None and seen.structure.directions is not None:
            errors = seen.structure.directions.errors
            for name, values in (
                (PRODUCT_SYMMETRY, products.symmetry[np.triu_indices(len(errors), 1)]),
                (PRODUCT_TRANSLATION, products.translation),
                (PRODUCT_ROTATION, products.rotation),
                (PRODUCT_ERROR, errors[np.isfinite(errors)]),
            ):
                if values is not None and len(values):
                    self._measured[name].append(float(np.sqrt(np.mean(np.square(values)))))

    def estimates(self, energy_residuals: Sequence[float] = (), force_residuals: Sequence[float] = ()) -> list[Noise]:
        """Sum up, with the residuals of the trapezoidal rule between frames, eV and eV/Å."""
        measured = ((key, "eV/Å" if key == NET_FORCE else "eV/Å²", values) for key, values in self._measured.items())
        found = [_noise(key, unit, values) for key, unit, values in measured if len(values)]
        if energy_residuals:
            found.append(_noise(FORCES_AGAINST_ENERGIES, "eV", energy_residuals))
        if force_residuals:
            found.append(_noise(HESSIANS_AGAINST_FORCES, "eV/Å", force_residuals))
        return found


def _noise(quantity: str, unit: str, values: Sequence[float]) -> Noise:
    median, high, largest = np.quantile(values, [0.5, 0.95, 1.0])
    return Noise(quantity, unit, len(values), float(median), float(high), float(largest))
