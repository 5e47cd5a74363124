"""Kinds of directions along which products ``H·v`` are computed as labels: one file each, joined by a decorator."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from hessgnn.data.directions import Array, Directions
from hessgnn.data.structure import Structure
from hessgnn.molecules.geometry import molecule_rng
from hessgnn.runtime.registry import Registry, subclass_of

_TRIES = 1000
"""Draws in a row that are known already before there are no more: two atoms have 32 vectors of signs."""


@dataclass(frozen=True)
class Subject:
    """A structure that is to get directions.

    Attributes
    ----------
    structure : Structure
        With the directions that it has already, which are not drawn again.
    seed : int
        Of all that is drawn; each structure has streams of its own.
    hessian : callable
        Computes the Hessian of the cheap surface, ``(3N, 3N)``, eV/Å², symmetrised. Raises
        :class:`~hessgnn.surface.base.SurfaceError` where that fails.
    """

    structure: Structure
    seed: int
    hessian: Callable[[], Array]

    def rng(self, kind: str, number: int = 0) -> np.random.Generator:
        """Random stream of this structure for a kind, and for the directions of that number where each has its own."""
        return molecule_rng((self.seed, number), f"{self.structure.name} {kind}")

    def earlier(self, kind: str) -> Array:
        """Vectors of a kind that the structure has already, ``(M, N, 3)``."""
        known = self.structure.directions
        if known is None:
            return np.zeros((0, len(self.structure), 3))
        return known.vectors[[one == kind for one in known.kinds]]

    def new(self, candidates: Iterator[Array], kind: str, number: int) -> Array:
        """Take the first ``number`` vectors ``(N, 3)`` that are none of the earlier ones, up to sign; maybe fewer."""
        known = {_key(vector) for vector in self.earlier(kind)}
        found: list[Array] = []
        tries = 0
        while len(found) < number and tries < _TRIES:
            vector = next(candidates, None)
            if vector is None:
                break
            key = _key(vector)
            tries = tries + 1 if key in known else 0
            if key not in known:
                known.add(key)
                found.append(vector)
        return np.array(found).reshape(-1, len(self.structure), 3)


class DirectionKind(ABC):
    """A way to choose directions. A new instance may be made in any process, so there is no state."""

    needs_hessian: ClassVar[bool] = False
    """Whether :meth:`draw` asks for the Hessian of the cheap surface."""

    @abstractmethod
    def draw(self, subject: Subject, number: int) -> Array:
        """Choose directions.

        The same subject gives the same directions. With some of them among its earlier ones it gives others.

        Returns
        -------
        (M, N, 3) float64
            Dimensionless; fewer than ``number`` where there are no more.
        """

    def remaining(self, n_atoms: int, earlier: int, periodic: bool) -> float:  # noqa: ARG002
        """How many directions a structure can get beside ``earlier`` ones of this kind, at most; any number here."""
        return math.inf

    def join(self, kind: str, vectors: Array, products: Array, errors: Array) -> Directions:
        """Make the record of directions that were drawn together; a kind with weights of its own overrides it."""
        return Directions.make(vectors, products, kind, errors=errors)


DIRECTIONS: Registry[type[DirectionKind]] = Registry(
    "kind of direction", "hessgnn.factory.directions", group="hessgnn.directions", check=subclass_of(DirectionKind)
)
"""Kinds by name. Other packages announce theirs in the entry-point group ``hessgnn.directions``."""


def _key(vector: Array) -> bytes:
    """Equal for vectors that agree up to rounding and sign."""
    rounded = np.round(vector, 9).ravel()
    first = rounded[np.flatnonzero(rounded)[:1]]
    return (rounded * (np.sign(first) if len(first) else 1) + 0.0).tobytes()
