"""Do energies, forces and Hessians belong together? Judged by neighbouring frames, and by turning a single one.

Between two frames of one molecule a displacement d apart, the trapezoidal rule gives ``F₂ − F₁ ≈ −½ (H₁ + H₂) d`` and
``E₂ − E₁ ≈ −½ (F₁ + F₂)·d`` up to third order in d. Turning a molecule as a whole turns its forces: with u = ω × R,
``H u = −ω × F`` holds exactly and at any geometry. A wrong sign or unit shows as a slope other than 1, whatever the
molecule and the level of theory.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
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
MIN_AGREEMENT = 0.6
"""Share of the slopes that must agree before a unit or a sign is blamed; of sound frames more than 0.8 do."""

_MIN_CHANGE = 1e-2  # eV or eV/Å; below it the ratio of two small numbers says nothing


@dataclass(frozen=True)
class Pair:
    """Two frames compared.

    Attributes
    ----------
    slope : float
        (change explained by the derivative) / (actual change); 1 where labels belong together.
    residual : float
        Norm of the difference of the two, eV or eV/Å.
    scale : float
        What the residual is small against: Σ over atoms of the explained change without its sign.
    structures : (Structure, Structure)
        The frames.
    """

    slope: float
    residual: float
    scale: float
    structures: tuple[Structure, Structure]


@dataclass(frozen=True)
class SlopeFit:
    """How the given derivatives compare to the changes that they should explain.

    Attributes
    ----------
    slope : float
        Median over comparisons.
    agreement : float
        Share of them within :data:`TOLERANCE` of the median: a wrong unit is wrong everywhere.
    """

    slope: float
    agreement: float

    @property
    def is_off(self) -> bool:
        """Whether most slopes agree on a value too far from 1 to be anharmonicity."""
        return not 1 / TOLERANCE < self.slope < TOLERANCE and self.agreement > MIN_AGREEMENT


def fit(slopes: Sequence[float]) -> SlopeFit | None:
    """Take the median of slopes.

    Parameters
    ----------
    slopes
        Of each comparison.

    Returns
    -------
    SlopeFit or None
        ``None`` when they are fewer than :data:`MIN_PAIRS`.
    """
    if len(slopes) < MIN_PAIRS:
        return None
    median = float(np.median(slopes))
    low, high = sorted((median / TOLERANCE, median * TOLERANCE))
    return SlopeFit(median, float(np.mean([low <= slope <= high for slope in slopes])))


def hessians_against_forces(structures: Iterable[Structure]) -> list[Pair]:
    """Compare Hessians with the change of forces between neighbouring frames.

    Parameters
    ----------
    structures
        Any; those with both labels and a close neighbour in their group are used.

    Returns
    -------
    list of Pair
        Those whose forces differ enough.
    """
    return _compared(
        [_Frame(s, s.forces.ravel(), -s.hessian) for s in structures if s.hessian is not None and s.forces is not None]
    )


def forces_against_energies(structures: Iterable[Structure]) -> list[Pair]:
    """Compare forces with the change of energy between neighbouring frames.

    Parameters
    ----------
    structures
        Any; those with both labels and a close neighbour in their group are used.

    Returns
    -------
    list of Pair
        Those whose energies differ enough.
    """
    return _compared(
        [
            _Frame(s, np.array([s.energy]), -s.forces.reshape(1, -1))
            for s in structures
            if s.energy is not None and s.forces is not None
        ]
    )


def rotations(structure: Structure) -> tuple[Array, Array] | None:
    """Turn an isolated molecule and compare how its forces turn with what the Hessian says.

    Parameters
    ----------
    structure
        With a Hessian; without forces they count as zero, which they are at a stationary point.

    Returns
    -------
    given, expected : (k, 3N) float64 or None
        ``H u`` and ``−ω × F / |ω × R|`` for each axis ω that turns it, eV/Å²; u has norm 1. ``None`` for crystals and
        single atoms, which do not turn.
    """
    if structure.hessian is None or structure.pbc.any() or len(structure) < 2:
        return None
    arms = structure.positions - structure.positions.mean(axis=0)
    forces = np.zeros_like(arms) if structure.forces is None else structure.forces
    axes = np.linalg.eigh(arms.T @ arms).eigenvectors.T  # the last is that of a linear molecule
    turned = np.cross(axes[:, None], arms).reshape(len(axes), -1)
    lengths = np.linalg.norm(turned, axis=1)
    moved = lengths > 1e-2 * lengths.max()
    given = turned[moved] @ structure.hessian / lengths[moved, None]
    expected = -np.cross(axes[:, None], forces).reshape(len(axes), -1)[moved] / lengths[moved, None]
    return given, expected


@dataclass(frozen=True, eq=False)
class _Frame:
    """A structure with a quantity ``(k,)`` and its derivative with respect to the positions, ``(k, 3N)``."""

    structure: Structure
    value: Array
    derivative: Array


def _compared(frames: list[_Frame]) -> list[Pair]:
    pairs = []
    for first, second in _close_pairs(frames):
        displacement = (second.structure.positions - first.structure.positions).ravel()
        mean = (first.derivative + second.derivative) / 2
        explained, actual = mean @ displacement, second.value - first.value
        if np.linalg.norm(actual) > _MIN_CHANGE:
            slope = float(explained @ actual / (actual @ actual))
            scale = float(np.linalg.norm(np.abs(mean) @ np.abs(displacement)))
            residual = float(np.linalg.norm(explained - actual))
            pairs.append(Pair(slope, residual, scale, (first.structure, second.structure)))
    return pairs


def _close_pairs(frames: list[_Frame]) -> Iterator[tuple[_Frame, _Frame]]:
    """Each frame with its nearest neighbour of the same molecule or cell, where that is near enough."""
    molecules: dict[tuple[str, bytes, bytes], list[_Frame]] = defaultdict(list)
    for frame in frames:
        structure = frame.structure
        cell = b"" if structure.cell is None else structure.cell.tobytes()
        molecules[structure.group, structure.numbers.tobytes(), cell].append(frame)
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
