"""Measure how exact the analytic Hessians of PySCF are, with and without the motion of the integration grid.

The reference are central differences, symmetrised, of forces that follow the grid's motion, on the finer grid. Compared
are central differences on the grid of dft-mini, and analytic Hessians on several grids. Minutes on one core.

    python benchmarks/dft_hessians.py benchmarks/results/dft-hessians.json
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
from ase import Atoms
from rich.console import Console
from rich.table import Table

from hessgnn.data.store.store import Store
from hessgnn.runtime.files import write_text
from hessgnn.surface.base import HessianLabel
from hessgnn.surface.differences import central_differences
from hessgnn.surface.engines.pyscf import PySCFEngine, PySCFSettings

STRUCTURES = ("O/nms-0", "C#N/nms-0", "C=O/nms-0")
STEP = 2e-3  # Å, about what `hessgnn data label` chooses for these forces
FINE, OURS = 5, 3


def engine_of(level: int, response: bool) -> PySCFEngine:
    """wB97X/6-31G(d) that refuses no Hessian."""
    return PySCFEngine(PySCFSettings(grid_level=level, grid_response=response, sum_rule_tolerance=100.0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    output = parser.parse_args().output
    store, rows = Store.open("dft-mini"), []
    table = Table("structure", "how", "grid", "relative", "largest / eV/Å²", "sum rule / eV/Å²", "CPU s")
    for name in STRUCTURES:
        atoms = store[store.names.index(name)].to_atoms()

        def differences(level: int, atoms: Atoms = atoms) -> HessianLabel:
            engine = engine_of(level, True)
            return HessianLabel(central_differences(lambda image: engine.energy_forces(image)[1], atoms, STEP))

        truth = differences(FINE).symmetric
        for how, level in (
            ("differences", OURS),
            *((how, n) for how in ("response", "plain") for n in (FINE, OURS, 2)),
        ):
            began = time.process_time()
            label = differences(level) if how == "differences" else engine_of(level, how == "response").hessian(atoms)
            seconds, off = time.process_time() - began, label.symmetric - truth
            row = {
                "structure": name,
                "how": how,
                "grid_level": level,
                "relative": float(np.linalg.norm(off) / np.linalg.norm(truth)),
                "largest": float(np.abs(off).max()),
                "sum_rule": label.sum_rule,
                "seconds": round(seconds, 2),
            }
            rows.append(row)
            numbers = [f"{row[key]:.1e}" for key in ("relative", "largest", "sum_rule")]
            table.add_row(name, how, str(level), *numbers, f"{seconds:.1f}")
    Console(width=120).print(table)
    write_text(output, json.dumps({"step": STEP, "fine": FINE, "ours": OURS, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
