"""Directions along eigenvectors of a cheap surface's Hessian: random signs along all of them, or the softest ones."""

from __future__ import annotations

import numpy as np

from hessgnn.curvature.probes.modes import signed_parts
from hessgnn.data.directions import Array, Directions
from hessgnn.factory.directions import DIRECTIONS, DirectionKind, Subject
from hessgnn.molecules.vibrations import vibrations
from hessgnn.surface.base import SurfaceError


@DIRECTIONS.register("modes")
class Modes(DirectionKind):
    """Random signs along all modes, which are divided into as many parts as there are directions.

    The division is that of the probes of this name, see :mod:`hessgnn.curvature.probes.modes`. Unbiased with a weight
    of the number of parts, whatever the Hessian; the better it is, the less noise.
    """

    needs_hessian = True

    def draw(self, subject: Subject, number: int) -> Array:
        """See :meth:`DirectionKind.draw`."""
        rng = subject.rng("modes", len(subject.earlier("modes")))
        drawn = signed_parts(subject.hessian(), min(number, 3 * len(subject.structure)), rng)
        return drawn[drawn.any((1, 2))]

    def remaining(self, n_atoms: int, earlier: int, periodic: bool) -> float:  # noqa: ARG002
        """See :meth:`DirectionKind.remaining`; each draw divides all modes anew."""
        return 3 * n_atoms

    def join(self, kind: str, vectors: Array, products: Array, errors: Array) -> Directions:
        """See :meth:`DirectionKind.join`; directions that were drawn together are all parts of one division."""
        return Directions.make(vectors, products, kind, errors=errors, parts=len(vectors))


@DIRECTIONS.register("softest")
class Softest(DirectionKind):
    """The softest vibrational modes, imaginary ones first, as Cartesian directions of length 1.

    Translations and rotations are projected out. These directions have no known distribution: they are where the
    surface is flat, and where relative errors of the curvature matter most to frequencies.
    """

    needs_hessian = True

    def draw(self, subject: Subject, number: int) -> Array:
        """See :meth:`DirectionKind.draw`."""
        structure = subject.structure
        if structure.pbc.any():
            raise SurfaceError("softest modes are those of molecules, and it is periodic")
        modes = vibrations(structure.numbers, structure.positions, subject.hessian()).modes
        units = modes / np.linalg.norm(modes, axis=(1, 2), keepdims=True)
        start = len(subject.earlier("softest"))
        return units[start : start + number]

    def remaining(self, n_atoms: int, earlier: int, periodic: bool) -> float:
        """See :meth:`DirectionKind.remaining`; a linear molecule has 3N − 5 modes, others have one less."""
        return 0 if periodic or n_atoms < 2 else 3 * n_atoms - 5 - earlier
