"""What a training step with stored Hessian-vector products costs, over one with Rademacher probes.

    python benchmarks/stored_step.py stored_step.json

Two runs of one seed, on structures that have both a Hessian and products, take their steps in turn: one forms the
products of the reference Hessians with random signs, the other one reads stored ones. Batches, potential and number of
products are the same. Processor time of whole steps, loader and update included, and of drawing the probes and finding
the reference products alone. One thread by default, so that other work on the machine changes ratios little.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hessgnn_bench.conditions import Conditions
from hessgnn_bench.options import Help
from hessgnn_bench.output import output_file
from hessgnn_bench.timing import Times
from hessgnn_bench.workload import REAL
from rich.console import Console
from rich.table import Table

from hessgnn.data.directions import Directions
from hessgnn.data.store.store import Store, write_store
from hessgnn.data.structure import Structure
from hessgnn.runtime.files import write_text
from hessgnn.training.build import Setup, build
from hessgnn.training.config import RunConfig
from hessgnn.training.loss import Weights

KINDS = ("rademacher", "stored")


def with_products(structure: Structure, number: int, rng: np.random.Generator) -> Structure:
    """The structure with random signs and their products with its Hessian."""
    if structure.hessian is None:
        return structure
    signs = rng.choice([-1.0, 1.0], size=(number, len(structure), 3))
    products = (signs.reshape(number, -1) @ structure.hessian).reshape(signs.shape)
    return replace(structure, directions=Directions.make(signs, products, "rademacher"))


def write_products(data: str, path: Path, number: int) -> Path:
    """A copy of a store, with products beside each Hessian."""
    store, rng = Store.open(data), np.random.default_rng(0)
    structures = (with_products(store[i], number, rng) for i in range(len(store)))
    write_store(path, structures, level_of_theory=store.attributes.level_of_theory)
    return path


def setup_of(path: Path, architecture: str, kind: str, number: int, batch_size: int, size: str) -> Setup:
    """A run with the products of a kind in every step."""
    settings = REAL[architecture] if size == "real" else {}
    content = {
        "potential": {"name": architecture, **settings},
        "data": {"path": str(path)},
        "loss": {"probes": {"kind": kind, "number": number, "every": 1}},
        "training": {"batch_size": batch_size, "device": "cpu", "threads": torch.get_num_threads(), "clip": 10.0},
    }
    return build(RunConfig.model_validate(content))


def in_turn(work: Mapping[str, Callable[[int], object]], repeats: int, warmup: int) -> dict[str, Times]:
    """Processor seconds of pieces of work, the first of which changes from round to round."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for turn in range(warmup + repeats):
        for name in sorted(work, reverse=bool(turn % 2)):
            start = time.process_time()
            work[name](turn)
            if turn >= warmup:
                seconds[name].append(time.process_time() - start)
    return {name: Times(tuple(values)) for name, values in seconds.items()}


def targets(setup: Setup) -> Callable[[int], object]:
    """Draw the probes of a batch and find their reference products."""
    batches = [setup.loader.batch(number) for number in range(4)]
    loss, weights = setup.loss, Weights.at(0, setup.config.loss)
    return lambda turn: loss.parts(batches[turn % 4], weights, torch.Generator().manual_seed(turn))


def row(times: dict[str, Times], **facts: Any) -> dict[str, Any]:
    """Medians in s, and quartiles of the ratio of steps on the same batch."""
    plain, stored = (times[kind] for kind in KINDS)
    medians = {kind: times[kind].median for kind in KINDS}
    return {**facts, "processor_seconds": medians, "ratio": stored.quartiles_over(plain)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=Help)
    parser.add_argument("output", type=output_file, metavar="FILE.json", help="JSON file to write")
    parser.add_argument("--architectures", nargs="+", default=list(REAL), help="registered names")
    parser.add_argument("--numbers", type=int, nargs="+", default=[1, 2], help="products of a step")
    parser.add_argument("--directions", type=int, default=4, help="stored for each structure")
    parser.add_argument("--data", default="rtp-mini", help="store, or name of a bundled set")
    parser.add_argument("--size", choices=["small", "real"], default="real", help="of the potentials")
    parser.add_argument("--batch-size", type=int, default=32, help="structures")
    parser.add_argument("--repeats", type=int, default=21, help="steps of each kind")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--keep-memory", action="store_true", help="keep freed memory as a run does (glibc)")
    options = parser.parse_args()
    conditions = Conditions.prepare("cpu", options.threads, options.keep_memory)
    console = Console()
    rows: list[dict[str, Any]] = []
    settings = {name: value for name, value in vars(options).items() if name != "output"}

    def keep(times: dict[str, Times], **facts: Any) -> None:
        rows.append(row(times, **facts))
        content = {"conditions": conditions.model_dump(mode="json"), "settings": settings, "rows": rows}
        write_text(options.output, json.dumps(content, indent=1) + "\n")

    with tempfile.TemporaryDirectory() as folder:
        path = write_products(options.data, Path(folder) / "products.h5", options.directions)
        for number in options.numbers:
            for architecture in options.architectures:
                setups = {
                    kind: setup_of(path, architecture, kind, number, options.batch_size, options.size) for kind in KINDS
                }
                steps = {kind: setup.step for kind, setup in setups.items()}
                keep(in_turn(steps, options.repeats, 3), architecture=architecture, products=number, work="step")
            found = {kind: targets(setup) for kind, setup in setups.items()}
            keep(in_turn(found, 10 * options.repeats, 10), architecture="any", products=number, work="targets")
    table = Table("work", "products", *(f"{kind} / ms" for kind in KINDS), "stored / rademacher", "quartiles")
    for one in rows:
        lower, median, upper = one["ratio"]
        seconds = [f"{1e3 * one['processor_seconds'][kind]:.2f}" for kind in KINDS]
        name = f"{one['architecture']} {one['work']}" if one["work"] == "step" else "probes and reference products"
        table.add_row(name, str(one["products"]), *seconds, f"{median:.3f}", f"{lower:.3f}-{upper:.3f}")
    console.print(table)


if __name__ == "__main__":
    main()
