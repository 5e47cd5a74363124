"""Strong scaling of the training step over threads and processes on one machine, and what a step is spent on.

    python benchmarks/scaling.py benchmarks/results/scaling-cpu.json

Potentials have the sizes that people train. Each layout (processes × threads) is a group of processes that is started
once, as torchrun starts them, on gloo; layouts take turns, so that only one group computes at a time. A step is that
of a run: batch, probes, reference products, gradient, sum over the processes, update and average. Four times are
taken inside it: making the batch, probes with reference products (targets), the exchange of gradients and errors, and
waiting for a slower process before that. Beside one process also stands one whose batches a worker makes ahead.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from hessgnn_bench.conditions import Conditions
from hessgnn_bench.options import Help
from hessgnn_bench.output import output_file
from hessgnn_bench.workload import REAL

from hessgnn.errors import UserError
from hessgnn.runtime.files import write_text
from hessgnn.runtime.machine import keep_freed_memory
from hessgnn.training.build import Setup, build
from hessgnn.training.config import RunConfig
from hessgnn.training.distributed import Ranks

KINDS = {"E-F": 0.0, "E-F-H": 0.09}
"""Training regimes and their weight of the Hessian, Å⁴; one Rademacher product a step."""

PARTS = ("loader", "targets", "exchange")
"""What is timed inside a step."""

Seconds = dict[str, float]


class Layout(NamedTuple):
    """How many processes share each batch, the threads of each, and its workers that make batches ahead."""

    processes: int
    threads: int
    workers: int = 0

    def __str__(self) -> str:
        text = f"{self.processes} process{'es' * (self.processes > 1)} × {self.threads}"
        return text + f", {self.workers} worker" * (self.workers > 0)


class Piece(NamedTuple):
    """What is trained: a potential, the structures in a batch, and the labels."""

    architecture: str
    batch_size: int
    kind: str


LAYOUTS = (Layout(1, 1), Layout(1, 2), Layout(2, 1), Layout(1, 1, workers=1))


class Clock:
    """Adds up the seconds that functions take."""

    def __init__(self) -> None:
        self.seconds: Seconds = {}

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function with its time added to that of ``name``."""

        def call(*args: Any, **options: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args, **options)
            finally:
                self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

        return call


class Trained:
    """A run, step by step, with the times of its parts."""

    def __init__(self, piece: Piece, layout: Layout, data: str) -> None:
        self.setup, self.clock, self.step = self._build(piece, layout, data), Clock(), 0
        step, timed = self.setup.step, self.clock.timed
        loader = step.streams.first.loader
        loader.batch = timed("loader", loader.batch)  # type: ignore[method-assign]
        step.loss.divide = timed("targets", step.loss.divide)  # type: ignore[method-assign]
        object.__setattr__(step.ranks, "joined", timed("exchange", step.ranks.joined))

    def __call__(self, steps: int) -> Seconds:
        """Take some steps; seconds of one, in all and of its parts."""
        self.clock.seconds.clear()
        start = time.perf_counter()
        for _ in range(steps):
            self.setup.step(self.step)
            self.step += 1
        seconds = {"step": time.perf_counter() - start} | dict.fromkeys(PARTS, 0.0) | self.clock.seconds
        return {name: value / steps for name, value in seconds.items()}

    def _build(self, piece: Piece, layout: Layout, data: str) -> Setup:
        config: dict[str, Any] = {
            "potential": {"name": piece.architecture, **REAL[piece.architecture]},
            "data": {"path": data},
            "loss": {"hessian": KINDS[piece.kind], "probes": {"kind": "rademacher", "number": 1, "every": 1}},
            "training": {
                "batch_size": piece.batch_size,
                "device": "cpu",
                "threads": layout.threads,
                "workers": layout.workers,
                "schedule": {"lr": 1e-6},  # so small that the weights stay sound
            },
        }
        return build(RunConfig.model_validate(config))


