"""Which finite-difference step gives the best Hessian? Prints a table and writes it as JSON.

The reference is Richardson's extrapolation of the central differences at 0.02, 0.01 and 0.005 Å to sixth order, where
truncation and the noise of the forces are both small.

    python benchmarks/hessian_step.py hessian_step.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.collections import g2
from rich.console import Console
from rich.table import Table

from hessgnn.molecules.geometry import molecule_rng
from hessgnn.surface.base import HessianLabel
from hessgnn.surface.differences import central_differences
from hessgnn.surface.engines.tblite import TBLiteEngine, TBLiteSettings

MOLECULES = ("H2O", "HCN", "CH3OH", "CH3NO2", "HCOOCH3", "C6H6")
STEPS = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05)  # Å
COLUMNS = ("error", "asymmetry", "sum_rule")


def displaced_molecules() -> dict[str, Atoms]:
    """Molecules a little off their minima, so that no symmetry hides an error."""
    molecules = {name: g2[name] for name in MOLECULES}
    for name, atoms in molecules.items():
        atoms.set_initial_magnetic_moments(None)
        atoms.positions += 0.05 * molecule_rng(0, name).standard_normal(atoms.positions.shape)
    return molecules


def differences(engine: TBLiteEngine, atoms: Atoms, step: float) -> HessianLabel:
    """Central differences with a step of one's own."""
    return HessianLabel(central_differences(lambda image: engine.energy_forces(image)[1], atoms, step))


def reference(engine: TBLiteEngine, atoms: Atoms) -> np.ndarray:
    """Central differences extrapolated to sixth order."""
    coarse, middle, fine = (differences(engine, atoms, step).matrix for step in (0.02, 0.01, 0.005))
    fourth = [(4 * better - worse) / 3 for worse, better in ((coarse, middle), (middle, fine))]
    matrix = (16 * fourth[1] - fourth[0]) / 15
    return (matrix + matrix.T) / 2


def measure(accuracy: float) -> list[dict[str, float]]:
    """Largest deviations over all molecules, for each step."""
    engine = TBLiteEngine(TBLiteSettings(accuracy=accuracy))
    molecules = displaced_molecules()
    references = {name: reference(engine, atoms) for name, atoms in molecules.items()}
    rows = []
    for step in STEPS:
        worst = dict.fromkeys(COLUMNS, 0.0)
        for name, atoms in molecules.items():
            label = differences(engine, atoms, step)
            symmetric = (label.matrix + label.matrix.T) / 2
            error = float(np.abs(symmetric - references[name]).max())
            for key, value in zip(COLUMNS, (error, label.asymmetry, label.sum_rule), strict=True):
                worst[key] = max(worst[key], value)
        rows.append({"accuracy": accuracy, "step": step, **worst})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, help="JSON file to write")
    parser.add_argument("--accuracies", type=float, nargs="+", default=[1e-2, 1e-3, 1e-4, 1e-5])
    arguments = parser.parse_args()
    rows = [row for accuracy in arguments.accuracies for row in measure(accuracy)]
    table = Table("accuracy", "step / Å", "max error", "asymmetry", "sum rule", title="GFN2-xTB, worst of all, eV/Å²")
    for row in rows:
        table.add_row(f"{row['accuracy']:g}", f"{row['step']:g}", *(f"{row[key]:.1e}" for key in COLUMNS))
    Console().print(table)
    arguments.output.write_text(json.dumps({"unit": "eV/Å²", "molecules": MOLECULES, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
