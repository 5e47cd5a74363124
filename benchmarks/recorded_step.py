"""What a recorded training step gains and costs, and what memory a batch computed in parts needs.

    python benchmarks/recorded_step.py recorded_step.json --how traced compiled

Prints seconds to record and the time of loss and gradient over the eager step's, interleaved; then peak memory and
time for each number of parts, each in a process of its own. Ratios hold on one machine only.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from hessgnn.benchmark.timing import interleaved

import hessgnn
from hessgnn.data.loader import Loader
from hessgnn.data.padding import Buckets
from hessgnn.data.store import Store
from hessgnn.errors import TrainingError
from hessgnn.training.config import LossConfig
from hessgnn.training.loss import Loss, Weights
from hessgnn.training.step import EagerStep, RecordedStep


def prepare(name: str, n_probes: int, batch_size: int) -> tuple[hessgnn.Potential, Loader, Loss, Weights]:
    torch.manual_seed(0)
    store, potential = Store.open("rtp-mini"), hessgnn.create(name)
    loader = Loader(store, store.indices("nms"), potential.cutoff, batch_size, torch.float32, seed=0)
    loss = Loss(LossConfig.model_validate({"probes": {"number": max(n_probes, 1)}}))
    return potential, loader, loss, Weights(0.30, 0.09 if n_probes else 0.0)


def gains(name: str, n_probes: int, how: list[str], batch_size: int, repeats: int) -> list[dict[str, object]]:
    """Eager and recorded steps on the same batches."""
    potential, loader, loss, weights = prepare(name, n_probes, batch_size)
    n_atoms = [len(s.numbers) for s in loader.structures]
    buckets = Buckets.of(n_atoms, [edge_index.shape[1] for edge_index, _ in loader.edges], batch_size)
    (part,) = loss.parts(loader.batch(0), weights, torch.Generator().manual_seed(0))
    work: dict[str, Callable[[], object]] = {}
    rows: list[dict[str, object]] = []
    for kind in ["eager", *how]:
        step = EagerStep(loss, potential) if kind == "eager" else RecordedStep(loss, potential, buckets, kind)  # type: ignore[arg-type]
        start = time.perf_counter()
        row: dict[str, object] = {"potential": name, "probes": n_probes, "how": kind}
        try:
            step(part)
            step(part)
            row["seconds to record"] = time.perf_counter() - start
            work[kind] = lambda step=step: step(part)  # type: ignore[misc]
        except TrainingError as error:
            row["refused"] = str(error)
        rows.append(row)
    times = interleaved(work, repeats)
    for row in rows:
        if row["how"] in times:
            taken = times[str(row["how"])]
            row |= {"ms": 1e3 * taken.median, "over eager": taken.quartiles_over(times["eager"])}
    return rows


def one_child(name: str, number: int, batch_size: int, repeats: int) -> None:
    """Peak memory before and after steps in parts, MiB, and the median time, ms."""
    potential, loader, loss, weights = prepare(name, 2, batch_size)
    step, batch = EagerStep(loss, potential), loader.batch(0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    def work() -> None:
        for part in loss.parts(batch, weights, torch.Generator().manual_seed(0), number):
            step(part)

    median = interleaved({"step": work}, repeats)["step"].median
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"potential": name, "parts": number, "MiB": peak - before, "ms": 1e3 * median}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="JSON file")
    parser.add_argument("--architectures", nargs="+", default=["schnet", "nequip", "ani"])
    parser.add_argument("--probes", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--how", nargs="*", default=["traced", "compiled"], choices=["traced", "compiled", "captured"])
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--parts", type=int, nargs="*", default=[1, 2, 4])
    parser.add_argument("--parts-batch-size", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        one_child(options.child[0], int(options.child[1]), options.parts_batch_size, options.repeats)
        return
    rows: list[dict[str, object]] = []
    for name in options.architectures:
        for n_probes in options.probes if options.how else []:
            for row in gains(name, n_probes, options.how, options.batch_size, options.repeats):
                rows.append(row)
                print(row, flush=True)
        for number in options.parts:
            command = [sys.executable, __file__, str(options.output), "--child", name, str(number)]
            command += ["--parts-batch-size", str(options.parts_batch_size), "--repeats", str(min(options.repeats, 5))]
            rows.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
            print(rows[-1], flush=True)
    result = {"torch": torch.__version__, "threads": torch.get_num_threads(), "rows": rows}
    options.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
