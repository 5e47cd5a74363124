"""The balance of the losses: the Hessian weight that makes the Hessian term as large as that of the forces."""

from __future__ import annotations

import statistics

import torch

from hessgnn.errors import TrainingError, UserError
from hessgnn.experiments.job import Job, JobResult
from hessgnn.runtime.worker import Link
from hessgnn.training.build import build
from hessgnn.training.config import RunConfig
from hessgnn.training.loss import Weights

BATCHES = 4
"""The first ones of a run."""


def measure_balance(job: Job, link: Link) -> JobResult:  # noqa: ARG001
    """Measure the Hessian weight that balances the losses, as a job of the sweep.

    Parameters
    ----------
    job
        A run that is not trained.
    link
        Nothing is reported.

    Returns
    -------
    JobResult
        With the weight, Å⁴, as its score.
    """
    try:
        return JobResult(balanced_weight(job.config))
    except UserError as error:
        return JobResult(None, reason=str(error))


def balanced_weight(config: RunConfig) -> float:
    """Measure ``w_H = w_F · L_F / L_H`` on the first batches, before a step is taken.

    Parameters
    ----------
    config
        A run; its force weight is the one that the Hessian weight is balanced with.

    Returns
    -------
    float
        Hessian weight, Å⁴.

    Raises
    ------
    TrainingError
        When the losses are not finite or have no labels.
    """
    setup = build(config)
    found: dict[str, list[float]] = {"forces": [], "hessian": []}
    for step in range(BATCHES):
        generator = torch.Generator().manual_seed(step)
        value = setup.loss(setup.potential, setup.loader.batch(step), Weights(1.0, 1.0), generator)
        for name, values in found.items():
            if name in value.terms:
                values.append(value.terms[name])
    setup.loader.close()
    if not all(found.values()):
        raise TrainingError("the first batches lack forces or Hessians, so their losses cannot be balanced")
    forces, hessian = (statistics.fmean(found[name]) for name in ("forces", "hessian"))
    if not 0 < hessian < float("inf") or not 0 < forces < float("inf"):
        raise TrainingError(f"the first losses cannot be balanced: forces {forces:.3g}, Hessian {hessian:.3g}")
    return config.loss.forces * forces / hessian
