"""Measuring the balance of the losses as a job of the sweep."""

from __future__ import annotations

from hessgnn.errors import UserError
from hessgnn.experiments.job import Job, Outcome
from hessgnn.runtime.worker import Link
from hessgnn.training.balance import balanced_weight


def weigh(job: Job, link: Link) -> Outcome:  # noqa: ARG001
    """Measure the Hessian weight that balances the losses.

    Parameters
    ----------
    job
        A run that is not trained.
    link
        Nothing is reported.

    Returns
    -------
    Outcome
        With the weight, Å⁴, as its score.
    """
    try:
        return Outcome(balanced_weight(job.config))
    except UserError as error:
        return Outcome(None, reason=str(error))
