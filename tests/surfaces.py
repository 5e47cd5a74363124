"""The reference of the bundled data, and molecules small enough to run every task on it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from ase import Atoms
from tblite.ase import TBLite

import hessgnn
from hessgnn.data.store.store import Store
from hessgnn.data.structure import Structure
from hessgnn.surface.calculator import CalculatorSurface, HessGNNCalculator
from hessgnn.surface.potential import PotentialSurface

MINIMA = ("minimum", "reactant", "product")


def tight_gfn2() -> TBLite:
    """As tightly converged as the labels are."""
    return TBLite(method="GFN2-xTB", accuracy=1e-5, max_iterations=500, verbosity=0)


def reference_surface() -> CalculatorSurface:
    return CalculatorSurface(tight_gfn2, "GFN2-xTB")


def minima(*formulas: str) -> list[Structure]:
    """The lowest minimum of each formula, named after it."""
    store = Store.open("rtp-mini")
    found = []
    counts = store.composition(range(119))
    for formula in formulas:
        same = (counts == np.bincount(Atoms(formula).numbers, minlength=119)).all(axis=1)
        candidates = [i for i, kind in enumerate(store.kinds) if same[i] and kind in MINIMA]
        lowest = min(candidates, key=lambda i: store.energies[i])
        found.append(replace(store[lowest], name=formula, kind="minimum", parent="", split="test"))
    return found


def bad_calculator() -> HessGNNCalculator:
    """What has learned nothing, for ``hessgnn evaluate --calculator``."""
    return untrained().calculator()


def untrained() -> PotentialSurface:
    torch.manual_seed(0)
    potential = hessgnn.create("schnet", width=8, n_interactions=1, cutoff=4.0)
    potential.set_scaling(dict.fromkeys((1, 6, 7, 8), -10.0), 3.0)
    return PotentialSurface(potential)
