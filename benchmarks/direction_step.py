"""Which step gives the best products H·v, and do they lie within their stored errors? Prints tables and writes JSON.

Structures of rtp-mini, drawn at random. The reference of a product is Richardson's extrapolation of its central
differences at 0.02, 0.01 and 0.005 Å to sixth order; it is compared with the bundled Hessians too, which are central
differences with a step of 0.0002 Å, rounded to float32. Errors are relative, over all products of a kind:
the root of the mean square of ΔH·v over that of H·v.

    python benchmarks/direction_step.py direction_step.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
from rich.console import Console
from rich.table import Table

from hessgnn.data.directions import Array
from hessgnn.data.store.store import Store
from hessgnn.data.structure import Structure
from hessgnn.factory.labels import LINES, DirectionMaker, DirectionSettings, smoothness_of
from hessgnn.surface.differences import Scheme, Smoothness, product
from hessgnn.surface.engines.tblite import TBLiteEngine, TBLiteSettings

KINDS = ("rademacher", "gaussian", "rows", "modes", "softest")
STEPS: dict[Scheme, tuple[float, ...]] = {
    "central": (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2),
    "one-sided": (5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 1e-3),
}
DIRECTIONS = 2
"""Of each structure."""


def rms(values: Array) -> Array:
    """Root mean square over the components of each product."""
    return np.sqrt(np.square(values).mean(axis=(1, 2)))


def products(
    step: float | None, scheme: Scheme, structures: Sequence[Structure], vectors: Sequence[Array], known: Smoothness
) -> tuple[list[Array], Array]:
    """Products of all structures, and their stored errors."""
    engine = TBLiteEngine(TBLiteSettings())
    found, errors = [], []
    for structure, several in zip(structures, vectors, strict=True):
        assert structure.forces is not None
        at = engine.forces_of(structure.to_atoms()), structure.positions, structure.forces
        made = [product(*at, vector, known, scheme=scheme, step=step) for vector in several]
        found.append(np.array([one for one, _ in made]))
        errors += [error for _, error in made]
    return found, np.array(errors)


def references(structures: Sequence[Structure], vectors: Sequence[Array], known: Smoothness) -> list[Array]:
    """Products of sixth order."""
    found = [products(step, "central", structures, vectors, known)[0] for step in (0.02, 0.01, 0.005)]
    best = []
    for coarse, middle, fine in zip(*found, strict=True):
        fourth = [(4 * better - worse) / 3 for worse, better in ((coarse, middle), (middle, fine))]
        best.append((16 * fourth[1] - fourth[0]) / 15)
    return best


def compare(made: Sequence[Array], errors: Array, truth: Mapping[str, Sequence[Array]]) -> dict[str, float]:
    """Relative errors and the share of products within their stored error, against each reference."""
    found: dict[str, float] = {}
    for key, reference in truth.items():
        off = np.concatenate([rms(one - other) for one, other in zip(made, reference, strict=True)])
        sizes = np.concatenate([rms(one) for one in reference])
        found[f"error{key}"] = float(np.sqrt(np.square(off).sum() / np.square(sizes).sum()))
        found[f"high{key}"] = float(np.percentile(off / sizes, 95))
        found[f"coverage{key}"] = float((off <= errors).mean())
        found[f"ratio{key}"] = float(np.median(off / errors))
    return found


def measure(kind: str, structures: Sequence[Structure]) -> list[dict[str, Any]]:
    """One row for each scheme and step."""
    engine = TBLiteEngine(TBLiteSettings())
    maker = DirectionMaker(DirectionSettings(kind=kind, number=DIRECTIONS), engine, seed=0)
    samples = [structures[k] for k in np.linspace(0, len(structures) - 1, LINES).round().astype(int)]
    known = smoothness_of([maker.measure(structure) for structure in samples])
    vectors = []
    for structure in structures:
        assert structure.forces is not None
        made = maker.directions(structure, known, structure.forces)
        assert made is not None
        vectors.append(made.vectors)
    bundled = [
        (several.reshape(len(several), -1) @ structure.hessian).reshape(several.shape)
        for several, structure in zip(vectors, structures, strict=True)
        if structure.hessian is not None
    ]
    truth, rows = {"": references(structures, vectors, known), "_bundled": bundled}, []
    for scheme in get_args(Scheme):
        for step in (None, *STEPS[scheme]):
            told = {"kind": kind, "scheme": scheme, "auto": step is None, "step": step or known.step(scheme)}
            rows.append(told | compare(*products(step, scheme, structures, vectors, known), truth))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, help="JSON file to write")
    parser.add_argument("--structures", type=int, default=100)
    arguments = parser.parse_args()
    store = Store.open("rtp-mini")
    chosen = np.random.default_rng(0).choice(len(store), arguments.structures, replace=False)
    structures = [store[int(i)] for i in chosen]
    rows = [one for kind in KINDS for one in measure(kind, structures)]
    table = Table("kind", "scheme", "step / Å", "error", "95 %", "covered", "covered, bundled", "error / estimate")
    for one in rows:
        shares = (f"{one[key]:.3f}" for key in ("coverage", "coverage_bundled", "ratio"))
        step = f"{'auto: ' if one['auto'] else ''}{one['step']:.1e}"
        table.add_row(one["kind"], one["scheme"], step, f"{one['error']:.1e}", f"{one['high']:.1e}", *shares)
    Console().print(table)
    record = {"level_of_theory": "GFN2-xTB", "structures": len(structures), "directions": DIRECTIONS, "rows": rows}
    arguments.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
