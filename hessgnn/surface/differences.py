"""Finite differences of forces: Hessians, and products ``H·v`` whose error is estimated.

The step follows J. J. Moré, S. M. Wild, ACM Trans. Math. Softw. 38, 19 (2012): it balances the noise of the forces with
the derivatives that are left out. Both are measured on a few lines of seven points, the noise by the sixth difference
as in J. J. Moré, S. M. Wild, SIAM J. Sci. Comput. 33, 1292 (2011).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from numpy.typing import NDArray

Array = NDArray[np.float64]

HESSIAN_STEP = 2e-4
"""Å, of central differences of the forces where there is no analytic Hessian."""

Scheme = Literal["central", "one-sided"]

GRADIENTS: dict[Scheme, int] = {"central": 2, "one-sided": 1}
"""Gradient calls of a product; that at the structure itself is a label anyway."""

LINE_CALLS = 6
"""Gradient calls of :func:`probe_line`."""

_SPACING = 5e-3
"""Å, between the points of a line. Narrower, noisy forces hide the third derivative; wider, the sixth looks like
noise: of GFN2-xTB it adds some 2e-10 eV/Å here."""
_NARROWEST: dict[Scheme, float] = {"central": 1e-3, "one-sided": 2e-5}
"""Å. Quiet forces would allow smaller steps. But a line of neighbouring points does not show the residual dependence of
a self-consistent field on its initial guess, and at a larger step the error is known: it is that of the series."""
_WIDEST = 0.02
"""Å: beyond that the displaced structure is another one."""
_LEAST_TWIST = 8.0
"""1/Å: a few lines may all be smoother than those to come. Along a Morse bond the ratio is some 5/Å."""
_MARGIN = 2.0
"""Second derivatives of other lines may be so many times the largest that was measured."""
_ZERO = 1e-12
"""Squared derivatives that are zero but for rounding."""
SAFETY = 2.0
"""Stored errors are so many times the estimate, so that most true errors lie below them."""

# Derivatives at the middle of seven points, times spacing, spacing² and spacing³; all of sixth and fourth order.
_FIRST = np.array([-1, 9, -45, 0, 45, -9, 1]) / 60
_SECOND = np.array([2, -27, 270, -490, 270, -27, 2]) / 180
_THIRD = np.array([1, -8, 13, 0, -13, 8, -1]) / 8
_SIXTH = np.array([1, -6, 15, -20, 15, -6, 1]) / np.sqrt(924)  # of independent noise its standard deviation


def central_differences(forces: Callable[[Atoms], Array], atoms: Atoms, step: float) -> Array:
    """Differentiate forces numerically: ``(3N, 3N)``, eV/Å², not symmetrised.

    ``forces`` returns ``(N, 3)``, eV/Å, and is called 6N times. The error is of second order in the step, Å.
    """
    n = 3 * len(atoms)
    matrix = np.empty((n, n))
    for row in range(n):
        sides = []
        for sign in (1, -1):
            image = atoms.copy()
            image.positions[divmod(row, 3)] += sign * step
            sides.append(forces(image).ravel())
        matrix[row] = (sides[1] - sides[0]) / (2 * step)
    return matrix


def differenced_hessian(calculator: Calculator, atoms: Atoms, step: float = HESSIAN_STEP) -> Array:
    """Hessian of a calculator ``(3N, 3N)`` by central differences of its forces, symmetrised, eV/Å²."""

    def forces(image: Atoms) -> Array:
        image.calc = calculator
        return np.array(image.get_forces())

    matrix = central_differences(forces, atoms, step)
    return (matrix + matrix.T) / 2


def central_product(forces: Callable[[Array], Array], positions: Array, vector: Array, step: float) -> Array:
    """Compute ``H·v`` by a central difference of forces, without an estimate of its error; see :func:`product`.

    Parameters
    ----------
    forces
        From positions to forces, both ``(N, 3)``, Å and eV/Å.
    positions
        The structure.
    vector
        The direction ``(N, 3)``, dimensionless, of any length.
    step
        Displacement of the atom that moves most, Å.

    Returns
    -------
    (N, 3) float64
        eV/Å².
    """
    scale = step / largest_displacement(vector)
    return (forces(positions - scale * vector) - forces(positions + scale * vector)) / (2 * scale)


@dataclass(frozen=True)
class Line:
    """Forces along a line through a structure, on which the atom that moves most moves by one Å per unit.

    All are root mean squares over the components of the force, derivatives with what noise adds to them.

    Attributes
    ----------
    noise : float
        eV/Å, of one evaluation.
    first, second, third : float
        Derivatives of the forces along the line, eV/Å², eV/Å³, eV/Å⁴.
    """

    noise: float
    first: float
    second: float
    third: float


@dataclass(frozen=True)
class Smoothness:
    """What is known of forces along lines, from a few of them: the step and the error of products follow from it.

    Attributes
    ----------
    noise : float
        RMS noise of a component of the force, eV/Å.
    reference_noise : float
        The same of the forces at the structure itself, which may come from an earlier calculation.
    second, third : float
        Typical derivatives of the forces along a line, eV/Å³ and eV/Å⁴: RMS, without what noise adds.
    steepest : float
        Largest second derivative of all lines, eV/Å³.
    bend, twist : float
        Second over first and third over second derivative, 1/Å: the largest of all lines, and
        :data:`_LEAST_TWIST` at least.
    """

    noise: float
    reference_noise: float
    second: float
    third: float
    steepest: float
    bend: float
    twist: float

    @classmethod
    def of(cls, lines: Sequence[Line], reference_noise: float = 0.0) -> Smoothness:
        """Sum up lines; ``reference_noise`` is what else the forces at the structures are uncertain by, eV/Å."""
        noise = np.array([line.noise for line in lines])
        added = [
            np.square(noise * np.linalg.norm(stencil) / _SPACING**k)
            for k, stencil in enumerate((_FIRST, _SECOND, _THIRD), 1)
        ]
        seen = [np.square([getattr(line, key) for line in lines]) for key in ("first", "second", "third")]
        squares = [(raw - more).clip(0) for raw, more in zip(seen, added, strict=True)]
        bend, twist = (
            float(np.sqrt(np.max(squares[k + 1] / np.maximum(squares[k], added[k] + _ZERO)))) for k in (0, 1)
        )
        second, third = (float(np.sqrt(np.mean(seen[k] - added[k]).clip(0))) for k in (1, 2))
        typical = float(np.sqrt(np.mean(np.square(noise))))
        reference = float(np.hypot(typical, reference_noise))
        steepest = float(np.sqrt(squares[1].max()))
        return cls(typical, reference, second, third, steepest, bend, max(_LEAST_TWIST, twist))

    def step(self, scheme: Scheme) -> float:
        """Displacement of the atom that moves most, Å: where noise and truncation are balanced, within bounds."""
        if scheme == "central":
            best = (3 * self.noise / self.third) ** (1 / 3) if self.third > 0 else _WIDEST
        else:
            noise = np.hypot(self.noise, self.reference_noise) / np.sqrt(2)
            best = 8**0.25 * (noise / self.second) ** 0.5 if self.second > 0 else _WIDEST
        return float(np.clip(best, _NARROWEST[scheme], _WIDEST))


def largest_displacement(vector: Array) -> float:
    """Length of the longest row of a direction ``(N, 3)``: how far the atom that moves most moves per unit."""
    return float(np.linalg.norm(vector, axis=1).max())


def probe_line(forces: Callable[[Array], Array], positions: Array, reference: Array, vector: Array) -> Line:
    """Measure noise and derivatives of forces along a direction, by :data:`LINE_CALLS` gradients.

    Parameters
    ----------
    forces
        From positions to forces, both ``(N, 3)``, Å and eV/Å.
    positions, reference
        The structure and its forces, computed now: those of another program start would not join smoothly.
    vector
        ``(N, 3)``, of any length.
    """
    unit = _SPACING / largest_displacement(vector) * vector
    points = np.stack([reference if k == 0 else forces(positions + k * unit) for k in range(-3, 4)])

    def rms(stencil: Array) -> float:
        return float(np.sqrt(np.mean(np.square(np.einsum("k,kia->ia", stencil, points)))))

    return Line(rms(_SIXTH), rms(_FIRST) / _SPACING, rms(_SECOND) / _SPACING**2, rms(_THIRD) / _SPACING**3)


def product(
    forces: Callable[[Array], Array],
    positions: Array,
    reference: Array,
    vector: Array,
    known: Smoothness,
    *,
    scheme: Scheme = "central",
    step: float | None = None,
) -> tuple[Array, float]:
    """Compute ``H·v`` by differences of forces, and estimate its error.

    Truncation is estimated by the next derivative. With central differences that is the third; the second is known,
    because the forces at the structure are, and third over second derivative is taken from other lines. One-sided
    differences leave out the second, which is taken from the product and other lines.

    Parameters
    ----------
    forces
        From positions to forces, both ``(N, 3)``, Å and eV/Å.
    positions, reference
        The structure and its forces.
    vector
        The direction ``(N, 3)``, dimensionless, of any length.
    known
        Of the same surface, see :class:`Smoothness`.
    scheme
        ``central``: ``−[F(R + sv) − F(R − sv)] / 2s``, an error of second order; ``one-sided``:
        ``−[F(R + sv) − F(R)] / s``, of first.
    step
        Displacement of the atom that moves most, Å; :meth:`Smoothness.step` by default.

    Returns
    -------
    (N, 3) float64, float
        eV/Å²; and its estimated RMS error per component, times :data:`SAFETY`.
    """
    length = largest_displacement(vector)
    step = known.step(scheme) if step is None else step
    scale = step / length
    forward = forces(positions + scale * vector)
    if scheme == "central":
        backward = forces(positions - scale * vector)
        found = (backward - forward) / (2 * scale)  # as central_product, with the two forces kept
        curvature = np.sqrt(np.mean(np.square(forward + backward - 2 * reference)))  # second derivative times step²
        errors = known.noise / (np.sqrt(2) * step), known.twist * curvature / 6
    else:
        found = (reference - forward) / scale
        slope = np.sqrt(np.mean(np.square(found))) / length
        second = min(known.bend * slope, _MARGIN * known.steepest)
        errors = np.hypot(known.noise, known.reference_noise) / step, second * step / 2
    return found, float(SAFETY * length * np.hypot(*errors))
