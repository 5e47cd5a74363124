"""Do energies, forces and Hessians belong together? Forces must be the slope of energies, Hessians that of forces.

Between two frames of one molecule a displacement d apart, the trapezoidal rule gives ``F₂ − F₁ ≈ −½ (H₁ + H₂) d`` and
``E₂ − E₁ ≈ −½ (F₁ + F₂)·d`` up to third order in d. Turning a molecule as a whole turns its forces: with u = ω × R,
``H u = −ω × F`` holds exactly and at any geometry. A wrong sign or unit shows as a slope other than 1, whatever the
molecule and the level of theory.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist

from hessgnn.data.checks.finding import Finding, Seen, finding
from hessgnn.data.checks.labels import ENERGY_UNITS, FORCE_UNITS, HESSIAN_UNITS, likely_unit, misreading
from hessgnn.data.structure import Array, Structure

MAX_DISPLACEMENT = 0.3
"""Largest displacement of an atom between the two frames of a pair, Å; beyond it anharmonicity blurs the slope."""
MIN_PAIRS = 3
"""Fewer pairs than this judge nothing."""
TOLERANCE = 1.4
"""Factor by which a slope may differ from 1; the smallest unit mistake, eV/Bohr for eV/Å, makes 1.9."""
MIN_AGREEMENT = 0.6
"""Share of the slopes that must agree before a unit or a sign is blamed; of sound frames more than 0.8 do."""
MIN_TURN = 5e-2
"""Turns whose forces change by less, eV/Å², are at a stationary point and give no slope."""
MAX_MISFIT = 1.0
"""Residual of a pair over its scale; the wrong sign gives 2, anharmonicity up to 0.6 at 0.3 Å."""
MIN_MISFIT = 0.1
"""Smaller residuals, eV or eV/Å, are noise rather than a fault."""
SHUFFLED = 0.5
"""When so large a share of at least :data:`MIN_SHUFFLED` pairs does not fit, the labels belong to other frames."""
MIN_SHUFFLED = 10

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
    """

    slope: float
    residual: float
    scale: float
    structures: tuple[Structure, Structure]


@dataclass(frozen=True)
class SlopeFit:
    """Median of slopes, and the share within :data:`TOLERANCE` of it: a wrong unit is wrong everywhere."""

    slope: float
    agreement: float

    @property
    def is_off(self) -> bool:
        """Whether most slopes agree on a value too far from 1 to be anharmonicity."""
        return not 1 / TOLERANCE < self.slope < TOLERANCE and self.agreement > MIN_AGREEMENT


def fit(slopes: Sequence[float]) -> SlopeFit | None:
    """Take the median of slopes; ``None`` when there are fewer than :data:`MIN_PAIRS`."""
    if len(slopes) < MIN_PAIRS:
        return None
    median = float(np.median(slopes))
    low, high = sorted((median / TOLERANCE, median * TOLERANCE))
    return SlopeFit(median, float(np.mean([low <= slope <= high for slope in slopes])))


def hessians_against_forces(structures: Iterable[Structure]) -> list[Pair]:
    """Compare Hessians with the change of forces between neighbouring frames.

    Structures with both labels and a close neighbour in their group are used, pairs whose forces differ enough
    returned.
    """
    return _compared(
        [_Frame(s, s.forces.ravel(), -s.hessian) for s in structures if s.hessian is not None and s.forces is not None]
    )


