"""The reference of the bundled data, and molecules small enough to run every task on it."""

from __future__ import annotations

from dataclasses import replace

from tblite.ase import TBLite

from hessgnn.benchmark.surface import CalculatorSurface
from hessgnn.data.store import Store
from hessgnn.data.structure import Structure


def tight_gfn2() -> TBLite:
    """As tightly converged as the labels are."""
    return TBLite(method="GFN2-xTB", accuracy=1e-5, max_iterations=500, verbosity=0)


def reference_surface() -> CalculatorSurface:
    return CalculatorSurface(tight_gfn2, "GFN2-xTB")


def minima(*formulas: str) -> list[Structure]:
    """Minima of the bundled set, each the only one of its composition and named by it, in the test split."""
    store = Store.open("rtp-mini")
    found = []
    for formula in formulas:
        (index,) = (i for i, kind in enumerate(store.kinds) if (kind, store.groups[i]) == ("minimum", formula))
        found.append(replace(store[index], name=formula, split="test"))
    return found
