"""The results of a sweep's trials, read from its storage."""

from __future__ import annotations

from typing import Any

from hessgnn.leaderboard.trials import TrialResult
from hessgnn.sweep.config import SweepConfig
from hessgnn.sweep.trial_queue import TrialQueue, attempts_of, is_open, reason_of
from hessgnn.sweep.tuning import BASELINE, PRODUCTS, Tuning, describe_state, device_seconds_of, kind_of


def baseline_key(architecture: str) -> str:
    """Key of the trial that is E-F alone, among the fixed work."""
    return f"baseline {architecture}"


def trial_rows(config: SweepConfig, architecture: str, works: TrialQueue, tuning: Tuning) -> list[TrialResult]:
    """List the finished trials of an architecture.

    Parameters
    ----------
    config
        The sweep.
    architecture
        Its label.
    works
        Fixed work of the sweep, which the baseline is part of.
    tuning
        The architecture's other trials.

    Returns
    -------
    list of TrialResult
        In their order; the baseline, E-F alone, first.
    """
    rows = []
    baseline = works.entries().get(baseline_key(architecture))
    if baseline is not None and not is_open(baseline):
        values = {key: value for key, value in tuning.starting_values({}).items() if key != "loss.hessian"}
        score = None if baseline.value is None else 1.0
        rows.append(_row(architecture, BASELINE, "baseline", "E-F", values, score, baseline))
    for number, entry in tuning.trials().items():
        score = entry.values[0] if entry.values else None
        rows.append(_row(architecture, number, kind_of(entry), "E-F-H", entry.params, score, entry))
    return [row for row in rows if row.trial < config.budget.trials]


def _row(
    architecture: str, number: int, kind: str, regime: str, values: dict[str, Any], score: float | None, entry: Any
) -> TrialResult:
    return TrialResult(
        architecture=architecture,
        trial=number,
        kind=kind,
        regime=regime,
        values=values,
        score=score,
        device_seconds=device_seconds_of(entry),
        products=entry.user_attrs.get(PRODUCTS, 0),
        attempts=attempts_of(entry),
        state=describe_state(entry),
        reason=reason_of(entry),
    )