def forces_against_energies(structures: Iterable[Structure]) -> list[Pair]:
    """Compare forces with the change of energy between neighbouring frames, as :func:`hessians_against_forces` does."""
    return _compared(
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


def _compared(frames: list[_Frame]) -> list[Pair]:
    pairs = []
    of_structure = {id(frame.structure): frame for frame in frames}
    for pair in close_pairs(frame.structure for frame in frames):
        first, second = (of_structure[id(structure)] for structure in pair)
        displacement = (second.structure.positions - first.structure.positions).ravel()
        mean = (first.derivative + second.derivative) / 2
        explained, actual = mean @ displacement, second.value - first.value
        if np.linalg.norm(actual) > _MIN_CHANGE:
            slope = float(explained @ actual / (actual @ actual))
            scale = float(np.linalg.norm(np.abs(mean) @ np.abs(displacement)))
            residual = float(np.linalg.norm(explained - actual))
            pairs.append(Pair(slope, residual, scale, (first.structure, second.structure)))
    return pairs


def close_pairs(structures: Iterable[Structure]) -> Iterator[tuple[Structure, Structure]]:
    """Each frame with its nearest neighbour of the same molecule or cell, where that is near enough."""
    molecules: dict[tuple[str, bytes, bytes], list[Structure]] = defaultdict(list)
    for structure in structures:
        cell = b"" if structure.cell is None else structure.cell.tobytes()
        molecules[structure.group, structure.numbers.tobytes(), cell].append(structure)
    for same in molecules.values():
        if len(same) < 2:
            continue
        positions = np.array([structure.positions for structure in same])
        flat = positions.reshape(len(same), -1)
        distances = cdist(flat, flat)
        np.fill_diagonal(distances, np.inf)
        nearest = distances.argmin(axis=1)
        for i, j in sorted({(min(i, int(j)), max(i, int(j))) for i, j in enumerate(nearest)}):
            if 0 < np.linalg.norm(positions[j] - positions[i], axis=1).max() < MAX_DISPLACEMENT:
                yield same[i], same[j]


class Slopes:
    """Compares neighbouring frames, which it is shown molecule by molecule, and turns of single ones."""

    def __init__(self) -> None:
        self._turns: list[float] = []
        self._turned: dict[int, str] = {}
        self._forces = _Comparison("forces are not the slope of the energies", "eV")
        self._hessians = _Comparison("Hessians are not the slope of the forces", "eV/Å")

    def see(self, seen: Seen) -> None:
        """Turn one."""
        turned = seen.turned
        if turned is not None and (size := float((turned[1] ** 2).sum())) > MIN_TURN**2:
            self._turns.append(float((turned[0] * turned[1]).sum()) / size)
            self._turned[seen.index] = seen.structure.name

    def see_molecule(self, frames: Mapping[int, Structure]) -> None:
        """Compare the frames of one group; keys are their indices."""
        places = {structure.name: index for index, structure in frames.items()}
        for pair in forces_against_energies(frames.values()):
            self._forces.add(pair, places)
        for pair in hessians_against_forces(frames.values()):
            self._hessians.add(pair, places)

    @property
    def energy_residuals(self) -> list[float]:
        """``|ΔE + ½ (F₁ + F₂)·d|`` of each pair, eV."""
        return self._forces.residuals

    @property
    def force_residuals(self) -> list[float]:
        """``|ΔF + ½ (H₁ + H₂) d|`` of each pair, eV/Å."""
        return self._hessians.residuals

    def findings(self) -> Iterator[Finding]:
        """Blame the label that the others contradict; else list the frames that fit no neighbour."""
        to_energies = fit(self._forces.slopes)
        to_forces, turned = fit(self._turns), self._turned  # exact, where frames are blurred by anharmonicity
        if to_forces is None:
            to_forces, turned = fit(self._hessians.slopes), self._hessians.names
        verdicts = list(_verdicts(to_energies, to_forces))
        for verdict in verdicts:
            names = turned if verdict.of_hessians else self._forces.names
            yield finding("error", verdict.code, verdict.what, list(names), list(names.values()))
        if not verdicts:
            yield from self._forces.misfits()
            yield from self._hessians.misfits()


class _Comparison:
    """Pairs of frames, one kind of derivative."""

    def __init__(self, what: str, unit: str) -> None:
        self._what, self._unit = what, unit
        self.slopes: list[float] = []
        self.residuals: list[float] = []
        self.names: dict[int, str] = {}
        self._misfits: Counter[int] = Counter()
        self._count, self._worst = 0, 0.0

    def add(self, pair: Pair, places: Mapping[str, int]) -> None:
        self.slopes.append(pair.slope)
        self.residuals.append(pair.residual)
        members = {places[structure.name]: structure.name for structure in pair.structures}
        self.names |= members
        if pair.residual > max(MAX_MISFIT * pair.scale, MIN_MISFIT):
            self._count, self._worst = self._count + 1, max(self._worst, pair.residual)
            self._misfits.update(members.keys())

    def misfits(self) -> Iterator[Finding]:
        """Frames of pairs that do not fit, those of most pairs first."""
        if self._count:
            shuffled = len(self.slopes) >= MIN_SHUFFLED and self._count > SHUFFLED * len(self.slopes)
            indices = [index for index, _ in self._misfits.most_common()]
            what = f"{self._what} between neighbouring frames, by up to {self._worst:.3g} {self._unit},"
            what += f" in {self._count} of {len(self.slopes)} pairs: labels of other frames or of another state?"
            names = [self.names[index] for index in indices]
            yield finding("error" if shuffled else "warning", "slope-outlier", what, indices, names)


@dataclass(frozen=True)
class _Verdict:
    """Which label is wrong and how."""

    code: str
    what: str
    of_hessians: bool = False


def _verdicts(to_energies: SlopeFit | None, to_forces: SlopeFit | None) -> Iterator[_Verdict]:
    """Weigh both slopes: forces over the slope of energies, and Hessians over the slope of forces."""
    energies_off = to_energies is not None and to_energies.is_off
    hessians_off = to_forces is not None and to_forces.is_off
    slope = 1.0
    if to_energies is not None and energies_off:
        if to_forces is not None and not hessians_off:
            yield _energies(to_energies.slope)
        else:
            slope = _factor(to_energies.slope)
            yield _forces(to_energies.slope, alone=to_forces is None)
    if to_forces is not None and hessians_off:
        left = to_forces.slope * slope  # what is off once the forces are right is the Hessians' own mistake
        if not 1 / TOLERANCE < left < TOLERANCE:
            yield _hessians(left)


def _factor(slope: float) -> float:
    """The mistake in forces that a slope, blurred by anharmonicity, points to."""
    size = abs(slope)
    if not 1 / TOLERANCE < size < TOLERANCE:
        name = likely_unit(size, FORCE_UNITS)
        unit = size if name is None else FORCE_UNITS[name]
        size = min(unit, 1 / unit, key=lambda factor: abs(np.log(size / factor)))
        return float(np.copysign(size, slope))
    return float(np.copysign(1.0, slope))


def _energies(slope: float) -> _Verdict:
    what = "forces and Hessians agree, but"
    if slope < 0:
        return _Verdict("energy-sign", f"{what} energies rise along the forces: energies have the wrong sign")
    reading = misreading(1 / slope, ENERGY_UNITS, "eV")
    return _Verdict("energy-unit", f"{what} energies between neighbouring frames are {reading}")


def _forces(slope: float, *, alone: bool) -> _Verdict:
    if slope < 0:
        return _Verdict("forces-sign", "energies rise along the forces: forces have the wrong sign, or hold gradients")
    what = f"against the energies of neighbouring frames, forces are {misreading(slope, FORCE_UNITS, 'eV/Å')}"
    if alone:  # without Hessians nobody can tell which of the two is wrong
        what += f" Or energies {misreading(1 / slope, ENERGY_UNITS, 'eV')}"
    return _Verdict("forces-unit", what)


def _hessians(slope: float) -> _Verdict:
    if slope < 0:
        what = "forces change along a displacement d by +H d, not −H d: Hessians have the wrong sign"
        return _Verdict("hessian-forces-sign", what, of_hessians=True)
    what = f"against the change of forces, Hessians are {misreading(slope, HESSIAN_UNITS, 'eV/Å²')}"
    return _Verdict("hessian-forces-unit", what, of_hessians=True)
