"""What jobs say of each other, and what their steps cost."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from hessgnn.errors import DataError
from hessgnn.experiments.config import StudyConfig
from hessgnn.experiments.job import TIMED, WARMUP, Job, equal_steps, frozen_step_costs, measure_step_costs
from hessgnn.runtime.worker import LocalLink
from hessgnn.training.step import TrainingStep


@pytest.mark.parametrize(
    ("own", "other", "steps"), [(0.02, 0.05, 250), (0.05, 0.02, 40), (0.03, 0.02, 67), (9.0, 1e-3, 1)]
)
def test_a_run_may_take_as_many_steps_as_fit_into_the_time_of_another(own: float, other: float, steps: int) -> None:
    assert equal_steps(100, own, other) == steps


def test_step_costs_are_measured_in_turns_relative_to_energies_and_forces(
    make_study: Callable[..., StudyConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, order = [0.0], []

    def step(self: TrainingStep, number: int) -> None:
        with_hessian = bool(self.config.loss.hessian)
        order.append((number, with_hessian))
        clock[0] += (5.0 if with_hessian else 2.0) + (100.0 if number in (0, WARMUP + 1) else 0.0)  # a busy machine

    monkeypatch.setattr(TrainingStep, "__call__", step)
    monkeypatch.setattr("hessgnn.training.step.time.perf_counter", lambda: clock[0])
    config = make_study(base={"loss": {"probes": {"every": 1}}})
    runs = {regime: config.run_config("schnet", {}, steps=6, seed=1, regime=regime) for regime in config.regimes}
    job = Job(runs["E-F"], tmp_path, "schnet", "", stage="step costs")
    link = LocalLink(lambda report: None, threading.Event())
    result = measure_step_costs(job, link, runs=runs)
    assert result.measured == {"E-F": 1.0, "E-F-H": 2.5}
    assert order[:4] == [(0, False), (0, True), (1, False), (1, True)]
    assert len(order) == 2 * (WARMUP + TIMED)


def test_step_costs_that_cannot_be_measured_have_a_reason(
    make_study: Callable[..., StudyConfig], tmp_path: Path
) -> None:
    run = make_study(base={"loss": {"hessian": 1e38}}).run_config("schnet", {}, steps=6, seed=1)
    link = LocalLink(lambda report: None, threading.Event())
    result = measure_step_costs(Job(run, tmp_path, "schnet", ""), link, runs={"E-F-H": run})
    assert result.score is None
    assert "not finite" in (result.reason or "")


def test_step_costs_are_measured_once_for_each_architecture(tmp_path: Path) -> None:
    path, measured = tmp_path / "data" / "step-costs.json", []

    def measure(*costs: float) -> dict[str, float]:
        measured.append(costs)
        return dict(zip(("E-F", "E-F-H"), costs, strict=True))

    def ask(architecture: str, *costs: float, given: dict | None = None) -> dict:
        return frozen_step_costs(given, architecture, path, partial(measure, *costs))

    assert ask("ani", 1.0, 2.0) == ask("ani", 1.0, 9.0) == {"E-F": 1.0, "E-F-H": 2.0}
    assert ask("schnet", 1.0, 1.5)["E-F-H"] == 1.5
    assert ask("ani", 1.0, 9.0)["E-F-H"] == 2.0
    assert ask("ani", 1.0, 9.0, given={"E-F": 2.0, "E-F-H": 6.0}) == {"E-F": 2.0, "E-F-H": 6.0}
    assert measured == [(1.0, 2.0), (1.0, 1.5)]
    path.write_text("{")
    with pytest.raises(DataError):
        ask("ani", 1.0, 2.0)
