"""What a check is, and what it has to say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol

import numpy as np

from hessgnn.data.checks.consistency import rotations
from hessgnn.data.structure import Array, Structure

Level = Literal["error", "warning"]
_SHOWN = 5  # structures that a message names; a finding holds them all


@dataclass(frozen=True)
class Finding:
    """What a check has to say.

    Attributes
    ----------
    level : str
        ``error`` forbids training, ``warning`` does not.
    code : str
        Name of the check, for filters and tests.
    message : str
        One line.
    structures : tuple of str
        Names of those concerned.
    indices : tuple of int
        Their places in the store.
    """

    level: Level
    code: str
    message: str
    structures: tuple[str, ...] = ()
    indices: tuple[int, ...] = ()


def finding(level: Level, code: str, what: str, indices: Sequence[int], names: Sequence[str]) -> Finding:
    """Make a finding whose message lists the first of those concerned by index and name.

    Parameters
    ----------
    level, code
        Of the finding.
    what
        What is wrong.
    indices, names
        Of all structures concerned; at least one.

    Returns
    -------
    Finding
        E.g. ``negative trace (2 structures: 4 'a', 7 'b')``.
    """
    listed = ", ".join(f"{index} {name!r}" for index, name in zip(indices[:_SHOWN], names, strict=False))
    more = ", …" if len(indices) > _SHOWN else ""
    count = f"{len(indices)} structures: " if len(indices) > 1 else ""
    return Finding(level, code, f"{what} ({count}{listed}{more})", tuple(names), tuple(indices))


@dataclass(frozen=True, eq=False)
class Seen:
    """A structure as the checks see it; its numbers are finite. What several of them need is computed once.

    Attributes
    ----------
    index : int
        Its place in the store.
    structure : Structure
        The structure.
    """

    index: int
    structure: Structure

    @cached_property
    def turned(self) -> tuple[Array, Array] | None:
        """Response to rotations, from the Hessian and from the forces, eV/Å².

        See :func:`~hessgnn.data.checks.consistency.rotations`. ``None`` without Hessian or forces, and where nothing
        turns.
        """
        return None if self.structure.forces is None else rotations(self.structure)

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
    """The structures that share one fault, and the worst of them.

    Parameters
    ----------
    level, code
        Of the finding.
    what
        Message; ``{worst}`` stands for the largest measure.
    """

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
