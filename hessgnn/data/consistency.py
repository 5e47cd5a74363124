"""Do energies, forces and Hessians belong together? Judged by neighbouring frames of one molecule.

Between two frames a displacement d apart, the trapezoidal rule gives ``F₂ − F₁ ≈ −½ (H₁ + H₂) d`` and
``E₂ − E₁ ≈ −½ (F₁ + F₂)·d`` up to third order in d. A wrong sign or unit shows as a slope other than 1, whatever the
molecule and the level of theory.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist

from hessgnn.data.structure import Array, Structure

MAX_DISPLACEMENT = 0.3
"""Largest displacement of an atom between the two frames of a pair, Å; beyond it anharmonicity blurs the slope."""
MIN_PAIRS = 3
"""Fewer pairs than this judge nothing."""
TOLERANCE = 1.4
"""Factor by which a slope may differ from 1; the smallest unit mistake, eV/Bohr for eV/Å, makes 1.9."""

_MIN_CHANGE = 1e-2  # eV or eV/Å; below it the ratio of two small numbers says nothing


@dataclass(frozen=True)
class SlopeFit:
    """How the given derivative compares to the change it should explain.

    Attributes
    ----------
    slope : float
        Median over pairs of (explained by the derivative) / (actual change); 1 where labels belong together.
    structures : tuple of str
        Names of the frames compared.
    """

    slope: float
    structures: tuple[str, ...]

    @property
    def is_off(self) -> bool:
        """Whether the slope is too far from 1 to be anharmonicity."""
        return not 1 / TOLERANCE < self.slope < TOLERANCE


def hessians_against_forces(structures: Iterable[Structure]) -> SlopeFit | None:
    """Compare Hessians with the change of forces between neighbouring frames.

    Parameters
    ----------
    structures
        Any; those with both labels and a close neighbour in their group are used.

    Returns
    -------
    SlopeFit or None
        ``None`` when too few frames lie close enough together.
    """
    return _fit(
        [_Frame(s, s.forces.ravel(), -s.hessian) for s in structures if s.hessian is not None and s.forces is not None]
    )


def forces_against_energies(structures: Iterable[Structure]) -> SlopeFit | None:
    """Compare forces with the change of energy between neighbouring frames.

    Parameters
    ----------
    structures
        Any; those with both labels and a close neighbour in their group are used.

    Returns
    -------
    SlopeFit or None
        ``None`` when too few frames lie close enough together, or their energies hardly differ.
    """
    return _fit(
        [
            _Frame(s, np.array([s.energy]), -s.forces.reshape(1, -1))
            for s in structures
            if s.energy is not None and s.forces is not None
        ]
    )


@dataclass(frozen=True, eq=False)
class _Frame:
    """A structure with a quantity ``(k,)`` and its derivative with respect to the positions, ``(k, 3N)``."""

    structure: Structure
    value: Array
    derivative: Array


def _fit(frames: list[_Frame]) -> SlopeFit | None:
    slopes: list[float] = []
    names: list[str] = []
    for first, second in _close_pairs(frames):
        displacement = (second.structure.positions - first.structure.positions).ravel()
        explained = (first.derivative + second.derivative) @ displacement / 2
        actual = second.value - first.value
        if np.linalg.norm(actual) > _MIN_CHANGE:
            slopes.append(float(explained @ actual / (actual @ actual)))
            names += [first.structure.name, second.structure.name]
    if len(slopes) < MIN_PAIRS:
        return None
    return SlopeFit(float(np.median(slopes)), tuple(dict.fromkeys(names)))


def _close_pairs(frames: list[_Frame]) -> Iterator[tuple[_Frame, _Frame]]:
    """Each frame with its nearest neighbour of the same molecule, where that is near enough."""
    molecules: dict[tuple[str, bytes], list[_Frame]] = defaultdict(list)
    for frame in frames:
        if not frame.structure.pbc.any():
            molecules[frame.structure.group, frame.structure.numbers.tobytes()].append(frame)
    for same in molecules.values():
        if len(same) < 2:
            continue
        positions = np.array([frame.structure.positions for frame in same])
        flat = positions.reshape(len(same), -1)
        distances = cdist(flat, flat)
        np.fill_diagonal(distances, np.inf)
        nearest = distances.argmin(axis=1)
        for i, j in sorted({(min(i, int(j)), max(i, int(j))) for i, j in enumerate(nearest)}):
            if 0 < np.linalg.norm(positions[j] - positions[i], axis=1).max() < MAX_DISPLACEMENT:
                yield same[i], same[j]
