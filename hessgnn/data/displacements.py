"""Hessian-vector products from forces of displaced geometries: ``H·Δ ≈ −[F(R+Δ) − F(R)]``.

For a displacement Δ = ε v, where v has a root mean square of 1 per component, a product is a difference over ε:

=============== ================================== ==============================================
displaced       product                            error, to leading order
=============== ================================== ==============================================
R + Δ           ``−[F(R+Δ) − F(R)] / ε``           ``ε T[v, v] / 2``, T the third derivatives
R + Δ, R − Δ    ``−[F(R+Δ) − F(R−Δ)] / 2ε``        ``ε² Q[v, v, v] / 6``, Q the fourth derivatives
midpoint        ``−[F(R+Δ) − F(R)] / ε`` at R+Δ/2  ``ε² Q[v, v, v] / 24``
=============== ================================== ==============================================

A pair R ± Δ gives the error of each of its one-sided differences: q = ``|F(R+Δ) + F(R−Δ) − 2 F(R)| / 2ε``. The error of
the central difference is of the next order, so it is estimated as q²/h, where h is the root mean square of the product.
Without a pair the error is ``a ε h`` with a rate a, 1/Å, that pairs of the same data give; and where there is none,
energies: ``E(R+Δ) − E(R) + [F(R) + F(R+Δ)]·Δ/2 = −ε³ T[v, v, v] / 12``. There h is at least its median in the data:
soft directions stretch bonds in second order. Errors are of anharmonicity alone; noise of forces is not in them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from ase.geometry import find_mic
from scipy.spatial.distance import cdist

from hessgnn.data.directions import Directions
from hessgnn.data.structure import Array, Structure
from hessgnn.errors import DataError
from hessgnn.molecules.geometry import aligned, same_shape, sorted_distances

MAX_DISPLACEMENT = 0.1
"""Å, of the atom that moves most. Where it moves by about this, at 0.03 Å per component, one-sided products of organic
molecules (GFN2-xTB) are wrong by 10 to 30 %, central ones by 1 to 7 %."""
MIN_DISPLACEMENT = 1e-4
"""Å, of the atom that moves most: below it eight decimals of positions and forces are the noise of the product."""
OPPOSITE = 0.05
"""Two displacements are a ± pair when their sum is less than this of the larger one. Superposing a turned molecule
leaves a sum of second order."""
TURNED = 0.9
"""A molecule is turned onto its reference when that makes its displacement smaller than this times what it was. Any
orientation gives a correct product. Small turns are left, so that ± pairs stay opposite, and so are turns about the
axis of a linear molecule."""

_FROM_ENERGIES = 2.4
"""Rate of whole vectors over the median of the rates along the displacement. Measured with GFN2-xTB on eleven minima
and saddle points of rtp-mini: 2.2 for random, 2.6 for thermal displacements of 0.003 to 0.06 Å."""
_SYMMETRIC = 1e-2
"""1/Å: pairs with a smaller rate have T[v, v] = 0 by symmetry, as at a centre of inversion; that tells nothing of Q."""
_ENOUGH = 5  # frames whose energies give a rate
_SLOPE = 1e-5  # eV: smaller changes of energy have no sign
_CELL = 1e-6  # Å: rounding of the same cell
_EXCHANGED = 0.5  # Å: two atoms that exchange their places move by more, and
_MANY = 60  # atoms have so many distances that all look the same

At = Literal["reference", "midpoint"]
"""Where the products of one-sided differences belong to."""


def mismatch(frame: Structure, reference: Structure) -> str:
    """Say why a structure cannot be a displacement of another; empty where it can."""
    if not np.array_equal(frame.numbers, reference.numbers):
        other = not np.array_equal(np.sort(frame.numbers), np.sort(reference.numbers))
        return "other atoms than its reference" if other else "its atoms are in another order than its reference's"
    cells = [np.zeros((3, 3)) if one.cell is None or not one.pbc.any() else one.cell for one in (frame, reference)]
    if not np.array_equal(frame.pbc, reference.pbc) or np.abs(cells[0] - cells[1]).max() > _CELL:
        return "another cell than its reference"
    return ""


def displacement(frame: Structure, reference: Structure, *, turn: bool = True) -> tuple[Array, Array]:
    """Displacement of a structure from a reference with the same atoms, and its forces in the reference's orientation.

    Overall translation is removed. A molecule is superposed on the reference (least squares), and its forces turn with
    it, which is exact because the energy does not depend on orientation. Periodic structures are not turned; their
    atoms may lie in any image of the cell.

    Parameters
    ----------
    frame, reference
        Without a :func:`mismatch`; the first has forces.
    turn
        Whether a molecule may be turned.

    Returns
    -------
    displacement, forces
        ``(N, 3)``, Å, with mean zero; and ``(N, 3)``, eV/Å.
    """
    moved = frame.positions - reference.positions
    forces = np.zeros_like(moved) if frame.forces is None else frame.forces
    if reference.pbc.any():
        moved = moved - moved[0]  # a crystal that was shifted as a whole keeps one image of each atom
        moved = find_mic(moved, reference.cell, reference.pbc)[0]
        return moved - moved.mean(axis=0), forces
    moved = moved - moved.mean(axis=0)
    if not turn:
        return moved, forces
    turned, rotation = aligned(frame.positions, reference.positions)
    if np.linalg.norm(turned - reference.positions) < TURNED * np.linalg.norm(moved):
        return turned - reference.positions, forces @ rotation.T
    return moved, forces


def too_far(frame: Structure, reference: Structure, moved: float, limit: float) -> str:
    """Say that an atom moved by too much, in Å; and that its distances agree, where atoms may have been exchanged."""
    reason = f"an atom is {moved:.3g} Å from its reference, above {limit:g}"
    if reference.pbc.any() or moved < _EXCHANGED or len(frame) > _MANY:
        return reason
    first, second = (sorted_distances(one.numbers, one.positions) for one in (frame, reference))
    if same_shape(first, second, limit):
        reason += ", with the same distances: are its atoms in another order, or is it the mirror image?"
    return reason


def opposite(displacements: Array, tolerance: float = OPPOSITE) -> list[tuple[int, int]]:
    """Find the ± pairs among displacements ``(K, N, 3)``; each is in one pair at most."""
    flat = displacements.reshape(len(displacements), -1)
    sizes = np.linalg.norm(flat, axis=1)
    nearest = np.empty(len(flat), dtype=np.int64)
    sums = np.empty(len(flat))
    for start in range(0, len(flat), 512):
        block = slice(start, start + 512)
        distances = cdist(flat[block], -flat)
        nearest[block] = distances.argmin(axis=1)
        sums[block] = distances.min(axis=1)
    return [
        (i, j)
        for i, j in enumerate(nearest.tolist())
        if i < j and nearest[j] == i and sums[i] < tolerance * max(sizes[i], sizes[j])
    ]


def parted(turned: Array, upright: Array) -> list[int]:
    """Find ± pairs that superposing takes apart: each half of a nearly linear molecule turns about the axis by itself.

    Both are ``(K, N, 3)``, displacements as they are superposed and as they lie. Returns the places of both halves.
    """
    known = {place for pair in opposite(turned) for place in pair}
    return [place for pair in opposite(upright) if known.isdisjoint(pair) for place in pair]


@dataclass(frozen=True, eq=False)
class Differences:
    """Products around one reference.

    =========== =========== ======= ==================================================================================
    field       shape       unit    meaning
    =========== =========== ======= ==================================================================================
    vectors     (M, N, 3)           v, with a root mean square of 1 per component
    products    (M, N, 3)   eV/Å²   H·v
    steps       (M,)        Å       ε
    sources     M                   places of the one or two displacements that made each
    quadratic   (M,)        eV/Å²   root mean square error of the one-sided difference, where an opposite one gives it:
                                    else, and where it vanishes by symmetry, NaN
    along       (M,)        1/Å     the same along v, over the product along v and ε, from energies; NaN without these
    slopes      (M,)                change of energy over that by the forces; 1 where they belong together, or NaN
    =========== =========== ======= ==================================================================================
    """

    vectors: Array
    products: Array
    steps: Array
    sources: tuple[tuple[int, ...], ...]
    quadratic: Array
    along: Array
    slopes: Array

    def __len__(self) -> int:
        return len(self.steps)

    @property
    def central(self) -> np.ndarray:
        """Which are of two displacements, ``(M,)`` bool."""
        return np.array([len(pair) == 2 for pair in self.sources], dtype=bool)

    @property
    def curvatures(self) -> Array:
        """``v·Hv / v·v``, eV/Å², ``(M,)``."""
        return np.asarray((self.vectors * self.products).mean(axis=(1, 2)))

    @property
    def sizes(self) -> Array:
        """Root mean square of a component of each product, eV/Å², ``(M,)``."""
        return _rms(self.products)


def differences(
    displacements: Array,
    forces: Array,
    reference_forces: Array,
    *,
    energies: Array | None = None,
    reference_energy: float | None = None,
    at: At = "reference",
) -> Differences:
    """Make products of displaced geometries around one reference.

    Parameters
    ----------
    displacements, forces
        ``(K, N, 3)``, Å and eV/Å; none is zero.
    reference_forces
        ``(N, 3)``, eV/Å.
    energies, reference_energy
        ``(K,)`` and scalar, eV, for the errors of one-sided differences; NaN or ``None`` where unknown.
    at
        ``reference``: ± pairs become central differences. ``midpoint``: every displacement is a product halfway between
        it and the reference.
    """
    steps = _rms(displacements)
    vectors = displacements / steps[:, None, None]
    change = forces - reference_forces
    products = -change / steps[:, None, None]
    quadratic, along, slopes = (np.full(len(steps), np.nan) for _ in range(3))
    if energies is not None and reference_energy is not None:
        difference = energies - reference_energy
        expected = -((forces + reference_forces) * displacements).sum((1, 2)) / 2
        with np.errstate(divide="ignore", invalid="ignore"):
            slopes = np.where(np.abs(expected) > _SLOPE, difference / expected, np.nan)
            along = 6 * np.abs(difference - expected) / steps**3 / np.abs((vectors * products).sum((1, 2)))
        along[~np.isfinite(along)] = np.nan
    sources: list[tuple[int, ...]] = [(k,) for k in range(len(steps))]
    for i, j in opposite(displacements):
        q, h = _rms(change[[i]] + change[[j]])[0], _rms(change[[i]] - change[[j]])[0]
        if q > _SYMMETRIC * steps[i] * h:
            quadratic[[i, j]] = q / (steps[i] + steps[j])
        if at == "reference":
            both = displacements[i] - displacements[j]
            steps[i] = _rms(both[None])[0] / 2
            vectors[i] = both / (2 * steps[i])
            products[i] = -(forces[i] - forces[j]) / (2 * steps[i])
            sources[i], sources[j] = (i, j), ()
    kept = np.array([bool(pair) for pair in sources])
    return Differences(
        vectors=vectors[kept],
        products=products[kept],
        steps=steps[kept],
        sources=tuple(pair for pair in sources if pair),
        quadratic=quadratic[kept],
        along=along[kept],
        slopes=slopes[kept],
    )


@dataclass(frozen=True)
class Anharmonicity:
    """How fast one-sided differences of a data set go wrong.

    Attributes
    ----------
    rate : float
        Error of a one-sided product over h and ε, 1/Å; NaN where unknown.
    stiffness : float
        Median h, the root mean square of a component of a product, eV/Å².
    source : str
        ``pairs``, ``energies`` or ``unknown``.
    number : int
        Differences that gave it.
    """

    rate: float
    stiffness: float
    source: Literal["pairs", "energies", "unknown"]
    number: int

    def errors(self, made: Differences, at: At = "reference") -> Array:
        """Root mean square error of a component of each product, eV/Å², ``(M,)``; NaN where unknown.

        ``benchmarks/displaced_products.py`` compares them with the errors themselves: median ratio 0.8 to 1.3, 5 and
        95 % at 0.4 and 1.7 (random, one-sided), 0.2 and 5 (thermal displacements, which are soft).
        """
        stiff = np.maximum(made.sizes, self.stiffness)
        with np.errstate(divide="ignore", invalid="ignore"):
            pairs = np.where(made.sizes > 0, made.quadratic**2 / made.sizes, made.quadratic)
        if at == "midpoint":  # a quarter of the error of a central difference with this step
            return np.where(np.isnan(made.quadratic), (self.rate * made.steps) ** 2 * stiff, pairs) / 4
        return np.where(made.central, pairs, self.rate * made.steps * stiff)  # a pair is NaN where symmetry hides it


def anharmonicity(made: Sequence[Differences]) -> Anharmonicity:
    """Measure it: on ± pairs, or on energies where there are none."""
    sizes, steps, quadratic, along = (
        np.concatenate([getattr(one, key) for one in made]) for key in ("sizes", "steps", "quadratic", "along")
    )
    stiffness = float(np.median(sizes))
    with np.errstate(divide="ignore", invalid="ignore"):
        pairs = quadratic / (steps * np.maximum(sizes, stiffness))
    pairs, along = pairs[np.isfinite(pairs)], along[np.isfinite(along)]
    if len(pairs):
        return Anharmonicity(float(np.median(pairs)), stiffness, "pairs", len(pairs))
    if len(along) >= _ENOUGH:
        return Anharmonicity(_FROM_ENERGIES * float(np.median(along)), stiffness, "energies", len(along))
    return Anharmonicity(float("nan"), stiffness, "unknown", 0)


def require_signs(made: Sequence[Differences], where: object) -> None:
    """Raise :class:`DataError` when most forces point along the displacement: their sign is wrong.

    Energies decide, where they are known: they fall along forces. Without these the curvature does, which is positive
    in most directions, at saddle points too.
    """
    if not made:
        return
    slopes = np.concatenate([one.slopes for one in made])
    slopes = slopes[np.isfinite(slopes)]
    hint = "are they gradients, or forces of other frames?"
    if len(slopes):
        rising = int((slopes < 0).sum())
        if 2 * rising > len(slopes):
            what = f"energies rise along the forces in {rising} of {len(slopes)} displaced frames"
            raise DataError(f"{what}: forces have the wrong sign", where=where, hint=hint)
        return
    curvatures = np.concatenate([one.curvatures for one in made])
    negative = int((curvatures < 0).sum())
    if 2 * negative > len(curvatures):
        what = f"forces point along the displacement in {negative} of {len(curvatures)} displaced frames"
        raise DataError(f"{what}: they have the wrong sign", where=where, hint=hint)


def directions_of(made: Differences, kind: str, errors: Array) -> Directions:
    """Products as labels."""
    return Directions.make(made.vectors, made.products, kind, errors=errors)


def _rms(values: Array) -> Array:
    return np.asarray(np.sqrt(np.square(values).mean(axis=(1, 2))))
