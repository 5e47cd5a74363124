"""What a training step takes by how long OpenMP's threads wait busily, on a quiet machine and on a busy one.

    python benchmarks/waiting_threads.py benchmarks/results/waiting-threads-cpu.json

Each measurement is a process of its own, since this is read once, when torch is loaded. Busy: as many processes as
there are cores compute without end beside it. The ways take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch  # noqa: F401  # isort: skip  # before hessgnn, which would set what is measured here
from hessgnn_bench.conditions import Conditions
from hessgnn_bench.steps import TrainingStep
from hessgnn_bench.workload import Workload

from hessgnn.runtime.files import write_text
from hessgnn.runtime.machine import SPINS
from hessgnn.runtime.processes import Pool
from hessgnn.runtime.worker import Link
from hessgnn.training.loss_config import LossConfig

WAYS: dict[str, dict[str, str]] = {
    "default": {},
    f"{SPINS:,} turns": {"GOMP_SPINCOUNT": str(SPINS)},
    "1,000 turns": {"GOMP_SPINCOUNT": "1000"},
    "asleep at once": {"OMP_WAIT_POLICY": "PASSIVE"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
"""What is set in the environment."""


def measure(architecture: str, batch_size: int, steps: int, seconds: float) -> None:
    """Print the seconds of each step; in a process of its own."""
    Conditions.prepare("cpu")
    workload = Workload(architecture, batch_size=batch_size)
    step = TrainingStep(workload.build(), workload.batch, LossConfig())
    times, begun = [], time.perf_counter()
    while len(times) < steps + 2 and time.perf_counter() - begun < seconds:
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    print(json.dumps(times[2:] or times))


def in_process(arguments: list[str], settings: dict[str, str]) -> list[float]:
    """Run :func:`measure` with settings in its environment."""
    others = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    command = [sys.executable, __file__, "--measure", *arguments]
    found = subprocess.run(command, env={**others, **settings}, capture_output=True, text=True, check=True)
    return list(json.loads(found.stdout.splitlines()[-1]))


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """Let so many processes compute without end."""
    pool = Pool(processes, threads=1, grace=0.0)
    for _ in range(processes):
        pool.submit(spin)
    try:
        yield
    finally:
        pool.stop()


def spin(_link: Link) -> None:
    """Compute without end."""
    while True:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, nargs="?", help="JSON file")
    parser.add_argument("--architectures", nargs="+", default=["ani", "schnet", "nequip"])
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=10.0, help="at most, of one measurement")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--measure", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        architecture, batch_size, steps, seconds = options.measure
        measure(architecture, int(batch_size), int(steps), float(seconds))
        return
    conditions = Conditions.prepare("cpu")
    results: dict[str, Any] = {}
    for state, others in (("quiet", 0), ("busy", conditions.threads)):
        with busy(others):
            for architecture in options.architectures:
                ask = [architecture, str(options.batch_size), str(options.steps), str(options.seconds)]
                found: dict[str, list[float]] = {way: [] for way in WAYS}
                for _ in range(options.repeats):
                    for way, medians in found.items():
                        medians.append(statistics.median(in_process(ask, WAYS[way])))
                results.setdefault(architecture, {})[state] = found
                print(architecture, state, {way: f"{1e3 * statistics.median(v):.1f} ms" for way, v in found.items()})
    record = {
        "settings": {"batch_size": options.batch_size, "steps": options.steps, "repeats": options.repeats},
        "conditions": conditions.model_dump(mode="json"),
        "results": results,
    }
    write_text(options.output, json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
