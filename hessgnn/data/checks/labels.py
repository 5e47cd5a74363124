"""Checks of single labels: placeholders, asymmetry, and what translation and rotation demand."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from hessgnn.data.checks.finding import Finding, Seen, Suspects
from hessgnn.data.store.writer import ASYMMETRY_TOLERANCE

SUM_RULE_TOLERANCE = 5e-3
"""Largest share of ``max|H|`` that ``|Σ_j H_ij|`` may reach."""
ROTATION_TOLERANCE = 1e-2
"""Largest share of ``max|H|`` by which ``H u`` of a turn may miss ``−ω × F``; integration grids leave 5e-4."""
NET_FORCE_TOLERANCE = 0.1
"""Largest net force ``|Σ F_i|``, eV/Å; tight calculations stay below 1e-3."""


class Placeholders:
    """Labels that are exactly zero: often a missing one that a program wrote as a number."""

    def __init__(self) -> None:
        what = "{} exactly zero: is a missing label written as a number?"
        self._suspects = {
            "energy": Suspects("warning", "zeros", what.format("the energy is")),
            "forces": Suspects("warning", "zeros", what.format("forces are")),
            "hessian": Suspects("warning", "zeros", what.format("the Hessian is")),
        }

    def see(self, seen: Seen) -> None:
        """Look for zeros; on a single atom there is no force."""
        structure = seen.structure
        for key, suspects in self._suspects.items():
            value = getattr(structure, key)
            if value is not None and len(structure) > 1 and not np.any(value):
                suspects.add(seen)

    def findings(self) -> Iterator[Finding]:
        """One for each label."""
        for suspects in self._suspects.values():
            yield from suspects.findings()


class Symmetry:
    """Hessians that were far from symmetric when they were made; the store keeps the symmetric part."""

    def __init__(self) -> None:
        self._suspects = Suspects(
            "error", "asymmetry", "the Hessian was far from symmetric when made: max|H − Hᵀ| up to {worst} eV/Å²"
        )

    def see(self, seen: Seen) -> None:
        """Compare what symmetrising removed with what is left."""
        structure = seen.structure
        if structure.hessian is not None:
            removed = structure.hessian_asymmetry or 0.0
            if removed > ASYMMETRY_TOLERANCE * np.abs(structure.hessian).max():
                self._suspects.add(seen, removed)

    def findings(self) -> Iterator[Finding]:
        """At most one."""
        yield from self._suspects.findings()


class Invariances:
    """Moving or turning a whole molecule changes neither its energy nor, but for the turn, its forces."""

    def __init__(self) -> None:
        self._sums = Suspects(
            "error", "sum-rule", "moving the whole structure changes the forces: |Σ_j H_ij| up to {worst} eV/Å²"
        )
        self._turns = Suspects(
            "error",
            "rotation",
            "turning the whole molecule does not turn the forces: H u misses −ω × F by up to {worst} eV/Å²;"
            " positions, forces and Hessian of different orientations or geometries?",
        )
        self._net = Suspects("warning", "net-force", "forces do not add up to zero: |Σ F_i| up to {worst} eV/Å")

    def see(self, seen: Seen) -> None:
        """Apply both rules."""
        structure = seen.structure
        if (seen.net_force or 0.0) > NET_FORCE_TOLERANCE:
            self._net.add(seen, seen.net_force or 0.0)
        if structure.hessian is None or seen.shift_residual is None:
            return
        largest = max(float(np.abs(structure.hessian).max()), 1.0)
        if seen.shift_residual > SUM_RULE_TOLERANCE * largest:
            self._sums.add(seen, seen.shift_residual)
        elif seen.turn_residual is not None and seen.turn_residual > ROTATION_TOLERANCE * largest:
            self._turns.add(seen, seen.turn_residual)

    def findings(self) -> Iterator[Finding]:
        """At most three."""
        for suspects in (self._sums, self._turns, self._net):
            yield from suspects.findings()
