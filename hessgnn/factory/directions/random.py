"""Directions of random numbers, unbiased with weight 1: random signs, or normally distributed."""

from __future__ import annotations

from itertools import count

from hessgnn.data.directions import Array, random_signs
from hessgnn.factory.directions import DIRECTIONS, DirectionKind, Subject


@DIRECTIONS.register("rademacher")
class Rademacher(DirectionKind):
    """Vectors of random signs."""

    def draw(self, subject: Subject, number: int) -> Array:
        """See :meth:`DirectionKind.draw`."""
        shape = len(subject.structure), 3
        drawn = (random_signs(subject.rng("rademacher", k), shape) for k in count())
        return subject.new(drawn, "rademacher", number)


@DIRECTIONS.register("gaussian")
class Gaussian(DirectionKind):
    """Vectors of standard normal numbers."""

    def draw(self, subject: Subject, number: int) -> Array:
        """See :meth:`DirectionKind.draw`."""
        shape = len(subject.structure), 3
        return subject.new((subject.rng("gaussian", k).standard_normal(shape) for k in count()), "gaussian", number)
