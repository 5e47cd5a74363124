"""Measure the errors of Hessian-vector products made of displaced frames, and of the errors stored with them.

Products of GFN2-xTB frames around minima and saddle points of rtp-mini are compared with products by Richardson's
extrapolation of small central differences, at the reference and at the midpoint.

    python benchmarks/displaced_products.py displaced-products.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from hessgnn.data.displacements import At, Differences, anharmonicity, differences
from hessgnn.data.store.store import Store
from hessgnn.data.structure import Array, Structure
from hessgnn.surface.engines.tblite import TBLiteEngine, TBLiteSettings

COUNTS = {"minimum": 8, "transition-state": 3}
ATOMS = range(5, 11)
DIRECTIONS = 6  # of each structure
STEPS = (0.003, 0.01, 0.03, 0.06)  # Å
SMALL = (0.004, 0.002)  # Å, whose central differences are extrapolated
SOFTEST = 1.0  # eV/Å²: thermal displacements treat softer modes as having this


def chosen(rng: np.random.Generator) -> list[Structure]:
    store = Store.open("rtp-mini")
    found = []
    for kind, number in COUNTS.items():
        fit = [i for i, one in enumerate(store.kinds) if one == kind and store.n_atoms[i] in ATOMS]
        found += [store[int(i)] for i in rng.choice(fit, number, replace=False)]
    return found


def drawn(structure: Structure, kind: str, rng: np.random.Generator) -> Array:
    """Directions without translation and rotation: random, or those of thermal motion."""
    n_atoms = len(structure)
    arms = structure.positions - structure.positions.mean(axis=0)
    rigid = [*np.tile(np.eye(3), n_atoms), *(np.cross(axis, arms).ravel() for axis in np.eye(3))]
    basis = np.linalg.qr(np.array(rigid).T)[0]
    made = rng.normal(size=(DIRECTIONS, 3 * n_atoms))
    if kind == "thermal" and structure.hessian is not None:
        values, modes = np.linalg.eigh(structure.hessian)
        made = made / np.sqrt(np.maximum(np.abs(values), SOFTEST)) @ modes.T
    made = made - made @ basis @ basis.T
    return (made / np.sqrt(np.square(made).mean(axis=1, keepdims=True))).reshape(DIRECTIONS, n_atoms, 3)


class Surface:
    """GFN2-xTB around one structure."""

    def __init__(self, structure: Structure, engine: TBLiteEngine) -> None:
        self.structure, self.engine, self.atoms = structure, engine, structure.to_atoms()

    def at(self, displacement: Array) -> tuple[float, Array]:
        """Energy and forces of a displaced geometry."""
        image = self.atoms.copy()
        image.positions = self.structure.positions + displacement
        return self.engine.compute(image)

    def exact(self, vector: Array, at: Array) -> Array:
        """Product at a displacement, by extrapolation to fourth order."""
        coarse, fine = (
            (self.at(at - step * vector)[1] - self.at(at + step * vector)[1]) / (2 * step) for step in SMALL
        )
        return (4 * fine - coarse) / 3

    def products(self, vectors: Array, step: float, at: At, *, pairs: bool, energies: bool) -> Differences:
        """As ``hessgnn data directions`` makes them."""
        moved = step * (np.concatenate([vectors, -vectors]) if pairs else vectors)
        energy, forces = self.at(np.zeros_like(vectors[0]))
        values, others = zip(*(self.at(one) for one in moved), strict=True)
        known = np.array(values) if energies else None
        return differences(moved, np.array(others), forces, energies=known, reference_energy=energy, at=at)


def rms(values: Array) -> Array:
    return np.sqrt(np.square(values).mean(axis=(1, 2)))


def measure(kind: str, step: float) -> dict[str, object]:
    rng, engine = np.random.default_rng(0), TBLiteEngine(TBLiteSettings())
    surfaces = [Surface(structure, engine) for structure in chosen(rng)]
    vectors = [drawn(surface.structure, kind, rng) for surface in surfaces]
    ways: dict[str, tuple[At, bool]] = {
        "one-sided": ("reference", False),
        "central": ("reference", True),
        "midpoint": ("midpoint", False),
    }
    pairs = [
        s.products(v, step, "reference", pairs=True, energies=True) for s, v in zip(surfaces, vectors, strict=True)
    ]
    row: dict[str, object] = {"displacements": kind, "step": step}
    for way, (at, paired) in ways.items():
        made = [s.products(v, step, at, pairs=paired, energies=True) for s, v in zip(surfaces, vectors, strict=True)]
        sizes, wrong, expected = [], [], {"pairs": [], "energies": []}
        estimates = {"pairs": anharmonicity(pairs), "energies": anharmonicity(made)}
        for surface, one in zip(surfaces, made, strict=True):
            places = one.vectors * one.steps[:, None, None] * (0.5 if at == "midpoint" else 0.0)
            exact = np.array([surface.exact(v, place) for v, place in zip(one.vectors, places, strict=True)])
            wrong.append(rms(one.products - exact))
            sizes.append(rms(exact))
            for source, estimate in estimates.items():
                expected[source].append(estimate.errors(one, at))
        error = np.concatenate(wrong)
        row[way] = {
            "relative": quantiles(error / np.concatenate(sizes)),
            **{f"over error from {key}": quantiles(error / np.concatenate(value)) for key, value in expected.items()},
        }
    return row


def quantiles(values: Array) -> list[float]:
    return [float(f"{value:.3g}") for value in np.percentile(values, [5, 50, 95])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    rows = [measure(kind, step) for kind in ("random", "thermal") for step in STEPS]
    ways = ("one-sided", "central", "midpoint")
    table = Table("displacements", "ε / Å", *ways, title="relative error, and error over its estimate: 5, 50, 95 %")
    for row in rows:
        cells = [
            "\n".join(" ".join(f"{value:.2g}" for value in values) for values in row[way].values())  # type: ignore
            for way in ways
        ]
        table.add_row(str(row["displacements"]), f"{row['step']:g}", *cells)
    Console().print(table)
    counts = {"structures": COUNTS, "directions": DIRECTIONS}
    arguments.output.write_text(json.dumps({**counts, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
