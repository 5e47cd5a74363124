"""What a build is divided into: molecules and reactions, each worked on by one process from beginning to end."""

from __future__ import annotations

import hashlib
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from ase import Atoms

from hessgnn.data.kinds import IRC, MINIMUM, PRODUCT, REACTANT, TRANSITION_STATE
from hessgnn.data.structure import Structure
from hessgnn.factory.elementary import find_step
from hessgnn.factory.frames import frames_around, label
from hessgnn.factory.recipe import Recipe
from hessgnn.factory.targets import Target
from hessgnn.surface.base import Surface
from hessgnn.surface.stationary import find_minimum


@dataclass(frozen=True)
class JobResult:
    """What a job made.

    Attributes
    ----------
    structures : list of Structure
        Labelled, without splits.
    failed : dict
        Name -> reason of frames that could not be made.
    facts : dict
        What it cost and found, for the records of the set.
    """

    structures: list[Structure]
    failed: dict[str, str]
    facts: dict[str, Any]


class BuildJob(ABC):
    """A piece of a build. Its name is that of its structures, before the first ``/``."""

    name: str

    @abstractmethod
    def identity(self) -> bytes:
        """All that the result depends on beside the recipe."""

    @abstractmethod
    def stationary(self, recipe: Recipe, surface: Surface) -> tuple[list[Structure], dict[str, Any]]:
        """Make the structures that frames are displaced from, and what is to be said of them."""

    def run(self, recipe: Recipe, surface: Surface) -> JobResult:
        """Make and label everything.

        Returns
        -------
        JobResult
            Structures with their frames.

        Raises
        ------
        SurfaceError
            When there is nothing to be had.
        """
        began, before = time.perf_counter(), surface.calls.gradients
        made, facts = self.stationary(recipe, surface)
        structures: list[Structure] = []
        failed: dict[str, str] = {}
        for structure in made:
            frames, reasons = frames_around(recipe, surface, structure)
            structures += [structure, *frames]
            failed |= reasons
        cost = {"seconds": round(time.perf_counter() - began, 2), "gradients": surface.calls.gradients - before}
        return JobResult(structures, failed, facts | cost)

    def digest(self, recipe: Recipe) -> str:
        """Fingerprint of the result: it changes with what the numbers depend on, not with splits or what else is built.

        Returns
        -------
        str
            Hexadecimal digits.
        """
        rest = {"name", "description", "geometries", "reactions", "pairs", "split", "resolution"}
        relevant = recipe.model_dump_json(exclude=rest)
        return hashlib.sha256(relevant.encode() + self.name.encode() + self.identity()).hexdigest()[:16]


@dataclass(frozen=True, eq=False)
class MoleculeJob(BuildJob):
    """A molecule: its minimum."""

    name: str
    start: Atoms

    def identity(self) -> bytes:
        """The starting geometry."""
        return self.start.numbers.tobytes() + self.start.positions.tobytes()

    def stationary(self, recipe: Recipe, surface: Surface) -> tuple[list[Structure], dict[str, Any]]:
        """The minimum."""
        well = recipe.minimum
        found = find_minimum(surface, self.start, well.fmax, well.max_steps, pushes=well.pushes, far=None)
        return [label(surface, found.atoms, name=self.name, kind=MINIMUM, hessian=found.hessian)], {}


@dataclass(frozen=True)
class ReactionJob(BuildJob):
    """A reaction: its saddle point ``NAME/ts``, its ends, and frames of its path, ``NAME/ts/irc-00`` and so on."""

    target: Target

    @property
    def name(self) -> str:  # type: ignore[override]
        """The target's."""
        return self.target.name

    def identity(self) -> bytes:
        """What the target says."""
        return self.target.identity()

    def stationary(self, recipe: Recipe, surface: Surface) -> tuple[list[Structure], dict[str, Any]]:
        """The saddle point, its two minima and the frames of the path."""
        step = find_step(recipe, surface, self.target)
        saddle = f"{self.name}/ts"
        points = [
            (saddle, TRANSITION_STATE, "", step.saddle),
            (f"{self.name}/reactant", REACTANT, saddle, step.reactant),
            (f"{self.name}/product", PRODUCT, saddle, step.product),
        ]
        made = [
            label(surface, point.atoms, name=name, kind=kind, parent=parent, hessian=point.hessian)
            for name, kind, parent, point in points
        ]
        numbers = step.saddle.atoms.numbers
        made += [
            label(surface, Atoms(numbers, frame), name=f"{saddle}/irc-{k:02d}", kind=IRC, parent=saddle)
            for k, frame in enumerate(step.frames)
        ]
        energies = [structure.energy or 0.0 for structure in made[:3]]
        facts = {
            **self.target.facts(),
            "barrier": round(energies[0] - energies[1], 4),
            "reaction_energy": round(energies[2] - energies[1], 4),
            "imaginary_frequency": round(float(step.saddle.modes.frequencies[0]), 1),
        }
        return made, facts
