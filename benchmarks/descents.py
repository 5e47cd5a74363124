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
from hessgnn.evaluation.tasks.saddle import SaddleSettings, SaddleTask
from hessgnn.evaluation.tasks.subjects import StoredReaction, reactions
from hessgnn.molecules.geometry import INTACT_BOND, rmsd, same_bonds
from hessgnn.molecules.vibrations import Vibrations
from hessgnn.runtime.files import write_text
from hessgnn.runtime.machine import hardware
from hessgnn.surface.base import Surface, SurfaceError
from hessgnn.surface.calculator import surface_from_import_path
from hessgnn.surface.path import follow_irc
from hessgnn.surface.potential import PotentialSurface
from hessgnn.surface.stationary import quasi_newton, stationary

DATA = "rtp-mini"

Feet = tuple[list[Array], int]
"""Where both sides end, and how many gradients it took."""


def descents(surface: Surface, reaction: StoredReaction, positions: Array, modes: Vibrations) -> Feet:
    """As the task does it."""
    settings, mode = SaddleSettings(), modes.modes[0]
    push = settings.push * mode / np.abs(mode).max()
    feet = [
        quasi_newton(
            surface,
            Atoms(reaction.saddle.numbers, positions + sign * push),
            settings.descent_fmax,
            settings.descent_steps,
            longest=settings.descent_step,
        )
        for sign in (1, -1)
    ]
    return [foot.positions for foot in feet], sum(foot.gradients for foot in feet)


def coordinates(surface: Surface, reaction: StoredReaction, positions: Array, modes: Vibrations) -> Feet:
    """As the factory does it."""
    before, saddle = surface.calls.gradients, Atoms(reaction.saddle.numbers, positions)
    branches = follow_irc(surface, saddle, modes, fmax=SaddleSettings().descent_fmax)
    return [branch.end for branch in branches], surface.calls.gradients - before


Way = Callable[[Surface, StoredReaction, Array, Vibrations], Feet]
WAYS: dict[str, Way] = {
    "descents": descents,
    "irc": coordinates,
}


def compare(surface: Surface, reaction: StoredReaction) -> dict[str, Any]:
    """Search as the task does, then go down both ways."""
    row: dict[str, Any] = {"reaction": reaction.name, "atoms": len(reaction.saddle), "found": False}
    task = SaddleTask(SaddleSettings())
    try:
        search = task._search(surface, reaction, 0)  # the task's own, with the same noise
    except SurfaceError as error:
        return row | {"reason": str(error)}
    passed = task._passed(search)
    if not passed["first_order"]:
        return row | {"reason": "not one imaginary mode"}
    positions = np.array(search["positions"])
    numbers = reaction.saddle.numbers
    modes = stationary(surface, Atoms(numbers, positions)).modes
    row |= {"found": True, "right": passed["right"]}
    ends = [structure.positions for structure in (reaction.stations[0], reaction.stations[2])]
    for name, way in WAYS.items():
        started = time.perf_counter()
        try:
            feet, gradients = way(surface, reaction, positions, modes)
        except SurfaceError as error:
            row[name] = {"joins": False, "reason": str(error), "seconds": time.perf_counter() - started}
            continue
        joins = any(
            all(same_bonds(numbers, foot, end, INTACT_BOND) for foot, end in zip(feet, order, strict=True))
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


def _told(reaction: StoredReaction, total: int) -> StoredReaction:
    print(f"{reaction.name} ({total} in all)", flush=True)
    return reaction


if __name__ == "__main__":
    main()
