"""Time of ANI's training steps with our environment vectors over torchani's, interleaved.

    python benchmarks/ani_environment.py ani_environment.json

Decides whether ``hessgnn/potentials/aev.py`` pays: its slopes and curvatures are written down, torchani's are left to
autograd. Both give the same numbers (``tests/potentials``). ``hessgnn bench show`` prints the tables again.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from rich.console import Console

from hessgnn.cost.conditions import Conditions
from hessgnn.cost.experiment import Experiment
from hessgnn.cost.plain import Undeclared
from hessgnn.cost.report import Report
from hessgnn.cost.timing import TrainingStep
from hessgnn.cost.workload import Workload
from hessgnn.training.config import LossConfig, ProbeConfig


def step(workload: Workload, n_probes: int, *, torchanis: bool) -> TrainingStep:
    """Torchani's code serves when nobody says how many derivatives will be taken."""
    potential = Undeclared(workload.build()) if torchanis else workload.build()
    probes = ProbeConfig(number=max(1, n_probes))
    return TrainingStep(potential, workload.batch, LossConfig(hessian=0.09 if n_probes else 0.0, probes=probes))


def experiment(workload: Workload, n_probes: int, repeats: int) -> Experiment:
    """One kind of step with either."""
    pieces = {
        "ours": partial(step, workload, n_probes, torchanis=False),
        "torchani's": partial(step, workload, n_probes, torchanis=True),
    }
    return Experiment(
        title=f"E-F-H, K={n_probes}" if n_probes else "E-F",
        pieces=lambda: pieces,
        baseline="torchani's",
        molecules=workload.batch_size,
        repeats=repeats,
        facts=workload.facts(),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="JSON file")
    parser.add_argument("--repeats", type=int, default=25)
    options = parser.parse_args()
    conditions, workload = Conditions.prepare(), Workload("ani")
    experiments = [experiment(workload, n_probes, options.repeats) for n_probes in (0, 1, 2, 4)]
    comparisons = [one.measure(conditions) for one in experiments]
    for comparison in comparisons:
        Console().print(comparison.table())
    settings = {"repeats": options.repeats, "data": workload.data}
    Report(verb="ani_environment", settings=settings, conditions=conditions, comparisons=comparisons).write(
        options.output
    )


if __name__ == "__main__":
    main()
