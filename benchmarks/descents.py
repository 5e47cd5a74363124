"""Where does a surface lead from the saddle points found on it: short descents beside intrinsic reaction coordinates.

The saddle task follows a surface downhill by quasi-Newton steps. This measures whether the integrator of the data
factory would judge otherwise, and what it would cost. docs/results/reference.md is written from what is stored.

    python benchmarks/descents.py benchmarks/results/descents-NAME.json --calculator reference:gfn2 [--limit 12]
    python benchmarks/descents.py benchmarks/results/descents-NAME.json --run runs/my-run
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms

import hessgnn
from hessgnn.data.store.store import Store
from hessgnn.data.structure import Array
from hessgnn.evaluation.hardware import hardware
from hessgnn.evaluation.reactions import Reaction, reactions
from hessgnn.evaluation.tasks.saddle import SaddleSettings, SaddleTask
from hessgnn.factory.irc import follow
from hessgnn.factory.minimum import Stationary
from hessgnn.factory.recipe import IRCSettings
from hessgnn.molecules.vibrations import Vibrations, vibrations
from hessgnn.runtime.files import write_text
from hessgnn.surface.base import PotentialSurface, Surface, surface_from_import_path
from hessgnn.surface.engines.base import Engine, EngineSettings, HessianLabel, LabelError
from hessgnn.surface.failures import FAILURES, TaskFailure
from hessgnn.surface.minimise import quasi_newton, rmsd, same_bonds

DATA = "rtp-mini"

Feet = tuple[list[Array], int]
"""Where both sides end, and how many gradients it took."""


class SurfaceEngine(Engine):
    """A surface as the integrator asks for it."""

    failures = FAILURES

    def __init__(self, surface: Surface) -> None:
        super().__init__(EngineSettings(name="surface"), level_of_theory=surface.name)
        self._calculator: Any = surface.calculator()

    def compute(self, atoms: Atoms) -> tuple[float, Array]:
        """Energy and forces."""
        image = atoms.copy()
        image.calc = self._calculator
        return float(image.get_potential_energy()), np.array(image.get_forces())


def descents(surface: Surface, reaction: Reaction, positions: Array, modes: Vibrations) -> Feet:
    """As the task does it."""
    settings, mode = SaddleSettings(), modes.modes[0]
    push = settings.push * mode / np.abs(mode).max()
    feet = [
        quasi_newton(
            surface,
            reaction.saddle,
            positions + sign * push,
            settings.descent_fmax,
            settings.descent_steps,
            settings.descent_step,
        )
        for sign in (1, -1)
    ]
    return [foot.positions for foot in feet], sum(foot.gradients for foot in feet)


def coordinates(surface: Surface, reaction: Reaction, positions: Array, modes: Vibrations) -> Feet:
    """As the factory does it."""
    engine = SurfaceEngine(surface)
    unused = HessianLabel(np.zeros((0, 0)))
    saddle = Stationary(Atoms(reaction.saddle.numbers, positions), unused, modes)
    branches = follow(IRCSettings(fmax=SaddleSettings().descent_fmax), engine, saddle)
    return [branch.end for branch in branches], engine.calls.gradients


WAYS: dict[str, Callable[[Surface, Reaction, Array, Vibrations], Feet]] = {"descents": descents, "irc": coordinates}


def compare(surface: Surface, reaction: Reaction) -> dict[str, Any]:
    """Search as the task does, then go down both ways."""
    row: dict[str, Any] = {"reaction": reaction.name, "atoms": len(reaction.saddle), "found": False}
    task, calculator = SaddleTask(SaddleSettings()), surface.calculator()
    try:
        search = task._search(surface, calculator, reaction, 0)  # the task's own, with the same noise
    except TaskFailure as error:
        return row | {"reason": str(error)}
    passed = task._passed(search)
    if not passed["first_order"]:
        return row | {"reason": "not one imaginary mode"}
    positions = np.array(search["positions"])
    numbers = reaction.saddle.numbers
    modes = vibrations(numbers, positions, calculator.get_hessian(Atoms(numbers, positions)))
    row |= {"found": True, "right": passed["right"]}
    ends = [structure.positions for structure in (reaction.stations[0], reaction.stations[2])]
    for name, way in WAYS.items():
        started = time.perf_counter()
        try:
            feet, gradients = way(surface, reaction, positions, modes)
        except (TaskFailure, LabelError) as error:
            row[name] = {"joins": False, "reason": str(error), "seconds": time.perf_counter() - started}
            continue
        joins = any(
            all(same_bonds(numbers, foot, end) for foot, end in zip(feet, order, strict=True))
            for order in (ends, ends[::-1])
        )
        distance = min(
            max(rmsd(foot, end) for foot, end in zip(feet, order, strict=True)) for order in (ends, ends[::-1])
        )
        seconds = time.perf_counter() - started
        row[name] = {"joins": joins, "gradients": gradients, "seconds": seconds, "rmsd": distance}
    return row


def main() -> None:
    """Measure, and write what was found after each reaction."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--calculator")
    parser.add_argument("--run", type=Path)
    parser.add_argument("--title")
    parser.add_argument("--limit", type=int)
    given = parser.parse_args()
    torch.set_num_threads(1)
    surface: Surface
    if given.calculator:
        surface = surface_from_import_path(given.calculator)
    else:
        surface = PotentialSurface(hessgnn.load(given.run), given.run.name)
    known = [r for r in reactions(Store.open(DATA), "test") if r.reactant is not None and r.product is not None]
    rows = []
    for reaction in map(partial(_told, total=len(known[: given.limit])), known[: given.limit]):
        rows.append(compare(surface, reaction))
        content = {"surface": given.title or surface.name, "data": DATA, "hardware": hardware(), "rows": rows}
        write_text(given.output, json.dumps(content, indent=1) + "\n")


def _told(reaction: Reaction, total: int) -> Reaction:
    print(f"{reaction.name} ({total} in all)", flush=True)
    return reaction


if __name__ == "__main__":
    main()
