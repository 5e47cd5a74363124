"""What a check is, and what it has to say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol

import numpy as np

from hessgnn.data.structure import Array, Structure

Level = Literal["error", "warning", "note"]
_SHOWN = 5  # structures that a message names; a finding holds them all


@dataclass(frozen=True)
class Finding:
    """What a check has to say: an ``error`` forbids training, a ``warning`` does not, a ``note`` is no fault.

    ``code`` is the name of the check, for filters and tests; ``message`` is one line; ``structures`` and ``indices``
    are names and places in the store of those concerned.
    """

    level: Level
    code: str
    message: str
    structures: tuple[str, ...] = ()
    indices: tuple[int, ...] = ()


def finding(level: Level, code: str, what: str, indices: Sequence[int], names: Sequence[str]) -> Finding:
    """Make a finding whose message lists the first structures by index and name.

    E.g. ``negative trace (2 structures: 4 'a', 7 'b')``. ``indices`` and ``names`` are those of all structures
    concerned, at least one.
    """
    listed = ", ".join(f"{index} {name!r}" for index, name in zip(indices[:_SHOWN], names, strict=False))
    more = ", …" if len(indices) > _SHOWN else ""
    count = f"{len(indices)} structures: " if len(indices) > 1 else ""
    return Finding(level, code, f"{what} ({count}{listed}{more})", tuple(names), tuple(indices))


def turns(structure: Structure) -> tuple[Array, Array] | None:
    """Turn an isolated molecule, and its forces with it.

    Forces that are missing count as zero, which they are at a stationary point.

    Returns
    -------
    vectors, expected : (k, 3N) float64 or None
        ``u = ω × R / |ω × R|`` for each axis ω that turns it, and ``H u = −ω × F / |ω × R|``, eV/Å². ``None`` for
        crystals and single atoms, which do not turn.
    """
    if structure.pbc.any() or len(structure) < 2:
        return None
    arms = structure.positions - structure.positions.mean(axis=0)
    forces = np.zeros_like(arms) if structure.forces is None else structure.forces
    axes = np.linalg.eigh(arms.T @ arms).eigenvectors.T  # the last is that of a linear molecule
    turned = np.cross(axes[:, None], arms).reshape(len(axes), -1)
    lengths = np.linalg.norm(turned, axis=1)
    moved = lengths > 1e-2 * lengths.max()
    expected = -np.cross(axes[:, None], forces).reshape(len(axes), -1)
    return turned[moved] / lengths[moved, None], expected[moved] / lengths[moved, None]


@dataclass(frozen=True, eq=False)
class ProductResiduals:
    """What products of M directions leave of relations that hold exactly.

    Each is divided such that its mean square is that of the error of a component of a product, eV/Å²: all of them
    estimate the same quantity, which ``Directions.errors`` estimate too.

    Attributes
    ----------
    symmetry : (M, M) float64
        ``uᵀ(Hv) − vᵀ(Hu)`` over ``√(u² + v²)``; antisymmetric.
    translation : (M,) float64
        ``|Σ_i (Hv)_i|`` over ``√(3N)``.
    turned, expected : (M, k) float64 or None
        ``uᵀ(Hv)`` and ``−(ω × F)ᵀv / |ω × R|`` for k rotations; ``None`` without forces, and for what does not turn.
    """

    symmetry: Array
    translation: Array
    turned: Array | None = None
    expected: Array | None = None

    @property
    def rotation(self) -> Array | None:
        """RMS over rotations by which these two differ, ``(M,)``."""
        if self.turned is None or self.expected is None or not self.turned.size:
            return None
        return np.asarray(np.sqrt(np.square(self.turned - self.expected).mean(1)))


def product_residuals(structure: Structure) -> ProductResiduals | None:
    """Compute :class:`ProductResiduals`; ``None`` without directions."""
    directions = structure.directions
    if directions is None:
        return None
    vectors, products = (array.reshape(len(directions), -1) for array in (directions.vectors, directions.products))
    squares = np.square(vectors).sum(1)
    across = vectors @ products.T
    symmetry = (across - across.T) / np.sqrt(np.maximum(squares[:, None] + squares, 1e-300))
    translation = np.linalg.norm(directions.products.sum(1), axis=1) / np.sqrt(vectors.shape[1])
    rigid = None if structure.forces is None else turns(structure)
    if rigid is None:
        return ProductResiduals(symmetry, translation)
    return ProductResiduals(symmetry, translation, products @ rigid[0].T, vectors @ rigid[1].T)


@dataclass(frozen=True, eq=False)
class Seen:
    """A structure, and its place in the store, as the checks see it. Its numbers are finite.

    What several checks need is computed once.
    """

    index: int
    structure: Structure

    @cached_property
    def turned(self) -> tuple[Array, Array] | None:
        """Response ``(k, 3N)`` to rotations, from the Hessian and from the forces, eV/Å², see :func:`turns`.

        ``None`` without one of the two.
        """
        structure = self.structure
        if structure.forces is None or structure.hessian is None or (rigid := turns(structure)) is None:
            return None
        return rigid[0] @ structure.hessian, rigid[1]

    @cached_property
    def turn_residual(self) -> float | None:
        """Largest element by which these two differ, eV/Å²."""
        return None if self.turned is None else float(np.abs(self.turned[0] - self.turned[1]).max())

    @cached_property
    def shift_residual(self) -> float | None:
        """Largest ``|Σ_j H_ij|``, eV/Å²; ``None`` without a Hessian."""
        hessian = self.structure.hessian
        return None if hessian is None else float(np.abs(hessian.reshape(len(hessian), -1, 3).sum(axis=1)).max())

    @cached_property
    def product_residuals(self) -> ProductResiduals | None:
        """What directions leave of exact relations; ``None`` where there are none."""
        return product_residuals(self.structure)

    @cached_property
    def net_force(self) -> float | None:
        """``|Σ_i F_i|``, eV/Å; ``None`` without forces."""
        forces = self.structure.forces
        return None if forces is None else float(np.linalg.norm(forces.sum(axis=0)))


class Check(Protocol):
    """Looks at structures one at a time and keeps of them only what its findings need."""

    def see(self, seen: Seen) -> None:
        """Look at one."""

    def findings(self) -> Iterator[Finding]:
        """Tell what was found, after the last."""


class Suspects:
    """The structures that share one fault. ``{worst}`` in the message stands for the largest measure of it."""

    def __init__(self, level: Level, code: str, what: str) -> None:
        self.level, self.code, self.what = level, code, what
        self.indices: list[int] = []
        self.names: list[str] = []
        self.worst = 0.0

    def add(self, seen: Seen, measure: float = 0.0) -> None:
        """Take one more."""
        self.add_named(seen.index, seen.structure.name, measure)

    def add_named(self, index: int, name: str, measure: float = 0.0) -> None:
        """Take one more, of which only the name is known."""
        self.indices.append(index)
        self.names.append(name)
        self.worst = max(self.worst, measure)

    def findings(self) -> Iterator[Finding]:
        """One finding, unless there is no suspect."""
        if self.indices:
            what = self.what.format(worst=f"{self.worst:.3g}")
            yield finding(self.level, self.code, what, self.indices, self.names)
