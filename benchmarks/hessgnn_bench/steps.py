"""What training steps cost: with this package's fast paths, without them, and by the recipes of others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch

from hessgnn.potentials.base import Potential
from hessgnn.training.loss import Weights
from hessgnn.training.loss_config import LossConfig, ProbeConfig
from hessgnn_bench import recipes
from hessgnn_bench.experiment import Experiment, Pieces
from hessgnn_bench.plain import left_to_autograd
from hessgnn_bench.timing import Step, TrainingStep
from hessgnn_bench.workload import Workload

BASELINE = "E-F"
FEW = 3
"""Most repeats of steps on full Hessians, which take seconds."""


def experiments(workload: Workload, probes: Sequence[int], repeats: int) -> list[Experiment]:
    """Steps on a few probes, and steps on full Hessians, which are repeated less often.

    Parameters
    ----------
    workload
        Architecture and batch.
    probes
        Numbers of probes.
    repeats
        Of each step.

    Returns
    -------
    list of Experiment
        Two, each with the E-F step as its baseline.
    """
    on_few = Experiment(
        title=f"{workload.architecture}: training steps",
        pieces=partial(probe_steps, workload, tuple(probes)),
        baseline=BASELINE,
        molecules=workload.batch_size,
        repeats=repeats,
        facts=workload.facts(),
    )
    on_all = replace(
        on_few,
        title=f"{workload.architecture}: training steps on full Hessians",
        pieces=partial(full_steps, workload),
        repeats=min(repeats, FEW),
        warmup=1,
    )
    return [on_few, on_all]


def probe_steps(workload: Workload, probes: tuple[int, ...]) -> Pieces:
    """E-F steps, E-F-H steps on Rademacher probes, and what others do at that price.

    ``reference`` is the same potential left to autograd, with a loop over the probes. Backends differ from two probes
    on.

    Parameters
    ----------
    workload
        Architecture and batch.
    probes
        Numbers of probes.

    Returns
    -------
    Pieces
        One :class:`~hessgnn_bench.timing.Step` each.
    """
    pieces: dict[str, Callable[[], Step]] = {
        BASELINE: partial(_ours, workload, None),
        f"{BASELINE}, reference": partial(_ours, workload, None, plain=True),
    }
    for number in probes:
        for backend in ("loop", "vmap", "replicate") if number > 1 else ("loop",):
            config = ProbeConfig.model_validate({"number": number, "backend": backend})
            pieces[f"E-F-H, K={number}, {backend}"] = partial(_ours, workload, config)
        config = ProbeConfig(number=number, backend="loop")
        pieces[f"E-F-H, K={number}, reference"] = partial(_ours, workload, config, plain=True)
    pieces["HORM's recipe: 2 rows"] = partial(_theirs, workload, recipes.horm)
    pieces["PHL's recipe: 1 Gaussian probe"] = partial(_theirs, workload, recipes.projected)
    return pieces


def full_steps(workload: Workload) -> Pieces:
    """The E-F step and steps on full Hessians, ours and a loop over all rows.

    Parameters
    ----------
    workload
        Architecture and batch.

    Returns
    -------
    Pieces
        One :class:`~hessgnn_bench.timing.Step` each.
    """
    return {
        BASELINE: partial(_ours, workload, None),
        "E-F-H, full, vmap": partial(_ours, workload, ProbeConfig(kind="full")),
        "E-F-H, full, loop of autograd.grad": partial(_theirs, workload, recipes.full),
    }


def _ours(workload: Workload, probes: ProbeConfig | None, *, plain: bool = False) -> Step:
    config = LossConfig(hessian=0.0) if probes is None else LossConfig(probes=probes)
    return TrainingStep(_potential(workload, plain=plain), workload.batch, config)


def _theirs(workload: Workload, recipe: recipes.Recipe) -> Step:
    potential, batch, config = _potential(workload, plain=True), workload.batch, LossConfig()
    weights, generator = Weights(config.forces, config.hessian), torch.Generator().manual_seed(0)
    return Step(potential, lambda: recipe(potential, batch, weights, generator))


def _potential(workload: Workload, *, plain: bool) -> Potential:
    return left_to_autograd(workload.build()) if plain else workload.build()
