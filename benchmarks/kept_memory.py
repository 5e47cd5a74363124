"""What a run of a sweep gains when its process keeps freed memory, and what memory that takes.

    python benchmarks/kept_memory.py benchmarks/results/kept-memory-cpu.json

Each run is trained with Hessians and judged on all frames in a process of its own, as workers do; as many are done at
a time as workers would. Rounds with and without kept memory take turns.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from hessgnn_bench.conditions import Conditions

from hessgnn.evaluation.evaluate import evaluate
from hessgnn.runtime.config import load
from hessgnn.runtime.files import find_resource, write_text
from hessgnn.runtime.machine import keep_freed_memory
from hessgnn.runtime.processes import Pool
from hessgnn.runtime.worker import Link
from hessgnn.training.config import RunConfig
from hessgnn.training.trainer import train

CHANGES = ["training.batch_size=16", "validation.every=50", "validation.hessian=probes", "training.device=cpu"]


@dataclass(frozen=True)
class Measured:
    """One run."""

    training: float
    """Seconds."""
    judging: float
    """Seconds."""
    peak: float
    """Resident memory, MiB."""


def run(architecture: str, steps: int, keep: bool, folder: str, _link: Link) -> Measured:
    """Train and judge; in a process of its own."""
    if keep and not keep_freed_memory():
        raise SystemExit("the allocator of this system takes no such setting")
    changes = [*CHANGES, f"potential={{name: {architecture}}}", f"training.steps={steps}"]
    config = load(RunConfig, find_resource("configs/schnet.yaml"), changes)
    start = time.perf_counter()
    train(config, Path(folder))
    trained = time.perf_counter()
    evaluate(folder)
    judged = time.perf_counter()
    return Measured(trained - start, judged - trained, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def side_by_side(architecture: str, steps: int, workers: int, threads: int, keep: bool) -> list[Measured]:
    """A round: a run for each worker, each in a fresh process."""
    with tempfile.TemporaryDirectory() as folder, Pool(workers, threads=threads, keep_memory=keep) as pool:
        jobs = [partial(run, architecture, steps, keep, f"{folder}/{index}") for index in range(workers)]
        return [future.result() for future in [pool.submit(job) for job in jobs]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="JSON file")
    parser.add_argument("--architectures", nargs="+", default=["ani", "schnet", "nequip"])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    conditions = Conditions.prepare("cpu")
    threads = max(1, conditions.threads // options.workers)
    results: dict[str, dict[str, list[dict[str, float]]]] = {}
    for architecture in options.architectures:
        found: dict[str, list[dict[str, float]]] = {"given back": [], "kept": []}
        for _ in range(options.repeats):
            for kind, rows in found.items():
                measured = side_by_side(architecture, options.steps, options.workers, threads, kind == "kept")
                rows += [asdict(one) for one in measured]
        results[architecture] = found
        for what in ("training", "judging", "peak"):
            ratio = statistics.median(
                kept[what] / back[what] for kept, back in zip(found["kept"], found["given back"], strict=True)
            )
            print(f"{architecture}: {what} with kept memory {ratio:.2f} of that without")
    record = {
        "settings": {"steps": options.steps, "workers": options.workers, "threads": threads},
        "conditions": conditions.model_dump(mode="json"),
        "results": results,
    }
    write_text(options.output, json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
