"""Checks of products: do they belong to their directions, and to the other labels.

Three relations hold exactly, whatever the direction: ``uᵀ(Hv) = vᵀ(Hu)`` between two of one structure,
``Σ_i (Hv)_i = 0`` over the atoms, and ``uᵀ(Hv) = −(ω × F)ᵀv`` for a rotation u = ω × R. Where a structure has a
Hessian too, it gives each product. A factor by which all products of a structure miss these is a sign or a unit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain

import numpy as np
from ase.data import atomic_masses
from numpy.typing import NDArray

from hessgnn.data.checks.finding import Finding, ProductResiduals, Seen, Suspects, finding
from hessgnn.data.checks.labels import HESSIAN_SCALE, HESSIAN_UNITS, misreading, of_magnitude, suspected_unit
from hessgnn.data.checks.slopes import MIN_PAIRS, MIN_TURN, close_pairs
from hessgnn.data.directions import UNBIASED, UNIT_WEIGHT, Directions
from hessgnn.data.structure import IRC, TRANSITION_STATE, Array, Structure

SYMMETRY_TOLERANCE = (2e-2, 1.0)
TRANSLATION_TOLERANCE = (1e-2, 1e-2)
ROTATION_TOLERANCE = (2e-2, 0.3)
HESSIAN_TOLERANCE = (2e-2, 0.5)
"""Largest error of a component that these may imply, as a share of the RMS component of the product; and the same for
products of no known distribution and unknown error. Those of frames that somebody displaced have the anharmonicity of
the displacement in them: of one-sided differences of GFN2-xTB at 0.03 Å per component, up to 0.7, 0, 0.12 and 0.34."""
STORED = 6.0
"""Stored errors up to which every deviation is allowed."""
UPHILL = -0.15
"""Cosine between v and H v that directions of known distribution do not reach: at saddle points neither, one of 8 atoms
or on average over several of fewer. Measured over 72,000 of rtp-mini; three or four atoms reach −0.8."""
LARGE, MEDIUM, TOGETHER = 8, 6, 12
"""Atoms from which one random direction shows a sign; and several, when they have so many atoms together."""
DOWNHILL = -1.0
"""Median of ``vᵀHv / v²``, eV/Å², that no directions have which were not chosen for it."""
MIN_COMPARED, MIN_CORRELATION = 10, 0.8
"""Directions of neighbouring frames that must be compared, and how well they must agree, before they show a factor."""
WEIGHT_TOLERANCE = 1e-3
"""Largest relative deviation of ``w v²`` from 3N."""

_FACTOR = (1.1, 2.0)  # by which all products of a structure may miss an exact relation together and be but noisy
_SCATTER = (0.1, 0.5)  # share of all products that may be left when they miss it by one factor
_EXACT = 1e-2  # relative deviation within which a factor is that of a unit
_STEP = 0.1  # a smaller factor may be a displacement in Å, or twice one
_STIFFNESS = 5.0  # eV/Å², what tolerances are a share of where a product is smaller
_CHANCE = 1e-3  # expected number of equal pairs above which random signs may repeat


class DirectionLabels:
    """Faults of directions and their products, one structure at a time; units and signs over all of them."""

    def __init__(self) -> None:
        self._zero = Suspects("error", "direction-zero", "a direction has length zero")
        self._kinds = Suspects(
            "error",
            "direction-kind",
            "vectors are not what their kind says: components of rademacher are ±1, rows are unit vectors along one",
        )
        self._weights = Suspects("error", "direction-weight", _WEIGHT)
        self._own_weights = Suspects("warning", "direction-weight", _OWN_WEIGHT)
        self._twice = Suspects("warning", "direction-duplicate", "the same direction twice: it counts twice")
        self._contradictions = Suspects(
            "error", "direction-duplicate", "the same direction twice with products that differ by up to {worst} eV/Å²"
        )
        self._translations = Suspects(
            "error",
            "direction-sum-rule",
            "moving the whole structure changes the forces: |Σ_i (Hv)_i| up to {worst} eV/Å²",
        )
        self._symmetry = Suspects(
            "error",
            "direction-symmetry",
            "uᵀ(Hv) is not vᵀ(Hu) between directions: components of products are off by about {worst} eV/Å²;"
            " products of other directions, or atoms in another order?",
        )
        self._rotations = Suspects(
            "error",
            "direction-rotation",
            "turning the whole molecule does not turn the forces: components of products are off by about {worst}"
            " eV/Å²; vectors, products and positions of different orientations or geometries?",
        )
        self._hessians = Suspects(
            "error", "direction-hessian", "products are not those of the stored Hessian: off by up to {worst} eV/Å²"
        )
        self._masses = Suspects(
            "error",
            "direction-unit",
            "products are mass weighted: Σ_i √mᵢ(Hv)_i or Σ_i mᵢ(Hv)_i is zero, and Σ_i(Hv)_i is not",
        )
        self._signs = Suspects(
            "error", "direction-sign", "products have the wrong sign: they are −H v, or changes of forces along v"
        )
        self._units = Suspects("error", "direction-unit", "")
        self._factors: dict[bool, list[float]] = {True: [], False: []}  # of products with anharmonicity in them, or not
        self._proved = 0  # structures that an exact relation found right
        self._names: dict[int, str] = {}
        self._periodic: set[int] = set()
        # vᵀHv / v², apart for periodic structures: its mean over directions of known distribution, and of the others
        # unless they were chosen for it.
        self._curvatures: dict[bool, list[float]] = {False: [], True: []}
        self._own_curvatures: dict[bool, list[float]] = {False: [], True: []}
        self._drawn = _Drawn()
        self._between = _Between()
        self._small: dict[int, tuple[str, float]] = {}  # name and mean cosine

    def see(self, seen: Seen) -> None:
        """Look at the directions of one structure; one that breaks several rules is listed under the first."""
        residuals, directions = seen.product_residuals, seen.structure.directions
        if residuals is None or directions is None:
            return
        if not directions.vectors.any((1, 2)).all():
            self._zero.add(seen)
            return
        self._names[seen.index] = seen.structure.name
        if seen.structure.pbc.any():
            self._periodic.add(seen.index)
        self._look_at_vectors(seen, directions)
        if not self._repeats(seen, directions) and not self._is_wrong(seen, directions, residuals):
            self._note_curvature(seen.structure, directions)

    def see_molecule(self, frames: Mapping[int, Structure]) -> None:
        """Compare products with the change of forces between the frames of one molecule; see :class:`Slopes`."""
        labelled = [s for s in frames.values() if s.forces is not None and s.hessian is None]
        for first, second in close_pairs(labelled) if any(s.directions is not None for s in labelled) else ():
            for one, other in ((first, second), (second, first)):
                if one.directions is None or one.forces is None or other.forces is None:
                    continue
                lengths = np.linalg.norm(one.directions.vectors, axis=(1, 2))
                explained = np.tensordot(one.directions.products, one.positions - other.positions, 2)
                actual = np.tensordot(one.directions.vectors, other.forces - one.forces, 2)
                self._between.add(explained / lengths, actual / lengths)

    def findings(self) -> Iterator[Finding]:
        """What single structures show, then what all show together."""
        yield from chain.from_iterable(
            suspects.findings()
            for suspects in (
                self._zero,
                self._kinds,
                self._weights,
                self._own_weights,
                self._contradictions,
                self._twice,
                self._translations,
                self._symmetry,
                self._rotations,
                self._hessians,
                self._masses,
                self._signs,
            )
        )
        if self._units.indices:
            exact, blurred = self._factors[False], self._factors[True]
            reading = _reading(float(np.median(exact))) if exact else _blurred(float(np.median(blurred)))
            self._units.what = f"products are {reading}"
            yield from self._units.findings()
        elif not self._signs.indices:
            yield from self._of_all()
        yield from self._drawn.findings()

    def _of_all(self) -> Iterator[Finding]:
        """A sign or a unit that no single structure proves."""
        indices, names = list(self._names), list(self._names.values())
        small = [cosine for _, cosine in self._small.values()]
        slope = 1.0 if self._proved else self._between.slope
        own = _median([*self._own_curvatures[False], *self._own_curvatures[True]]) or 0.0
        if own >= DOWNHILL and slope > 0 and len(small) >= MIN_PAIRS and float(np.mean(small)) < UPHILL:
            indices, names, slope = list(self._small), [name for name, _ in self._small.values()], -1.0
        if own < DOWNHILL or slope < 0:
            yield finding("error", "direction-sign", self._signs.what, indices, names)
        elif slope != 1:
            what = f"against the change of forces between neighbouring frames, products are {_blurred(slope)}"
            yield finding("error", "direction-unit", what, indices, names)
        else:
            yield from self._of_size(periodic=False)
            yield from self._of_size(periodic=True)

    def _of_size(self, *, periodic: bool) -> Iterator[Finding]:
        """A unit that only the size of products shows."""
        mean, own = _median(self._curvatures[periodic]), _median(self._own_curvatures[periodic])
        (low, high), what = HESSIAN_SCALE, ""
        if mean is not None and not low <= mean <= high:
            what = f"vᵀHv / v² is {mean:.3g} eV/Å² (median), expected {low:g} to {high:g}{suspected_unit(mean)}"
            what += "; or differences of forces not divided by the displacement?" if mean < low else ""
        elif own is not None and own > high:
            what = f"vᵀHv / v² is {own:.3g} eV/Å² (median), expected below {high:g}{suspected_unit(own)}"
        if what:
            members = {index: name for index, name in self._names.items() if (index in self._periodic) == periodic}
            yield of_magnitude("direction-unit", what, list(members), list(members.values()), periodic=periodic)

    def _look_at_vectors(self, seen: Seen, directions: Directions) -> None:
        vectors = directions.vectors.reshape(len(directions), -1)
        size, squares = vectors.shape[1], np.square(vectors).sum(1)
        kinds = np.array(directions.kinds)
        ones = np.isclose(np.abs(vectors), 1, rtol=0, atol=WEIGHT_TOLERANCE)
        wrong = (kinds == "rademacher") & ~ones.all(1)
        wrong |= (kinds == "rows") & ~((ones.sum(1) == 1) & np.isclose(squares, 1, rtol=0, atol=WEIGHT_TOLERANCE))
        if wrong.any():
            self._kinds.add(seen)
        else:
            off = np.abs(directions.weights * squares / size - 1) > WEIGHT_TOLERANCE
            known = np.isin(kinds, UNBIASED)
            if (off & known & ~np.isin(kinds, _Drawn.KINDS)).any():
                self._weights.add(seen)
            elif (off & ~known).any():
                self._own_weights.add(seen)
            self._drawn.add(seen, directions, squares)

    def _repeats(self, seen: Seen, directions: Directions) -> bool:
        """Whether one direction has several products; copies with one product are noted too."""
        vectors = directions.vectors.reshape(len(directions), -1)
        lengths = np.linalg.norm(vectors, axis=1)
        units = vectors / lengths[:, None]
        cosines = np.triu(units @ units.T, 1)
        first, second = np.nonzero(np.abs(cosines) > 1 - 1e-9)
        if not len(first):
            return False
        along = directions.products.reshape(units.shape) / lengths[:, None]
        differing = along[first] - np.sign(cosines[first, second])[:, None] * along[second]
        allowed = _allowed(SYMMETRY_TOLERANCE, directions) / lengths
        off = _rms(differing)
        if (off > allowed[first] + allowed[second]).any():
            self._contradictions.add(seen, float(off.max()))
            return True
        number, size = units.shape
        if number * (number - 1) * 2.0**-size < _CHANCE or not {"rademacher"}.issuperset(directions.kinds):
            self._twice.add(seen)
        return False

    def _is_wrong(self, seen: Seen, directions: Directions, residuals: ProductResiduals) -> bool:
        structure = seen.structure
        shifts = residuals.translation > _allowed(TRANSLATION_TOLERANCE, directions)
        if shifts.any() and _is_mass_weighted(structure, directions, residuals.translation):
            self._masses.add(seen)
            return True
        if self._is_uphill(seen, directions):
            self._signs.add(seen)
            return True
        products, expected = directions.products, _from_hessian(structure)
        missed = None
        if expected is not None:
            off = _rms((products - expected).reshape(len(directions), -1))
            allowed = _allowed(HESSIAN_TOLERANCE, directions)
            missed = float(off.max()) if (off > allowed).any() else None
            if missed is None:
                self._proved += 1
                self._small.pop(seen.index, None)
            elif self._is_factor(seen, directions, products, expected):
                return True
        suspects: Suspects | None = None
        measure = 0.0
        if shifts.any():
            suspects = self._translations
            measure = float(np.linalg.norm(products.sum(1), axis=1).max())
        elif (worst := _asymmetry(directions, residuals)) > 0:
            suspects, measure = self._symmetry, worst
        elif (turned := residuals.rotation) is not None:
            allowed = _allowed(ROTATION_TOLERANCE, directions)
            assert residuals.turned is not None
            assert residuals.expected is not None
            tells = _rms(residuals.expected) > MIN_TURN * _rms(directions.vectors.reshape(len(directions), -1))
            if (turned > allowed).any():
                if tells.any() and self._is_factor(seen, directions, residuals.turned, residuals.expected):
                    return True
                suspects, measure = self._rotations, float(turned.max())
            elif tells.any():
                self._proved += 1
        if suspects is None and missed is not None:
            suspects, measure = self._hessians, missed
        if suspects is not None:
            suspects.add(seen, measure)
        return suspects is not None

    def _is_uphill(self, seen: Seen, directions: Directions) -> bool:
        """Whether curvature along directions of known distribution is negative; that of small molecules is kept."""
        kinds, size = np.array(directions.kinds), len(seen.structure)
        known = np.isin(kinds, UNBIASED)
        if not known.any():
            return False
        cosines = _cosines(directions)
        mean = float(cosines[known].mean())
        if size >= LARGE and (cosines[np.isin(kinds, UNIT_WEIGHT)] < UPHILL).any():
            return True
        if size >= MEDIUM and size * int(known.sum()) >= TOGETHER:
            return mean < UPHILL
        self._small[seen.index] = (seen.structure.name, mean)
        return False

    def _is_factor(self, seen: Seen, directions: Directions, given: Array, expected: Array) -> bool:
        """Whether all products of a structure miss what they must be by one factor, which is then noted."""
        size = float(np.square(expected).sum())
        factor = float((given * expected).sum()) / size if size else 0.0
        left = float(np.linalg.norm(given - factor * expected))
        unsure = bool(_unsure(directions).any())
        most = _FACTOR[unsure]
        if left > _SCATTER[unsure] * np.linalg.norm(given) or 1 / most < factor < most:
            return False
        if factor < 0:
            self._signs.add(seen)
        if not 1 / most < abs(factor) < most:
            self._units.add(seen)
            self._factors[unsure].append(abs(factor))
        return True

    def _note_curvature(self, structure: Structure, directions: Directions) -> None:
        squares = np.square(directions.vectors).sum((1, 2))
        curvatures = (directions.vectors * directions.products).sum((1, 2)) / squares
        kinds, periodic = np.array(directions.kinds), bool(structure.pbc.any())
        known = np.isin(kinds, UNBIASED)
        if known.any():
            shares = (directions.weights * squares)[known]
            self._curvatures[periodic].append(float(np.average(curvatures[known], weights=shares)))
        if structure.kind not in (TRANSITION_STATE, IRC):
            self._own_curvatures[periodic] += curvatures[~known & (kinds != "softest")].tolist()


class _Between:
    """Regression of ``−(Hv)ᵀd`` on ``vᵀ(F₂ − F₁)`` over all pairs of frames, d apart, and all directions."""

    def __init__(self) -> None:
        self._moments = np.zeros(3)
        self._number = 0

    def add(self, explained: Array, actual: Array) -> None:
        """Take both for all directions of one frame and one of its neighbours, ``(M,)``, eV/Å."""
        self._moments += explained @ explained, explained @ actual, actual @ actual
        self._number += len(actual)

    @property
    def slope(self) -> float:
        """1 unless nearly all agree on another, of which half or twice as much is still anharmonicity."""
        explained, both, actual = self._moments
        if self._number < MIN_COMPARED or abs(both) < MIN_CORRELATION * np.sqrt(explained * actual) or not actual:
            return 1.0
        return float(both / actual) if not 0.5 < both / actual < 2 else 1.0


class _Drawn:
    """Kinds whose weights are right on average only: the mean of ``w v²`` over all structures is 3N."""

    KINDS = ("gaussian", "modes")

    def __init__(self) -> None:
        self._members: dict[str, tuple[list[int], list[str]]] = {kind: ([], []) for kind in self.KINDS}
        self._found = dict.fromkeys(self.KINDS, 0.0)
        self._wanted = dict.fromkeys(self.KINDS, 0)

    def add(self, seen: Seen, directions: Directions, squares: Array) -> None:
        """Take those of one structure, with their ``v²``, ``(M,)``."""
        for kind in set(directions.kinds) & set(self.KINDS):
            chosen = np.array(directions.kinds) == kind
            self._members[kind][0].append(seen.index)
            self._members[kind][1].append(seen.structure.name)
            self._found[kind] += float((directions.weights * squares)[chosen].sum())
            self._wanted[kind] += 3 * len(seen.structure) * int(chosen.sum())

    def findings(self) -> Iterator[Finding]:
        """One for each kind whose mean is off."""
        for kind, (indices, names) in self._members.items():
            if not indices:
                continue
            ratio = self._found[kind] / self._wanted[kind]
            spread = 6 * np.sqrt(2 / self._wanted[kind])  # of the mean of so many squares of normal numbers
            if abs(ratio - 1) > 0.1 + spread:
                what = f"weights of {kind} directions are {ratio:.3g} times what makes their estimate unbiased"
                yield finding("error", "direction-weight", what, indices, names)


_WEIGHT = "weights do not make the estimate unbiased: w v² is not 3N"
_OWN_WEIGHT = "weights are not 3N / v², what directions of no known distribution get"


def _median(values: Sequence[float]) -> float | None:
    """``None`` of too few."""
    return float(np.median(values)) if len(values) >= MIN_PAIRS else None


def _unsure(directions: Directions) -> NDArray[np.bool_]:
    return ~np.isin(np.array(directions.kinds), UNBIASED) & ~np.isfinite(directions.errors)


def _allowed(tolerance: tuple[float, float], directions: Directions) -> Array:
    """Largest error of a component of each product, eV/Å², ``(M,)``."""
    rms = _rms(directions.products.reshape(len(directions), -1))
    floor = _STIFFNESS * _rms(directions.vectors.reshape(len(directions), -1))
    shares = np.where(_unsure(directions), tolerance[1], tolerance[0])
    return np.maximum(shares * np.maximum(rms, floor), STORED * np.nan_to_num(directions.errors))


def _asymmetry(directions: Directions, residuals: ProductResiduals) -> float:
    """Largest residual of the symmetry that is not allowed, eV/Å²; zero where all are."""
    squares = np.square(directions.vectors).sum((1, 2))
    allowed = np.square(_allowed(SYMMETRY_TOLERANCE, directions))
    both = np.sqrt((squares[:, None] * allowed + squares * allowed[:, None]) / (squares[:, None] + squares))
    found = np.abs(residuals.symmetry)
    return float(np.max(found[found > both], initial=0.0))


def _is_mass_weighted(structure: Structure, directions: Directions, shifts: Array) -> bool:
    """Whether ``Σ_i mᵢ^p (Hv)_i`` vanishes for p = ½ (``M^-½ H M^-½ v``) or 1 (``M^-1 H v``) where the sum does not."""
    masses = atomic_masses[structure.numbers]
    for power in (0.5, 1.0):
        weights = (masses / masses.mean()) ** power
        sums = np.tensordot(directions.products, weights, (1, 0))
        left = np.linalg.norm(sums, axis=1) / np.sqrt(3 * np.square(weights).sum())
        if (left < 0.05 * shifts.max()).all():
            return True
    return False


def _cosines(directions: Directions) -> Array:
    """Between v and H v, ``(M,)``; zero where a product is zero."""
    along = (directions.vectors * directions.products).sum((1, 2))
    lengths = np.linalg.norm(directions.vectors, axis=(1, 2)) * np.linalg.norm(directions.products, axis=(1, 2))
    return np.asarray(along / np.maximum(lengths, 1e-300))


def _from_hessian(structure: Structure) -> Array | None:
    if structure.hessian is None or structure.directions is None:
        return None
    vectors = structure.directions.vectors
    return (vectors.reshape(len(vectors), -1) @ structure.hessian).reshape(vectors.shape)


def _reading(factor: float) -> str:
    """Name an exact factor, of products found over products expected."""
    known = [unit for value in HESSIAN_UNITS.values() for unit in (value, 1 / value)]
    near = min(abs(np.log(factor / unit)) for unit in known) < _EXACT
    if near or factor > _STEP:
        return misreading(factor, HESSIAN_UNITS, "eV/Å²")
    what = f"{1 / factor:.3g} times too small: differences of forces that were not divided by the displacement"
    return f"{what}, {factor:.3g} Å or twice {factor / 2:.3g} Å?"


def _blurred(factor: float) -> str:
    """Name a factor that is blurred by anharmonicity."""
    named = misreading(factor, HESSIAN_UNITS, "eV/Å²")
    return named + ("; or differences of forces not divided by the displacement?" if factor < _STEP else "")


def _rms(values: NDArray[np.float64] | Sequence[Sequence[float]]) -> Array:
    return np.asarray(np.sqrt(np.square(values).mean(-1)))