def serve(pipe: Connection, layout: Layout, rank: int, meeting: str, data: str) -> None:
    """Take the steps that are asked for, ``(piece, steps)``, until there is nothing; in a process of its own."""
    torch.set_num_threads(layout.threads)
    keep_freed_memory()  # as ``hessgnn train`` does
    if layout.processes > 1:
        dist.init_process_group("gloo", f"file://{meeting}", world_size=layout.processes, rank=rank)
    assert Ranks.here().number == layout.processes
    made: dict[Piece, Trained] = {}
    while (asked := pipe.recv()) is not None:
        piece, steps = asked
        try:
            if piece not in made:
                made[piece] = Trained(piece, layout, data)
            pipe.send(made[piece](steps))
        except UserError as error:
            pipe.send(str(error))
    for trained in made.values():
        trained.setup.loader.close()
    if layout.processes > 1:
        dist.destroy_process_group()


class Group:
    """The processes of a layout, which wait while others compute."""

    def __init__(self, pipes: Sequence[Connection]) -> None:
        self.pipes = pipes

    def __call__(self, piece: Piece, steps: int) -> Seconds:
        """Seconds of a step: of the slowest process; of the exchange, that of the last one to arrive."""
        for pipe in self.pipes:
            pipe.send((piece, steps))
        found = [pipe.recv() for pipe in self.pipes]
        for one in found:
            if isinstance(one, str):
                raise SystemExit(one)
        seconds = {name: max(one[name] for one in found) for name in ("step", "loader", "targets")}
        exchange = [one["exchange"] for one in found]
        return seconds | {"exchange": min(exchange), "waiting": max(exchange) - min(exchange)}


@contextmanager
def group(layout: Layout, data: str) -> Iterator[Group]:
    """Start the processes of a layout, and end them."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        pipes, processes = [], []
        for rank in range(layout.processes):
            own, other = context.Pipe()
            arguments = (other, layout, rank, f"{folder}/meeting", data)
            processes.append(context.Process(target=serve, args=arguments))  # no daemon: it has workers of its own
            processes[-1].start()
            other.close()
            pipes.append(own)
        try:
            yield Group(pipes)
            for pipe in pipes:
                pipe.send(None)
            for process in processes:
                process.join(60)
        finally:
            for process in processes:
                if process.is_alive():
                    process.terminate()


def measure(
    piece: Piece, layouts: Sequence[Layout], groups: Sequence[Group], repeats: int, seconds: float
) -> dict[str, list[Seconds]]:
    """Each repeat of each layout, in turn; a turn has as many steps as one process takes in the given seconds."""
    for each in groups:
        each(piece, 2)  # builds the run
    steps = max(1, math.ceil(seconds / groups[0](piece, 2)["step"]))
    found: dict[str, list[Seconds]] = {str(layout): [] for layout in layouts}
    for _ in range(repeats):
        for layout, each in zip(layouts, groups, strict=True):
            found[str(layout)].append(each(piece, steps))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=Help)
    parser.add_argument("output", type=output_file, help="JSON file")
    parser.add_argument("--architectures", nargs="+", default=list(REAL), choices=list(REAL), help="names")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[32, 128], help="of the joint batch")
    parser.add_argument("--repeats", type=int, default=9, help="turns")
    parser.add_argument("--seconds", type=float, default=1.0, help="of steps of one process in each turn, at least")
    parser.add_argument("--data", default="rtp-mini", help="a store, or the name of a bundled one")
    options = parser.parse_args()
    conditions = Conditions.prepare("cpu")
    settings = {name: getattr(options, name) for name in ("repeats", "seconds", "data")}
    record: dict[str, Any] = {"settings": settings, "conditions": conditions.model_dump(mode="json"), "results": []}
    for architecture in options.architectures:
        for batch_size in options.batch_sizes:
            for kind in KINDS:
                piece = Piece(architecture, batch_size, kind)
                # New processes for each piece: what another has left in memory does not count.
                with ExitStack() as stack:
                    groups = [stack.enter_context(group(layout, options.data)) for layout in LAYOUTS]
                    found = measure(piece, LAYOUTS, groups, options.repeats, options.seconds)
                record["results"].append({**piece._asdict(), "layouts": found})
                medians = {name: statistics.median(one["step"] for one in turns) for name, turns in found.items()}
                print(*piece, {name: f"{1e3 * value:.1f} ms" for name, value in medians.items()}, flush=True)
                write_text(options.output, json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
