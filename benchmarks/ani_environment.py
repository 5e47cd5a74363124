"""ANI by this package's formulas and by torchani's environment vectors left to autograd: steps and full Hessians.

    python benchmarks/ani_environment.py ani_environment.json

Decides whether the formulas of ``hessgnn/potentials/aev.py`` and ``element_networks.py`` pay. Both sides get the same
neighbour list and give the same Hessians, which is checked first. ``hessgnn bench show`` prints the tables again.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from hessgnn_bench.conditions import Conditions
from hessgnn_bench.experiment import Experiment, Work
from hessgnn_bench.plain import ByTorchani
from hessgnn_bench.report import Report
from hessgnn_bench.timing import TrainingStep
from hessgnn_bench.workload import Workload
from rich.console import Console

from hessgnn.curvature.hessian import padded_hessians
from hessgnn.potentials.ani.model import ANI
from hessgnn.training.loss_config import LossConfig, ProbeConfig

OURS, THEIRS = "ours", "torchani's"
BOUND = 1e-4


def potential(workload: Workload, side: str) -> ANI:
    """The same weights on both sides."""
    ours = cast(ANI, workload.build())
    return ours if side == OURS else ByTorchani.of(ours)


def step(workload: Workload, n_probes: int, side: str) -> Work:
    """A training step; without probes, on energies and forces."""
    probes = ProbeConfig(number=max(1, n_probes))
    config = LossConfig(hessian=0.09 if n_probes else 0.0, probes=probes)
    return TrainingStep(potential(workload, side), workload.batch, config)


def hessians(workload: Workload, side: str) -> Work:
    """Full Hessians of the batch."""
    model, batch = potential(workload, side), workload.batch
    return lambda: padded_hessians(model, batch)


def require_agreement(work: Mapping[str, Callable[[], Any]]) -> None:
    """End where the Hessians differ."""
    ours, theirs = work[OURS](), work[THEIRS]()
    if float((ours - theirs).abs().max() / theirs.abs().max()) > BOUND:
        raise SystemExit("the Hessians of both sides differ: nothing is compared")


def experiment(workload: Workload, title: str, piece: Callable[[Workload, str], Work], repeats: int) -> Experiment:
    """One kind of work by either."""
    pieces = {side: partial(piece, workload, side) for side in (OURS, THEIRS)}
    return Experiment(
        title=title,
        pieces=lambda: pieces,
        baseline=THEIRS,
        molecules=workload.batch_size,
        repeats=repeats,
        facts=workload.facts(),
        verify=require_agreement if piece is hessians else None,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="JSON file")
    parser.add_argument("--repeats", type=int, default=25)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    conditions, workload = Conditions.prepare(threads=options.threads), Workload("ani")
    experiments = [experiment(workload, "full Hessians", hessians, options.repeats)]
    for n_probes in (0, 1, 2, 4):
        title = f"E-F-H, K={n_probes}" if n_probes else "E-F"

        def piece(workload: Workload, side: str, n_probes: int = n_probes) -> Work:
            return step(workload, n_probes, side)

        experiments.append(experiment(workload, title, piece, options.repeats))
    comparisons = [one.measure(conditions) for one in experiments]
    for comparison in comparisons:
        Console().print(comparison.table())
    settings = {"repeats": options.repeats, "data": workload.data}
    report = Report(verb="ani_environment", settings=settings, conditions=conditions, comparisons=comparisons)
    report.write(options.output)


if __name__ == "__main__":
    main()
