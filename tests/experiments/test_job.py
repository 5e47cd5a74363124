"""What jobs say of each other."""

from __future__ import annotations

import pytest

from hessgnn.evaluation.record import Cost, DataSource, Record
from hessgnn.experiments.job import equal_steps


def record(seconds_per_step: float | None, reason: str | None = None) -> Record:
    return Record(
        entry="it",
        architecture="schnet",
        regime="E-F",
        seed=1,
        status="ok" if reason is None else "failed",
        reason=reason,
        parameters=1,
        data=DataSource(name="d", content_hash="c", split_hash="s", level_of_theory="GFN2-xTB"),
        cost=Cost(seconds_per_step=seconds_per_step),
        weights={},
        metrics={},
        versions={},
        hardware="a machine",
    )


@pytest.mark.parametrize(
    ("own", "other", "steps"), [(0.02, 0.05, 250), (0.05, 0.02, 40), (0.03, 0.02, 67), (9.0, 1e-3, 1)]
)
def test_a_run_may_take_as_many_steps_as_fit_into_the_time_of_another(own: float, other: float, steps: int) -> None:
    assert equal_steps(100, record(own), record(other)) == steps


@pytest.mark.parametrize(
    ("own", "other"),
    [(record(0.1, "NaN"), record(0.1)), (record(0.1), record(0.1, "NaN")), (record(None), record(0.1))],
)
def test_nothing_takes_as_long_as_what_failed(own: Record, other: Record) -> None:
    assert equal_steps(100, own, other) is None
