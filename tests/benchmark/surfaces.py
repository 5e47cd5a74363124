"""The reference of the bundled data, and molecules small enough to run every task on it."""

from __future__ import annotations

import torch
from tblite.ase import TBLite

import hessgnn
from hessgnn.benchmark.surface import CalculatorSurface, PotentialSurface
from hessgnn.data.store import Store
from hessgnn.data.structure import Structure


def tight_gfn2() -> TBLite:
    """As tightly converged as the labels are."""
    return TBLite(method="GFN2-xTB", accuracy=1e-5, max_iterations=500, verbosity=0)


def reference_surface() -> CalculatorSurface:
    return CalculatorSurface(tight_gfn2, "GFN2-xTB")


def minima(*names: str) -> list[Structure]:
    store = Store.open("rtp-mini")
    return [store[store.names.index(name)] for name in names]


def untrained() -> PotentialSurface:
    torch.manual_seed(0)
    potential = hessgnn.create("schnet", width=8, n_interactions=1, cutoff=4.0)
    potential.set_scaling(dict.fromkeys((1, 6, 7, 8), -10.0), 3.0)
    return PotentialSurface(potential)
