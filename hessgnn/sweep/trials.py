"""Every trial as a row: what ``trials.csv`` holds, and what the report and the leaderboard draw."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hessgnn.runtime.files import write_text
from hessgnn.sweep.config import SweepConfig
from hessgnn.sweep.trial_queue import TrialQueue, attempts_of, is_open, reason_of
from hessgnn.sweep.tuning import BASELINE, PRODUCTS, Tuning, describe_state, device_seconds_of, kind_of


@dataclass(frozen=True)
class TrialRow:
    """A finished trial."""

    architecture: str
    trial: int
    """0 is E-F alone."""
    kind: str
    regime: str
    values: dict[str, Any]
    score: float | None
    """Relative to E-F alone."""
    device_seconds: float
    products: int
    attempts: int
    state: str
    reason: str | None


def baseline_key(architecture: str) -> str:
    """Key of the trial that is E-F alone, among the fixed work."""
    return f"baseline {architecture}"


def trial_rows(config: SweepConfig, architecture: str, works: TrialQueue, tuning: Tuning) -> list[TrialRow]:
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
    list of TrialRow
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
) -> TrialRow:
    return TrialRow(
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


def write_trials(rows: Sequence[TrialRow], config: SweepConfig, path: Path) -> None:
    """Write the trials as CSV.

    Parameters
    ----------
    rows
        From :func:`trial_rows`.
    config
        The sweep: its space gives columns.
    path
        The file.
    """
    text = io.StringIO()
    columns = ["architecture", "trial", "kind", "regime", *config.space, "score", "device_seconds", "products"]
    columns += ["attempts", "state", "reason"]
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        fields = {name: getattr(row, name) for name in columns if name not in config.space}
        writer.writerow(fields | row.values)
    write_text(path, text.getvalue())
