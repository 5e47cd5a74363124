"""Products and seconds for the Hessian of one large structure, compressed and row by row.

    python benchmarks/sparse_hessian.py sparse_hessian.json

A chain (alkane), a periodic layer (graphene) and a periodic box of water of growing size, for each architecture with
its default range and for a short one. "columns" is colouring of columns that share no row (Curtis, Powell, Reid),
"star" the symmetric colouring without substitution; neither is used, see ``hessgnn/curvature/coloring.py``. Seconds are
those of the whole Hessian, colouring included; row by row they are taken from a few products and multiplied (marked ~),
and beyond ``--timed`` atoms only products are counted. "full" says how many of the blocks are inside the range: where
it is 1, colouring cannot save products.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.build import graphene, molecule
from scipy.sparse import csr_array

import hessgnn
from hessgnn.curvature.coloring import _greedy, _overlap, smallest_last
from hessgnn.curvature.hessian import sparse_hessians
from hessgnn.curvature.model import has_edge_hessians
from hessgnn.curvature.probes import all_rows
from hessgnn.curvature.products import Chunks
from hessgnn.curvature.sparse import WORTHWHILE, Columns, Environments, interacting_atoms
from hessgnn.runtime.files import write_text

FORMULAS, EDGES, COLORS = "formulas of each atom", "edges of each atom", "colours"
POTENTIALS: dict[str, tuple[str, dict[str, Any]]] = {
    "ANI, 5.2 Å, 1 layer": ("ani", {}),
    "SchNet, 5 Å, 3 layers": ("schnet", {}),
    "NequIP, 5 Å, default layers": ("nequip", {}),
    "ANI, 3 Å, 1 layer": ("ani", {"cutoff": 3.0, "angular_cutoff": 2.5}),
    "SchNet, 3 Å, 2 layers": ("schnet", {"cutoff": 3.0, "n_interactions": 2}),
    "NequIP, 3 Å, 2 layers": ("nequip", {"cutoff": 3.0, "n_layers": 2}),
}


def alkane(n_carbons: int) -> Atoms:
    """All-trans chain along x."""
    atoms = Atoms()
    for k in range(n_carbons):
        x, side = 1.27 * k, 1 if k % 2 else -1
        atoms += Atoms("CH2", [[x, 0.42 * side, 0], [x, 1.05 * side, 0.89], [x, 1.05 * side, -0.89]])
    atoms += Atoms("H2", [[-0.9, 0.2, 0], [1.27 * (n_carbons - 1) + 0.9, -0.2, 0]])
    return atoms


def layer(n: int) -> Atoms:
    """Graphene of n × n cells, periodic in both directions."""
    atoms = graphene(size=(n, n, 1))
    atoms.center(vacuum=10, axis=2)
    atoms.pbc = [True, True, False]
    return atoms


def water(n: int) -> Atoms:
    """Turned molecules on a grid of n × n × n at the density of the liquid, periodic."""
    edge, generator = 3.107, np.random.default_rng(0)
    atoms = Atoms(cell=3 * [n * edge], pbc=True)
    for place in itertools.product(range(n), repeat=3):
        one = molecule("H2O")
        one.rotate(generator.uniform(0, 360), generator.normal(size=3))
        one.translate(np.array(place) * edge)
        atoms += one
    return atoms


STRUCTURES = {
    "chain": [alkane(n) for n in (20, 60, 166, 333)],
    "layer": [layer(n) for n in (6, 10, 16, 22)],
    "box": [water(n) for n in (3, 4, 5, 7)],
}


def columns(pattern: csr_array) -> int:
    """Colours of columns that share no row, the least of three orders."""
    overlap = _overlap(pattern, np.zeros(pattern.shape[0]))
    by_degree = np.argsort(-np.diff(overlap.indptr), kind="stable")
    orders = (smallest_last(overlap), by_degree, np.arange(pattern.shape[0]))
    return min(int(_greedy(overlap, order).max()) + 1 for order in orders)


def star(pattern: csr_array) -> int:
    """Colours so that no path of four atoms has two only (Gebremedhin, Manne, Pothen, 2005, algorithm 4.1)."""
    near = [set(row) - {k} for k, row in enumerate(np.split(pattern.indices, pattern.indptr[1:-1]))]
    color: dict[int, int] = {}
    for v in smallest_last(pattern).tolist():
        taken = set()
        for w in near[v]:
            if w in color:
                taken.add(color[w])
            for x in near[w] - {v}:
                if x in color and (w not in color or any(color.get(y) == color[w] for y in near[x] - {w})):
                    taken.add(color[x])
        color[v] = next(c for c in itertools.count() if c not in taken)
    return max(color.values()) + 1


def seconds_row_by_row(potential: hessgnn.Potential, batch: hessgnn.Batch, sample: int) -> float:
    """Estimate from a few products, without the force pass."""
    rows, times = all_rows(batch).vectors, [time.perf_counter()]
    for _ in Chunks(size=sample).products(potential, batch, 3 * sample, lambda k: rows[k]):
        times.append(time.perf_counter())  # noqa: PERF401 (the clock is read when a chunk is there)
    return float(np.median(np.diff(times)[1:])) / sample * len(rows)


def measure(name: str, kind: str, atoms: Atoms, options: argparse.Namespace) -> dict[str, Any]:
    torch.manual_seed(0)
    architecture, settings = POTENTIALS[name]
    potential = hessgnn.create(architecture, **settings).to(torch.float64)
    batch = hessgnn.Batch.from_atoms([atoms], potential.cutoff)
    n, hops = len(atoms), potential.n_hops
    assert hops is not None
    pattern = interacting_atoms(batch, 2 * hops)
    compressed = Environments(batch).n_products if hops == 1 else 3 * Columns(batch, hops).coloring.number
    way = FORMULAS if has_edge_hessians(potential) else EDGES if hops == 1 else COLORS
    products = compressed if compressed <= WORTHWHILE * 3 * n else 3 * n
    row = {
        "potential": name,
        "structure": kind,
        "atoms": n,
        "full": pattern.nnz / n**2,
        "row_by_row": 3 * n,
        "columns": 3 * columns(pattern),
        "star": 3 * star(pattern) if n <= options.star and pattern.nnz < 0.8 * n**2 else None,
        "colors": 3 * Columns(batch, hops).coloring.number,
        "way": way,
        "products": None if way == FORMULAS else products,
        "seconds": None,
        "seconds_row_by_row": None,
    }
    if n <= options.timed:
        begin = time.perf_counter()
        sparse_hessians(potential, batch, chunk=options.sample)
        row["seconds"] = time.perf_counter() - begin
        row["seconds_row_by_row"] = seconds_row_by_row(potential, batch, options.sample)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="JSON file")
    parser.add_argument("--potentials", nargs="*", choices=list(POTENTIALS), default=list(POTENTIALS))
    parser.add_argument("--structures", nargs="*", choices=list(STRUCTURES), default=list(STRUCTURES))
    parser.add_argument("--timed", type=int, default=200, help="most atoms that seconds are measured for")
    parser.add_argument("--star", type=int, default=200, help="most atoms that star colouring is tried for")
    parser.add_argument("--sample", type=int, default=4, help="products at a time, for both")
    options = parser.parse_args()
    rows = []
    titles = "potential | structure | atoms | full | row by row | columns | star | colours | way | products | s"
    print(f"| {titles} | s row by row |\n{12 * '|---'}|")
    for name, kind in itertools.product(options.potentials, options.structures):
        for atoms in STRUCTURES[kind]:
            row = measure(name, kind, atoms, options)
            rows.append(row)
            seconds = [f"{row['seconds']:.1f}", f"~{row['seconds_row_by_row']:.1f}"] if row["seconds"] else ["", ""]
            counts = [str(row[key] or "") for key in ("row_by_row", "columns", "star", "colors", "way", "products")]
            print(
                f"| {name} | {kind} | {len(atoms)} | {row['full']:.2f} | {' | '.join([*counts, *seconds])} |",
                flush=True,
            )
            record = {"threads": torch.get_num_threads(), "torch": torch.__version__, "rows": rows}
            write_text(options.output, json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
