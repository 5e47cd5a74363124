"""What a recorded training step gains and costs, and what memory a batch computed in parts needs.

    python benchmarks/recorded_step.py recorded_step.json --architectures schnet --probes 1 2

Loss and gradient of a batch, by autograd (eager) and recorded, over the eager E-F step; recorded batches are filled up
to the size that a training on the same data would use. ``--size real`` measures potentials of the size that people
train. Recording takes minutes the first time. Then peak memory and time of one large batch for each number of parts.
With ``--starts`` also the first steps of a training in fresh processes: eager, compiled with an empty cache, and
compiled with the cache that this has filled. ``hessgnn bench show`` prints the tables again.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from hessgnn_bench.conditions import Conditions
from hessgnn_bench.experiment import Experiment, Pieces, Work
from hessgnn_bench.report import Comparison, Report, Starts
from hessgnn_bench.starts import measure_starts
from hessgnn_bench.workload import REAL, Workload
from rich.console import Console

from hessgnn.data.loader import Loader
from hessgnn.data.padding import Size
from hessgnn.data.store.store import Store
from hessgnn.errors import TrainingError
from hessgnn.training.build import build_buckets
from hessgnn.training.loss import Loss, Weights
from hessgnn.training.loss_config import LossConfig
from hessgnn.training.part import Part
from hessgnn.training.recorded import RecordedStep
from hessgnn.training.step import EagerStep

BASELINE = "E-F, eager"


def problem(workload: Workload, n_probes: int) -> tuple[Loss, Part]:
    """The loss and what it is computed from."""
    loss = Loss(LossConfig.model_validate({"probes": {"number": max(n_probes, 1)}}))
    weights = Weights(loss.config.forces, loss.config.hessian if n_probes else 0.0)
    (part,) = loss.parts(workload.batch, weights, torch.Generator().manual_seed(0))
    return loss, part


def eager(workload: Workload, n_probes: int) -> Work:
    """Loss and gradient by autograd."""
    loss, part = problem(workload, n_probes)
    return partial(_fresh, EagerStep(loss, workload.build()), [part])


def recorded(workload: Workload, n_probes: int, how: str, console: Console) -> Work | None:
    """The same from a record, or nothing where the potential refuses itself."""
    potential, store = workload.build(), Store.open(workload.data)
    loss, part = problem(workload, n_probes)
    triplets = potential.triplet_cutoff
    loader = Loader(store, store.indices("train"), potential.cutoff, 1, torch.float32, triplet_cutoff=triplets)
    buckets = build_buckets(potential, loader, workload.batch_size)
    own = Size.of(part.batch, by_element=potential.sorts_elements)
    filled, start = buckets.for_size(own).n_edges / own.n_edges - 1, time.perf_counter()
    step = RecordedStep(loss, potential, buckets, how)  # type: ignore[arg-type]
    try:
        step(part)
        step(part)
    except TrainingError as error:
        console.print(str(error), markup=False)
        return None
    seconds = time.perf_counter() - start
    console.print(f"{workload.architecture}, K={n_probes}: {how} in {seconds:.0f} s, {filled:.0%} filler edges")
    return partial(_fresh, step, [part])


def in_parts(workload: Workload, number: int) -> Work:
    """Loss and gradient of two probes in a number of parts."""
    loss, part = problem(workload, 2)
    return partial(_fresh, EagerStep(loss, workload.build()), part.split(number))


def _fresh(step: EagerStep, parts: list[Part]) -> None:
    for parameter in step.trained.values():
        parameter.grad = None
    for part in parts:
        step(part)


def gains(workload: Workload, probes: list[int], how: list[str], repeats: int, console: Console) -> Experiment:
    """Eager and recorded steps side by side."""
    work: dict[str, Work] = {}
    for n_probes in dict.fromkeys([0, *probes]):
        name = f"E-F-H, K={n_probes}" if n_probes else "E-F"
        work[f"{name}, eager"] = eager(workload, n_probes)
        for kind in how:
            if (step := recorded(workload, n_probes, kind, console)) is not None:
                work[f"{name}, {kind}"] = step
    pieces: dict[str, Callable[[], Work]] = {name: partial(_ready, step) for name, step in work.items()}
    title = f"{workload.architecture}: loss and gradient"
    return Experiment(title, lambda: pieces, BASELINE, workload.batch_size, repeats, facts=workload.facts())


def _ready(step: Work) -> Work:
    return step


def divisions(workload: Workload, numbers: tuple[int, ...]) -> Pieces:
    """A batch in parts."""
    return {_parts(number): partial(in_parts, workload, number) for number in numbers}


def _parts(number: int) -> str:
    return f"{number} part{'s' * (number > 1)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="JSON file")
    parser.add_argument("--architectures", nargs="+", default=["schnet", "nequip", "ani"])
    parser.add_argument("--probes", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--how", nargs="*", default=["compiled"], choices=["traced", "compiled", "captured"])
    parser.add_argument("--size", choices=["small", "real"], default="small", help="of the potentials")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--parts", type=int, nargs="*", default=[1, 2, 4])
    parser.add_argument("--parts-batch-size", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--starts", nargs="*", default=[], help="architectures whose starts are measured, K=1")
    parser.add_argument("--start-repeats", type=int, default=3, help="of the eager and the second start")
    options = parser.parse_args()
    console, conditions = Console(), Conditions.prepare()
    comparisons: list[Comparison] = []
    starts: list[Starts] = []
    settings = {name: getattr(options, name) for name in ("repeats", "size", "start_repeats")}
    report = Report(verb="recorded_step", settings=settings, conditions=conditions)

    def write() -> None:
        report.model_copy(update={"comparisons": comparisons, "starts": starts}).write(options.output)

    def keep(experiment: Experiment, *, memory: bool) -> None:
        comparisons.append(experiment.measure(conditions, memory=memory))
        console.print(comparisons[-1].table())
        write()

    for name in options.starts:
        settings = REAL[name] if options.size == "real" else {}
        workload = Workload(name, batch_size=options.batch_size, device=conditions.device, settings=settings)
        starts.append(measure_starts(workload, 1, options.start_repeats))
        console.print(starts[-1].table())
        write()
    for name in options.architectures:
        settings = REAL[name] if options.size == "real" else {}
        if options.how:
            workload = Workload(name, batch_size=options.batch_size, device=conditions.device, settings=settings)
            keep(gains(workload, options.probes, options.how, options.repeats, console), memory=False)
        if options.parts:
            large = Workload(name, batch_size=options.parts_batch_size, device=conditions.device, settings=settings)
            pieces, numbers = divisions, tuple(options.parts)
            title = f"{name}: one batch in parts, K=2"
            experiment = Experiment(title, partial(pieces, large, numbers), _parts(numbers[0]), large.batch_size, 5)
            keep(experiment, memory=True)


if __name__ == "__main__":
    main()
